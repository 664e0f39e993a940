"""Censored observations: CENS and LIMIT."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nlme_torch.data.table.cells import read_numbers
from nlme_torch.data.table.columns import Columns
from nlme_torch.data.table.problems import Problem

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Censoring:
    """Which observations are censored.

    Attributes:
        code: ``(row,)``, CENS: 0 observed, 1 the truth lies below the value, -1 above it.
        limit: ``(row,)``, the other end of the interval in which a censored value lies, NaN where none is
            given.
    """

    code: NDArray[np.int64]
    limit: Floats


def read_censoring(
    frame: pd.DataFrame,
    columns: Columns,
    values: Mapping[str, Floats],
    candidates: NDArray[np.bool_],
    problems: list[Problem],
) -> Censoring | None:
    """Read CENS and LIMIT.

    Rules: CENS is -1, 0 or 1; a censored row has exactly one value, the limit of quantification; LIMIT lies
    on the censored side of it. CENS without LIMIT is legal (the interval has no other end) and a warning; so is a limit
    of 0 among positive values.

    Args:
        frame: the table.
        columns: the parts of its columns.
        values: output to ``(row,)`` observed values, NaN where there is none.
        candidates: ``(row,)``, True on rows that may hold an observation; CENS means nothing elsewhere.
        problems: receives what is wrong.

    Returns:
        None where no observation is censored.
    """
    name, bound = columns.get("cens"), columns.get("limit")
    if name is None or not values:
        return None
    flag, _ = read_numbers(frame[name], problems)
    for row in np.flatnonzero(np.isfinite(flag) & ~np.isin(flag, (-1, 0, 1))):
        message = f"{flag[row]:g} is not a CENS: 0 observed, 1 below the row's value, -1 above it."
        problems.append(Problem("CENS", message, int(row), name))
    code = np.where(candidates, np.nan_to_num(flag), 0).astype(np.int64)
    limit = np.full(len(frame), np.nan) if bound is None else read_numbers(frame[bound], problems).value
    stack = np.stack(list(values.values()))
    count, value = np.isfinite(stack).sum(0), np.nansum(stack, axis=0)
    censored = code != 0
    wrong_side = ((code == 1) & (limit >= value)) | ((code == -1) & (limit <= value))
    for row in np.flatnonzero(censored & (count == 0)):
        message = "CENS without a value: write the limit of quantification in the value column."
        problems.append(Problem("CENS without value", message, int(row), name))
    for row in np.flatnonzero(censored & (count > 1)):
        message = "CENS on a row with several observed values: give each value a row of its own."
        problems.append(Problem("CENS", message, int(row), name))
    for row in np.flatnonzero(wrong_side & (count == 1)):
        side = "below" if code[row] == 1 else "above"
        message = f"LIMIT {limit[row]:g} does not lie {side} the censored value {value[row]:g}."
        problems.append(Problem("LIMIT", message, int(row), bound))
    known = stack[np.isfinite(stack) & (code == 0)]
    if len(known) and bool((known > 0).all()):
        for row in np.flatnonzero((code == 1) & (count == 1) & (value == 0)):
            message = "CENS 1 at 0, where all other values are positive. If 0 is not the limit, give it with lloq=."
            problems.append(Problem("CENS at 0", message, int(row), name, severity="warning"))
    for row in np.flatnonzero(censored & (count == 1) & np.isnan(limit)):
        side, other = ("below", "least") if code[row] == 1 else ("above", "greatest")
        message = (
            f"CENS without LIMIT: the truth may lie anywhere {side} {value[row]:g}. If it cannot, write the "
            f"{other} possible value as LIMIT."
        )
        problems.append(Problem("CENS without LIMIT", message, int(row), name, severity="warning"))
    return Censoring(code, limit) if censored.any() else None
