"""Rows that NONMEM leaves out: comments, titles, and what IGNORE and ACCEPT say of the values."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nlme_torch.data.table.cells import as_number, is_missing, parse_numbers
from nlme_torch.data.table.columns import Columns
from nlme_torch.data.table.problems import Problem
from nlme_torch.errors import DataError

_CONDITION = re.compile(
    r"\s*(?P<column>[^\s.=<>/!]+)\s*(?:\.(?P<word>EQN?|NEN?|LT|LE|GT|GE)\.|(?P<sign>==?|/=|!=|<=|>=|<|>))\s*"
    r"(?P<value>.+?)\s*",
    re.IGNORECASE,
)
_SIGNS = {"==": "EQ", "=": "EQ", "/=": "NE", "!=": "NE", "<": "LT", "<=": "LE", ">": "GT", ">=": "GE"}


class LeftOut(NamedTuple):
    """What ``ignore=`` of a file says: a character that lines begin with, conditions on rows, and columns."""

    mark: str | None
    conditions: tuple[str, ...]
    columns: tuple[str, ...]


def leave_out(ignore: str | Sequence[str]) -> LeftOut:
    """Tell NONMEM's IGNORE from columns to leave out.

    Args:
        ignore: a character (``"@"``, ``"#"``, ``"C"``), a condition, a column, or several; in a list a letter is a
            column.

    Raises:
        DataError: more than one character.
    """
    rules = [ignore] if isinstance(ignore, str) else [str(rule) for rule in ignore]
    marks = [rule for rule in rules if len(rule) == 1 and (isinstance(ignore, str) or not rule.isalnum())]
    conditions = tuple(rule for rule in rules if is_condition(rule))
    if len(marks) > 1:
        raise DataError(f"ignore={ignore!r}: lines are left out by one character only; '@' stands for all letters.")
    kept = tuple(rule for rule in rules if rule not in (*conditions, *marks))
    return LeftOut(marks[0] if marks else None, conditions, kept)


def kept_rows(frame: pd.DataFrame, ignore: Sequence[str], accept: str | Sequence[str]) -> NDArray[np.bool_]:
    """``(row,)``, True on the rows that no condition of ``ignore`` and at least one of ``accept``, if any, meets."""
    kept = ~matching_rows(frame, ignore, "ignore")
    return kept & matching_rows(frame, accept, "accept") if len(accept) else kept


def is_condition(text: str) -> bool:
    """Whether a text is a condition such as ``DVID.EQ.2``, ``DVID==2`` or a list of them in brackets."""
    return all(_CONDITION.fullmatch(part) for part in _parts(text)) and bool(text.strip())


def matching_rows(frame: pd.DataFrame, conditions: str | Sequence[str], argument: str) -> NDArray[np.bool_]:
    """Rows for which at least one condition holds, as in NONMEM's IGNORE=(list) and ACCEPT=(list).

    Args:
        frame: the table.
        conditions: one or several, ``"DVID.EQ.2"``, ``"TIME>24"`` or ``"(ID.EQ.3, ID.EQ.5)"``.
        argument: the argument's name, for messages.

    Returns:
        ``(row,)``.

    Raises:
        DataError: a condition cannot be read, or names a column that the table lacks.
    """
    chosen = np.zeros(len(frame), dtype=bool)
    names = {str(name).upper(): position for position, name in enumerate(frame.columns)}
    for text in [conditions] if isinstance(conditions, str) else list(conditions):
        for part in _parts(str(text)):
            found = _CONDITION.fullmatch(part)
            if found is None:
                raise DataError(
                    f"{argument}={text!r}: {part!r} is no condition. Write COLUMN.EQ.VALUE or COLUMN==VALUE."
                )
            if found["column"].upper() not in names:
                have = ", ".join(map(str, frame.columns))
                raise DataError(f"{argument}={text!r}: there is no column {found['column']}; the table has {have}.")
            column = frame.iloc[:, names[found["column"].upper()]]
            chosen |= _holds(column, (found["word"] or _SIGNS[found["sign"]]).upper(), found["value"].strip("'\""))
    return chosen


def _parts(text: str) -> list[str]:
    inner = text.strip()
    if inner.startswith("(") and inner.endswith(")"):
        inner = inner[1:-1]
    return [part for part in inner.split(",") if part.strip()]


def _holds(column: pd.Series, operator: str, value: str) -> NDArray[np.bool_]:
    number, own = as_number(value), parse_numbers(column).value
    if np.isfinite(number):
        with np.errstate(invalid="ignore"):
            compared: dict[str, Any] = {
                "EQ": own == number, "NE": own != number, "LT": own < number, "LE": own <= number, "GT": own > number,
                "GE": own >= number,
            }  # fmt: skip
        return np.asarray(compared[operator.removesuffix("N") if operator in ("EQN", "NEN") else operator])
    if operator not in ("EQ", "NE", "EQN", "NEN"):
        raise DataError(f"{value!r} is no number, and text can only be equal or not.")
    equal = np.asarray([str(cell).strip() == value for cell in column])
    return equal if operator.startswith("EQ") else ~equal


def stray_rows(frame: pd.DataFrame, columns: Columns) -> list[Problem]:
    """A problem for the first row that NONMEM's control stream would have left out: comments and titles."""
    if not len(frame):
        return []
    declared = {*(columns.covariates or ()), *columns.time_varying}
    comment = next((name for name in map(str, frame) if name.upper() == "C" and name not in declared), None)
    if comment is not None:
        marked = np.asarray([isinstance(cell, str) and cell.strip().upper() == "C" for cell in frame[comment]])
        if marked.any():
            message = (
                f"{int(marked.sum())} rows are marked as comments, which NONMEM leaves out with IGNORE=C or IGNORE=@. "
                "Pass ignore='C' to Dataset.from_csv, or drop them from the data frame (if C is a covariate, name it "
                "in covariates=)."
            )
            return [Problem("comment", message, row=int(np.flatnonzero(marked)[0]), column=comment)]
    first = frame.iloc[:, 0]
    for row, (cell, gone) in enumerate(zip(first, is_missing(first), strict=True)):
        text = cell.strip() if isinstance(cell, str) and not gone else ""
        if text.startswith(("#", "@")) or text.upper().startswith("TABLE NO"):
            message = (
                f"the row begins with {text[:20]!r}, as comments and titles do, which NONMEM leaves out. Pass "
                "ignore='#' or ignore='@' to Dataset.from_csv, or drop such rows."
            )
            return [Problem("comment", message, row=row, column=str(frame.columns[0]))]
    name = columns.parts["time"]
    heading = [row for row, cell in enumerate(frame[name]) if isinstance(cell, str) and cell.strip() == name]
    if heading:
        message = "the header stands again in this row. Pass ignore='@' to Dataset.from_csv, or drop the row."
        return [Problem("comment", message, row=heading[0], column=name)]
    return []
