"""What was observed: one value column, several wide columns, or one column told apart by DVID; and censoring."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .cells import as_label, read_labels, read_numbers
from .columns import Columns
from .events import Event, Events
from .problems import Problem

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Observations:
    """The observed values of a table.

    Attributes:
        values: output to ``(row,)``, NaN where the output was not observed.
        sources: output to the column its values stand in.
        censoring: ``(row,)`` CENS of the row (1 left, -1 right, 0 observed), or None.
        limit: ``(row,)`` LIMIT of the row, NaN where none is given, or None.
        ignored: reason to the 0-based rows whose observation does not count.
    """

    values: Mapping[str, Floats]
    sources: Mapping[str, str]
    censoring: NDArray[np.int64] | None = None
    limit: Floats | None = None
    ignored: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    @property
    def observed(self) -> NDArray[np.bool_]:
        """``(row,)``, True where at least one output was observed."""
        return np.any([np.isfinite(value) for value in self.values.values()], axis=0)


def read_observations(
    frame: pd.DataFrame, columns: Columns, events: Events, problems: list[Problem]
) -> Observations:
    """Read every output; a value counts on rows with EVID 0 and MDV 0.

    Rules: values are numbers; with a single output and neither EVID nor MDV no value is missing; with MDV the value
    of a row that claims one (MDV 0) is there; every DVID label asked for occurs.
    """
    labels = _dvid_labels(frame, columns)
    open_row = (events.code == Event.OBSERVATION) & ~events.no_value
    plan = _plan(frame, columns, labels, open_row, problems)
    values: dict[str, Floats] = {}
    claimed = np.zeros(len(frame), dtype=bool)
    absent = np.ones(len(frame), dtype=bool)
    read = {column: read_numbers(frame[column], problems) for column in {c for c, _ in plan.values()}}
    for name, (column, label) in plan.items():
        here = open_row if label is None else open_row & np.asarray([cell == label for cell in labels], dtype=bool)
        value, missing = read[column]
        values[name] = np.where(here, value, np.nan)
        claimed |= here
        absent &= ~here | missing
    empty = claimed & absent
    if len(values) > 0 and _value_required(columns, events, plan):
        column = ", ".join(dict.fromkeys(c for c, _ in plan.values()))
        for row in np.flatnonzero(empty):
            message = (
                "the observation is missing. Leave the row out, or mark rows without a value by MDV 1 or EVID 2."
            )
            problems.append(Problem("missing observation", message, row=int(row), column=column))
    ignored = {
        "MDV is 1 on an observation row": (events.code == Event.OBSERVATION) & events.no_value,
        "DVID is not one of the outputs": open_row & ~claimed,
        "no value of any output": empty,
    }
    censoring, limit = _read_censoring(frame, columns, values, open_row, problems)
    rows = {reason: np.flatnonzero(mask) for reason, mask in ignored.items() if mask.any()}
    return Observations(values, {name: column for name, (column, _) in plan.items()}, censoring, limit, rows)


def _value_required(columns: Columns, events: Events, plan: Mapping[str, Any]) -> bool:
    """Whether an observation row without any value is an error rather than a record without observation."""
    return columns.get("mdv") is not None or (len(plan) == 1 and not events.flags_missing)


def _dvid_labels(frame: pd.DataFrame, columns: Columns) -> list[Any]:
    name = columns.get("dvid")
    return [None] * len(frame) if name is None else read_labels(frame[name])


def _plan(
    frame: pd.DataFrame, columns: Columns, labels: list[Any], open_row: NDArray[np.bool_], problems: list[Problem]
) -> dict[str, tuple[str, Any]]:
    """Output to (column, DVID label or None)."""
    occurring = dict.fromkeys(label for label, here in zip(labels, open_row, strict=True) if here and label is not None)
    dv, wanted = columns.get("dv"), columns.outputs
    if wanted is not None:
        named = all(isinstance(value, str) and value in frame.columns for value in wanted.values())
        labelled = len(occurring) > 0 and all(as_label(value) in occurring for value in wanted.values())
        if named and labelled and columns.get("dvid") is not None:
            say = f"{list(wanted.values())} are both columns and DVID labels. Rename the columns, or ignore= one of them."
            problems.append(Problem("outputs", say))
            return {}
        if named:
            pooled = len(occurring) > 1 and dv is not None and dv in wanted.values()
            if pooled:
                say = (
                    f"column {dv} holds several outcomes, told apart by {columns.get('dvid')}: "
                    f"{', '.join(map(str, occurring))}. Use outputs={{name: label}}, or ignore= that column to pool them."
                )
                problems.append(Problem("outputs", say))
            return {name: (column, None) for name, column in wanted.items()}
        for name, value in wanted.items():
            if as_label(value) not in occurring:
                have = ", ".join(map(str, occurring)) or "none"
                say = f"output {name!r}: {value!r} is neither a column nor a DVID label; the DVID labels are {have}."
                problems.append(Problem("outputs", say))
    if dv is None:
        say = f"no column DV. Name the observed column(s) with outputs=; the table has {', '.join(map(str, frame))}."
        problems.append(Problem("outputs", say))
        return {}
    if wanted is not None:
        return {name: (dv, as_label(value)) for name, value in wanted.items()}
    if len(occurring) > 1:
        return {label if isinstance(label, str) else f"{dv}{label}": (dv, label) for label in occurring}
    return {dv: (dv, None)}


def _read_censoring(
    frame: pd.DataFrame,
    columns: Columns,
    values: Mapping[str, Floats],
    open_row: NDArray[np.bool_],
    problems: list[Problem],
) -> tuple[NDArray[np.int64] | None, Floats | None]:
    """Read CENS and LIMIT where a value is observed."""
    name, bound = columns.get("cens"), columns.get("limit")
    if name is None:
        return None, None
    flag, _ = read_numbers(frame[name], problems)
    for row in np.flatnonzero(np.isfinite(flag) & ~np.isin(flag, (-1, 0, 1))):
        message = f"{flag[row]:g} is not a CENS: 0 observed, 1 below the value of the row, -1 above it."
        problems.append(Problem("CENS", message, row=int(row), column=name))
    code = np.where(open_row, np.nan_to_num(flag), 0).astype(np.int64)
    limit = read_numbers(frame[bound], problems).value if bound is not None else np.full(len(frame), np.nan)
    count = np.sum([np.isfinite(value) for value in values.values()], axis=0) if values else np.zeros(len(frame))
    for row in np.flatnonzero((code != 0) & (count == 0)):
        message = "CENS without a value: write the limit of quantification in the value column."
        problems.append(Problem("CENS", message, row=int(row), column=name))
    for row in np.flatnonzero((code != 0) & (count > 1)):
        message = "CENS on a row with several observed values: give each value a row of its own."
        problems.append(Problem("CENS", message, row=int(row), column=name))
    value = np.nansum(list(values.values()), axis=0) if values else np.zeros(len(frame))
    wrong = ((code == 1) & (limit >= value)) | ((code == -1) & (limit <= value))
    for row in np.flatnonzero(wrong & (count == 1)):
        side = "below" if code[row] == 1 else "above"
        message = f"LIMIT {limit[row]:g} does not lie {side} the censored value {value[row]:g}."
        problems.append(Problem("LIMIT", message, row=int(row), column=bound))
    if not code.any():
        return None, None
    for row in np.flatnonzero((code != 0) & ~np.isfinite(limit)):
        side, end = ("below", "0 if it cannot be negative") if code[row] == 1 else ("above", "its largest possible value")
        message = f"CENS without LIMIT: the value may lie anywhere {side} {value[row]:g}. Write LIMIT = {end}."
        problems.append(Problem("CENS without LIMIT", message, int(row), name, severity="warning"))
    return code, limit
