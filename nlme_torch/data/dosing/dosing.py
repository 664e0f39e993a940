"""Reading the dosing columns: AMT, RATE or DUR, CMT, ADDL with II, SS."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nlme_torch.data.dosing.dose_rules import check_doses
from nlme_torch.data.dosing.doses import DoseKind
from nlme_torch.data.events.events import Event, Events
from nlme_torch.data.table.cells import read_labels, read_numbers
from nlme_torch.data.table.columns import Columns
from nlme_torch.data.table.problems import Problem
from nlme_torch.data.table.suspects import likely_amount

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DOSE_PARTS = ("amt", "rate", "dur", "ii", "addl", "ss")


@dataclass(frozen=True)
class DoseRows:
    """The dosing columns of a table, one entry for every row, as the table states them (nothing is expanded).

    Attributes:
        amount: ``(row,)`` AMT; 0 on rows that are no dose.
        kind: ``(row,)``, a :class:`DoseKind`.
        rate: ``(row,)``, 0 unless ``kind`` is RATE.
        duration: ``(row,)``, 0 unless ``kind`` is DURATION.
        compartment: ``(row,)``, index into ``compartments``; -1 on rows that are no dose.
        compartments: states' names or 1-based numbers.
        steady_state: ``(row,)``, SS: 0, 1 or 2.
        interval: ``(row,)``, II.
        additional: ``(row,)``, ADDL.
        reset: ``(row,)``, EVID 3 or 4.
    """

    amount: Floats
    kind: Ints
    rate: Floats
    duration: Floats
    compartment: Ints
    compartments: tuple[int | str, ...]
    steady_state: Ints
    interval: Floats
    additional: Ints
    reset: NDArray[np.bool_]

    def without(self, rows: NDArray[np.bool_]) -> "DoseRows":
        """The same columns with no dose and no reset on ``rows`` ``(row,)``."""
        nothing = {"compartment": -1, "kind": int(DoseKind.NONE)}
        blank: dict[str, Any] = {}
        for name in (entry.name for entry in fields(self) if entry.name != "compartments"):
            column = getattr(self, name)
            blank[name] = np.where(rows, nothing.get(name, 0), column).astype(column.dtype)
        return replace(self, **blank)


def read_doses(frame: pd.DataFrame, columns: Columns, events: Events, problems: list[Problem]) -> DoseRows | None:
    """Read the doses and resets of a table by the rules of :func:`check_doses`; None where it has neither."""
    cells: dict[str, Floats] = {}
    given: dict[str, NDArray[np.bool_]] = {}
    if columns.get("amt") is None and columns.get("evid") is None:
        return None
    for part in DOSE_PARTS:
        name = columns.get(part)
        if name is None:
            cells[part], given[part] = np.zeros(len(frame)), np.zeros(len(frame), dtype=bool)
        else:
            value, missing = read_numbers(frame[name], problems)
            cells[part], given[part] = np.nan_to_num(value), ~missing
    is_dose = np.isin(events.code, (Event.DOSE, Event.RESET_DOSE))
    reset = np.isin(events.code, (Event.RESET, Event.RESET_DOSE))
    if columns.get("amt") is None and is_dose.any():
        problems.append(_no_dose_column(frame, columns, is_dose))
    else:
        check_doses(cells, given["amt"], events.code, columns, problems)
    index, names = _read_compartments(frame, columns, is_dose, problems)
    if not (is_dose | reset).any():
        return None
    kind = np.select(
        [~is_dose, cells["rate"] > 0, cells["rate"] == -1, cells["rate"] == -2, cells["dur"] > 0],
        [DoseKind.NONE, DoseKind.RATE, DoseKind.MODELLED_RATE, DoseKind.MODELLED_DURATION, DoseKind.DURATION],
        default=DoseKind.BOLUS,
    ).astype(np.int64)
    return DoseRows(
        amount=np.where(is_dose, cells["amt"], 0.0),
        kind=kind,
        rate=np.where(kind == DoseKind.RATE, cells["rate"], 0.0),
        duration=np.where(kind == DoseKind.DURATION, cells["dur"], 0.0),
        compartment=index,
        compartments=names,
        steady_state=np.where(is_dose, cells["ss"], 0).astype(np.int64),
        interval=np.where(is_dose, cells["ii"], 0.0),
        additional=np.where(is_dose, cells["addl"], 0).astype(np.int64),
        reset=reset,
    )


def _no_dose_column(frame: pd.DataFrame, columns: Columns, is_dose: NDArray[np.bool_]) -> Problem:
    """What to say, once, of doses whose amounts no column gives."""
    count, first = int(is_dose.sum()), int(np.flatnonzero(is_dose)[0])
    say = (
        f"EVID marks {count} row{'s' * (count != 1)} as doses, the first of them {columns.rows.name(first)}, and there "
        f"is no dose column: name it with amt={likely_amount(frame, columns) or '...'!r}"
    )
    return Problem("no dose column", f"{say}; the table has {', '.join(map(str, frame.columns))}.")


def _read_compartments(
    frame: pd.DataFrame, columns: Columns, is_dose: NDArray[np.bool_], problems: list[Problem]
) -> tuple[Ints, tuple[int | str, ...]]:
    """Index and names of the compartments dosed; a missing CMT or CMT 0 is the first compartment."""
    name = columns.get("cmt")
    labels: list[Any] = [None] * len(frame) if name is None else read_labels(frame[name])
    index = np.full(len(frame), -1, dtype=np.int64)
    names: list[int | str] = []
    for row in np.flatnonzero(is_dose):
        label = labels[row] if labels[row] not in (None, 0) else 1
        if not isinstance(label, (int, str)) or (isinstance(label, int) and label < 0):
            message = f"{label!r} is no compartment: write a state's name or number; nothing for the first."
            problems.append(Problem("CMT", message, row=int(row), column=name))
            continue
        if label not in names:
            names.append(label)
        index[row] = names.index(label)
    return index, tuple(names)
