"""Whether what the user hands over is a table at all, before its columns are given parts."""

import datetime
import decimal
import numbers
from typing import Any

import numpy as np
import pandas as pd

from nlme_torch.data.table.problems import Problem
from nlme_torch.errors import DataError

_LARGEST = 1023  # bits of a whole number that still is a float
_DATES = (datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64)


def as_frame(frame: Any) -> pd.DataFrame:
    """The user's table with rows numbered from 0 and columns named by text.

    Raises:
        DataError: if it is no pandas data frame.
    """
    if not isinstance(frame, pd.DataFrame):
        raise DataError(
            f"a table is a pandas data frame with one row for each record, not {_kind(frame)}. Make one with "
            "pandas.DataFrame(...), or read a file with Dataset.from_csv(path)."
        )
    own = frame.reset_index(drop=True)
    own.columns = pd.Index([str(name) for name in frame.columns], dtype=object)
    return own


def cell_problems(frame: pd.DataFrame) -> list[Problem]:
    """A problem for the first cell of every column that holds no number and no text (a list, say)."""
    found = []
    for position, name in enumerate(frame.columns):
        column = frame.iloc[:, position]
        if not pd.api.types.is_object_dtype(column.dtype):
            if pd.api.types.is_complex_dtype(column.dtype):
                found.append(Problem("cell", "holds complex numbers. Write real ones.", column=name))
            continue
        for row, cell in enumerate(column):
            large = isinstance(cell, int) and cell.bit_length() > _LARGEST
            if large or not _is_scalar(cell):
                what = "a whole number beyond all floating-point numbers" if large else _kind(cell)
                message = f"holds {what}. Write a number or text, or leave the column out."
                found.append(Problem("cell", message, row=row, column=name))
                break
    return found


def _is_scalar(cell: Any) -> bool:
    if cell is None or cell is pd.NA or cell is pd.NaT or isinstance(cell, (str, bool, np.bool_, *_DATES)):
        return True
    return isinstance(cell, (numbers.Real, decimal.Decimal))


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
