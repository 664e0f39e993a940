"""What kind of event a row is: EVID, MDV, and what they are when the table lacks them."""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nlme_torch.data.table.cells import read_labels, read_numbers
from nlme_torch.data.table.columns import Columns
from nlme_torch.data.table.problems import Problem


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
        events = Events(_from_amounts(frame, columns), no_value, mdv is not None)
        _check_switches(frame, columns, events.code, problems)
        return events
    code, missing = read_numbers(frame[evid], problems)
    for row in np.flatnonzero(missing):
        problems.append(Problem("EVID", "EVID is missing; write 0 to 4.", row=int(row), column=evid))
    for row in np.flatnonzero(np.isfinite(code) & ~np.isin(code, list(Event))):
        message = f"EVID {code[row]:g} is unknown: 0 observation, 1 dose, 2 other, 3 reset, 4 reset and dose."
        problems.append(Problem("EVID", message, row=int(row), column=evid))
    events = Events(np.nan_to_num(code).astype(np.int64), no_value, True)
    _check_switches(frame, columns, events.code, problems)
    return events


def _check_switches(frame: pd.DataFrame, columns: Columns, code: NDArray[np.int64], problems: list[Problem]) -> None:
    """Refuse rows that switch a compartment off in NONMEM, and tell of those that switch one on."""
    name = columns.get("cmt")
    if name is None:
        return
    labels = read_labels(frame[name])
    dose = np.isin(code, (Event.DOSE, Event.RESET_DOSE))
    used = {label for label, event in zip(labels, code, strict=True) if event != Event.OTHER}
    for row, label in enumerate(labels):
        if isinstance(label, int | float) and label < 0 and not dose[row]:
            message = (
                f"CMT {label} switches a compartment off (or reads an output compartment), which cannot be done here. "
                "Collect amounts in a state of the model and reset or difference it, and write a positive CMT."
            )
            problems.append(Problem("CMT", message, row=row, column=name))
        elif code[row] == Event.OTHER and label not in (None, 0) and label not in used:
            message = (
                f"EVID 2 with CMT {label} switches a compartment on in NONMEM; here every compartment is always on."
            )
            problems.append(Problem("CMT of EVID 2", message, row=row, column=name, severity="warning"))


def _from_amounts(frame: pd.DataFrame, columns: Columns) -> NDArray[np.int64]:
    """``(row,)``, DOSE where a dose is given, else OBSERVATION; unreadable cells are reported elsewhere."""
    given = np.zeros(len(frame), dtype=bool)
    for part in ("amt", "ss"):
        name = columns.get(part)
        if name is not None and columns.get("amt") is not None:
            given |= np.nan_to_num(read_numbers(frame[name], []).value) != 0
    return np.where(given, int(Event.DOSE), int(Event.OBSERVATION)).astype(np.int64)
