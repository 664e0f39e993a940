"""Clock times and dates: TIME as hours since the subject's first record, as NONMEM reads them."""

import datetime
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from nlme_torch.data.table.cells import as_number, is_missing, read_ids
from nlme_torch.data.table.columns import Columns
from nlme_torch.data.table.problems import Problem

DATE_ORDERS = {"DATE": "mdy", "DAT1": "dmy", "DAT2": "ymd", "DAT3": "ydm"}
"""Columns of dates to the order of month, day and year in them."""

_CLOCK = re.compile(r"(\d{1,3}):(\d{1,2})(?::(\d{1,2}(?:\.\d*)?))?")
_PARTS = re.compile(r"(\d+)[/.-](\d+)[/.-](\d+)")
_LAST_20 = 50  # NONMEM's default: two-digit years above it are of the last century

Moment = tuple[float, float]
"""A day and the hours since its midnight."""


def read_clock(frame: pd.DataFrame, columns: Columns, problems: list[Problem]) -> tuple[pd.DataFrame, Columns]:
    """Turn clock times (``8:30``), dates beside them and time stamps into hours since the subject's first record.

    A table with plain numbers in TIME and without DATE, DAT1, DAT2 or DAT3 is left as it is. With a date, a number in
    TIME is hours since midnight.

    Args:
        frame: the table.
        columns: the parts of its columns.
        problems: receives every cell that is no time or no date.

    Returns:
        The table with numbers in TIME and without its column of dates, and the parts of its columns.
    """
    name, dates = columns.parts["time"], columns.get("date")
    if dates is None and not _has_clock(frame[name]):
        return frame, columns
    moments = [
        _time(cell, gone, row, name, problems)
        for row, (cell, gone) in enumerate(zip(frame[name], is_missing(frame[name]).tolist(), strict=True))
    ]
    if dates is not None:
        moments = _with_dates(frame, moments, name, dates, problems)
    hours = np.full(len(frame), np.nan)
    ids = read_ids(frame[columns.parts["id"]])
    first: Moment | None = None
    for row, moment in enumerate(moments):
        if row == 0 or ids[row] != ids[row - 1]:
            first = None
        if moment is not None:
            first = first or moment
            hours[row] = 24 * (moment[0] - first[0]) + (moment[1] - first[1])
    frame = frame.assign(**{name: hours}).drop(columns=[] if dates is None else [dates])
    return frame, replace(columns, parts={part: column for part, column in columns.parts.items() if part != "date"})


def in_hours(columns: Columns) -> Problem:
    """What is to be known of a table whose times were read by :func:`read_clock`.

    Args:
        columns: the parts of its columns.
    """
    text = (
        "its clock times or dates were read as hours since each subject's first row, so that II, RATE, DUR and all "
        "rates of the model are per hour too. Write numbers for another unit."
    )
    return Problem("time in hours", text, column=columns.parts["time"], severity="warning")


def _has_clock(column: pd.Series) -> bool:
    if pd.api.types.is_datetime64_any_dtype(column.dtype) or pd.api.types.is_timedelta64_dtype(column.dtype):
        return True
    if pd.api.types.is_numeric_dtype(column.dtype):
        return False
    return any(
        isinstance(cell, (datetime.datetime, datetime.time, datetime.timedelta)) or _is_clock(cell) for cell in column
    )


def _is_clock(cell: Any) -> bool:
    return isinstance(cell, str) and (_CLOCK.fullmatch(cell.strip()) is not None or _stamp(cell) is not None)


