"""Reading the cells of a column: numbers, labels, and what counts as missing."""

import decimal
import math
import numbers
import re
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nlme_torch.data.table.problems import Problem

MISSING_TOKENS = frozenset({"", ".", "na", "n/a", "nan", "<na>", "null", "none"})
"""Texts, in lower case, that stand for a missing cell in NONMEM, R and pandas."""


UNQUANTIFIED = frozenset({"blq", "bloq", "bql", "blloq", "lloq", "loq", "bld", "bdl", "nd", "belowloq", "belowlloq"})
"""Texts, in lower case and without blanks, that stand for a value below the limit of quantification."""

_FORTRAN = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))[dD]([+-]?\d+)$")
_COMMA = re.compile(r"[+-]?\d{1,3}(,\d{3})*(\.\d+)?|[+-]?\d*,\d+")


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
    cells = [np.nan if gone else as_number(cell) for cell, gone in zip(column, missing, strict=True)]
    return Numbers(np.asarray(cells, dtype=np.float64), missing)


def as_number(cell: Any) -> float:
    """The number that a cell holds, NaN if it holds none; 1.5D2 is 150, as Fortran and NONMEM read it."""
    if isinstance(cell, str):
        text = cell.strip()
        if "_" in text:
            return np.nan
        cell = _FORTRAN.sub(r"\1E\2", text)
    elif not isinstance(cell, (numbers.Real, decimal.Decimal, np.bool_)):
        return np.nan
    try:
        return float(cell)
    except ValueError:
        return np.nan
    except OverflowError:  # a whole number beyond the largest float
        return np.inf


def read_numbers(column: pd.Series, problems: list[Problem]) -> Numbers:
    """Read a column as finite numbers; every other cell that is not missing becomes a problem.

    Args:
        column: ``(row,)``, of any dtype; text is stripped and parsed.
        problems: receives one entry for every cell that is not a finite number.
    """
    value, missing = parse_numbers(column)
    for row in np.flatnonzero(~missing & ~np.isfinite(value)):
        cell = column.iloc[row]
        what = "is not finite" if np.isinf(value[row]) else "is not a number"
        shown = (repr(cell) if isinstance(cell, str) else str(cell)) if len(str(cell)) < 60 else f"{str(cell)[:40]}..."
        message = f"{shown} {what}. Write a number, or '.' where the value is missing.{_advice(cell)}"
        problems.append(Problem("number", message, row=int(row), column=str(column.name)))
    return Numbers(np.where(np.isfinite(value), value, np.nan), missing)


def _advice(cell: Any) -> str:
    """What else a cell may want to say, and the argument that makes it heard."""
    if not isinstance(cell, str):
        return " Dates stand in TIME, or in DATE beside it." if hasattr(cell, "year") else ""
    text = cell.strip()
    if _COMMA.fullmatch(text):
        return " If the comma is a decimal point, read the file with decimal=','; if it marks thousands, thousands=','."
    if is_unquantified(text):
        return " If it was below the limit of quantification: blq=."
    return ""


def is_unquantified(text: str) -> bool:
    """Whether a text says that a value lies beyond a limit of quantification: ``<0.5``, ``BLQ``, ``>ULOQ``."""
    return text[:1] in ("<", ">") or text.casefold().replace(" ", "") in UNQUANTIFIED


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
        return text if not math.isfinite(number) else int(number) if number.is_integer() else number
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
