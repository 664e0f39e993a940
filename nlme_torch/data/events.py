"""What kind of event a row is: EVID, MDV, and what they are when the table lacks them."""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .cells import read_numbers
from .columns import Columns
from .problems import Problem


class Event(IntEnum):
    """EVID: what a row of the table stands for."""

    OBSERVATION = 0
    DOSE = 1
    OTHER = 2
    """Neither dose nor observation: a time at which to predict, or a change of a covariate."""
    RESET = 3
    """All states return to their initial value."""
    RESET_DOSE = 4
    """A reset, then a dose."""


class Events(NamedTuple):
    """The events of a table's rows.

    ``code`` ``(row,)`` is an :class:`Event`; ``no_value`` ``(row,)`` is True where MDV is 1; ``flagged`` says
    whether the table has EVID or MDV, so that an observation row without a value can be meant.
    """

    code: NDArray[np.int64]
    no_value: NDArray[np.bool_]
    flagged: bool


def read_events(frame: pd.DataFrame, columns: Columns, problems: list[Problem]) -> Events:
    """Read EVID and MDV.

    Without EVID a row is a dose where AMT is not 0 (or, with AMT 0, where SS asks for a constant infusion),
    and an observation elsewhere, as NONMEM has it. A row with MDV 1 is a record at which nothing is observed.
    """
    size = len(frame)
    mdv, evid = columns.get("mdv"), columns.get("evid")
    no_value = np.zeros(size, dtype=bool)
    if mdv is not None:
        flag, _ = read_numbers(frame[mdv], problems)
        for row in np.flatnonzero(np.isfinite(flag) & ~np.isin(flag, (0, 1))):
            problems.append(Problem("MDV", f"{flag[row]:g} is neither 0 nor 1.", row=int(row), column=mdv))
        no_value = flag == 1
    if evid is None:
        return Events(_from_amounts(frame, columns), no_value, mdv is not None)
    code, missing = read_numbers(frame[evid], problems)
    for row in np.flatnonzero(missing):
        problems.append(Problem("EVID", "EVID is missing; write 0 to 4.", row=int(row), column=evid))
    for row in np.flatnonzero(np.isfinite(code) & ~np.isin(code, list(Event))):
        message = f"EVID {code[row]:g} is unknown: 0 observation, 1 dose, 2 other, 3 reset, 4 reset and dose."
        problems.append(Problem("EVID", message, row=int(row), column=evid))
    return Events(np.nan_to_num(code).astype(np.int64), no_value, True)


def _from_amounts(frame: pd.DataFrame, columns: Columns) -> NDArray[np.int64]:
    """``(row,)``, DOSE where a dose is given, else OBSERVATION; unreadable cells are reported elsewhere."""
    given = np.zeros(len(frame), dtype=bool)
    for part in ("amt", "ss"):
        name = columns.get(part)
        if name is not None and columns.get("amt") is not None:
            given |= np.nan_to_num(read_numbers(frame[name], []).value) != 0
    return np.where(given, int(Event.DOSE), int(Event.OBSERVATION)).astype(np.int64)
