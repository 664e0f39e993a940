"""Reading the cells of a column: numbers, labels, and what counts as missing."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .problems import Problem

MISSING_TOKENS = frozenset({"", ".", "na", "n/a", "nan", "<na>", "null", "none"})
"""Texts, in lower case, that stand for a missing cell in NONMEM, R and pandas."""


class Numbers(NamedTuple):
    """A column as numbers: ``value`` (NaN where missing or unreadable) and ``missing``, each ``(row,)``."""

    value: NDArray[np.float64]
    missing: NDArray[np.bool_]


def is_missing(column: pd.Series) -> NDArray[np.bool_]:
    """``(row,)``, True where a cell is empty, NaN, ``.`` or ``NA``."""
    missing = column.isna().to_numpy(dtype=bool)
    if not pd.api.types.is_numeric_dtype(column.dtype):
        tokens = [isinstance(cell, str) and cell.strip().lower() in MISSING_TOKENS for cell in column]
        missing = missing | np.asarray(tokens, dtype=bool)
    return missing


def parse_numbers(column: pd.Series) -> Numbers:
    """Read a column of any dtype as numbers: NaN for every cell that is not one; infinity stays."""
    missing = is_missing(column)
    if pd.api.types.is_numeric_dtype(column.dtype):
        return Numbers(column.to_numpy(dtype=np.float64, na_value=np.nan), missing)
    cells = [np.nan if gone else cell for cell, gone in zip(column, missing, strict=True)]
    value = pd.to_numeric(pd.Series(cells, dtype=object), errors="coerce").to_numpy(np.float64)
    return Numbers(value, missing)


def read_numbers(column: pd.Series, problems: list[Problem]) -> Numbers:
    """Read a column as finite numbers; every other cell that is not missing becomes a problem.

    Args:
        column: ``(row,)``, of any dtype; text is stripped and parsed.
        problems: receives one entry for every cell that is not a finite number.
    """
    value, missing = parse_numbers(column)
    for row in np.flatnonzero(~missing & ~np.isfinite(value)):
        what = "is not finite" if np.isinf(value[row]) else "is not a number"
        message = f"{column.iloc[row]!r} {what}. Write a number, or '.' where the value is missing."
        problems.append(Problem("number", message, row=int(row), column=str(column.name)))
    return Numbers(np.where(np.isfinite(value), value, np.nan), missing)


def read_labels(column: pd.Series) -> list[Any]:
    """Read a column as labels (DVID, CMT, occasions): whole numbers as ints, else text; None if missing.

    ``1``, ``1.0``, ``"1"`` and ``" 1 "`` are the same label.
    """
    return [None if gone else as_label(cell) for cell, gone in zip(column.tolist(), is_missing(column), strict=True)]


def as_label(cell: Any) -> Any:
    """The label that a cell or an argument stands for (see :func:`read_labels`)."""
    if isinstance(cell, str):
        text = cell.strip()
        try:
            number = float(text)
        except ValueError:
            return text
        return int(number) if number.is_integer() else number
    if isinstance(cell, (bool, np.bool_)):
        return bool(cell)
    if isinstance(cell, (float, np.floating)) and float(cell).is_integer():
        return int(cell)
    return cell.item() if isinstance(cell, np.generic) else cell


def read_ids(column: pd.Series) -> list[Any]:
    """Read ids: text stays text (``"01"`` is not ``1``), whole floats become ints; None where missing."""
    ids: list[Any] = []
    for cell, gone in zip(column.tolist(), is_missing(column), strict=True):
        if gone:
            ids.append(None)
        else:
            ids.append(cell.strip() if isinstance(cell, str) else as_label(cell))
    return ids