def _time(cell: Any, gone: bool, row: int, name: str, problems: list[Problem]) -> Moment | None:
    """The day (0 where only a time is given) and the hours of one cell."""
    if gone:
        return None
    if isinstance(cell, datetime.datetime):
        return _moment(cell)
    if isinstance(cell, datetime.time):
        return 0.0, cell.hour + (cell.minute + cell.second / 60) / 60
    if isinstance(cell, str) and (found := _CLOCK.fullmatch(cell.strip())) is not None:
        hour, minute, second = int(found[1]), int(found[2]), float(found[3] or 0)
        if minute < 60 and second < 60:
            return 0.0, (3600 * hour + 60 * minute + second) / 3600
    if isinstance(cell, str) and (stamp := _stamp(cell)) is not None:
        return _moment(stamp)
    if isinstance(cell, datetime.timedelta):
        advice = f"write numbers, such as frame[{name!r}].dt.total_seconds() / 3600 for hours."
        problems.append(Problem("time", f"{str(cell)!r} has no unit: {advice}", row=row, column=name))
        return None
    hours = as_number(cell)
    if np.isfinite(hours):
        return 0.0, hours
    problems.append(Problem("time", f"{cell!r} is no time: write hours, or hh:mm.", row=row, column=name))
    return None


def _stamp(text: str) -> datetime.datetime | None:
    """A date with or without a time, as ISO 8601 writes them (2024-01-31 08:30)."""
    if not re.match(r"\s*\d{4}-\d{2}-\d{2}", text):
        return None
    try:
        return datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        return None


def _moment(stamp: datetime.datetime) -> Moment:
    """A time stamp; one with a time zone in Greenwich's, so that no hour is lost in spring and none counted twice."""
    if stamp.tzinfo is not None:
        stamp = stamp.astimezone(datetime.UTC)
    seconds = 3600 * stamp.hour + 60 * stamp.minute + stamp.second + stamp.microsecond * 1e-6
    return float(stamp.toordinal()), seconds / 3600


def _with_dates(
    frame: pd.DataFrame, moments: Sequence[Moment | None], time: str, dates: str, problems: list[Problem]
) -> list[Moment | None]:
    order = DATE_ORDERS.get(dates.upper(), "")
    found: list[Moment | None] = []
    gone = is_missing(frame[dates])
    for row, (cell, moment) in enumerate(zip(frame[dates], moments, strict=True)):
        day = None if gone[row] else _day(cell, order)
        if day is None:
            what = "the date is missing" if gone[row] else f"{cell!r} is no date in the order {_spoken(order)}"
            advice = f"Mend it, or leave the column out with ignore={dates!r} if {time} needs no date."
            problems.append(Problem("date", f"{what}. {advice}", row=row, column=dates))
        elif moment is not None and (moment[0] or moment[1] >= 24 + 1e-9):
            message = (
                f"beside {dates} it is a time of day, and {frame[time].iloc[row]!r} is none. If it counts from the "
                f"first dose already, leave the date out: ignore={dates!r}."
            )
            problems.append(Problem("time of day", message, row=row, column=time))
        found.append(None if day is None or moment is None else (day, moment[1]))
    return found


def _spoken(order: str) -> str:
    names = {"d": "day", "m": "month", "y": "year"}
    return ", ".join(names[letter] for letter in order or "ymd")


def _day(cell: Any, order: str) -> float | None:
    """The number of a day: of a date by its order, and of a whole number itself."""
    if isinstance(cell, datetime.date):
        return float(cell.toordinal())
    text = str(cell).strip()
    found = _PARTS.fullmatch(text)
    if found is None:
        stamp = _stamp(text)
        number = as_number(cell)
        return float(stamp.toordinal()) if stamp else number if np.isfinite(number) and number % 1 == 0 else None
    if len(found[1]) == 4 and not order.startswith("y"):
        order = "ymd"  # 2024-01-31 says itself what it is
    if not order:
        return None
    part = dict(zip(order, map(int, found.groups()), strict=True))
    written = found[order.index("y") + 1]
    year = part["y"] if len(written) > 2 else part["y"] + (1900 if part["y"] > _LAST_20 else 2000)
    try:
        return float(datetime.date(year, part["m"], part["d"]).toordinal())
    except ValueError:
        return None
