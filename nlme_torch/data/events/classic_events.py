"""EVID of 100 and more: the codes that RxODE and nlmixr2 write into their tables."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from nlme_torch.data.events.events import Event
from nlme_torch.data.table.cells import parse_numbers, read_ids
from nlme_torch.data.table.columns import Columns
from nlme_torch.data.table.problems import Problem

_STEADY = {1: 0, 10: 1, 20: 2, 40: 1}  # the last two digits to SS; 40 is a constant infusion


class _Code(NamedTuple):
    """What a code says: compartment from 1, kind of event, and the last two digits."""

    compartment: int
    kind: int
    suffix: int


def read_classic_events(frame: pd.DataFrame, columns: Columns, problems: list[Problem]) -> tuple[pd.DataFrame, Columns]:
    """Turn the codes of nlmixr2 into EVID, CMT, RATE and SS of NONMEM; other tables are left as they are.

    The digits of a code, from the right: two for the kind of dose (01 a dose, 10 and 20 SS 1 and 2, 40 a constant
    infusion in steady state), two for the compartment, one for the way of input (0 bolus, 1 and 2 an infusion whose
    AMT is its *rate* until a row with the same code and -AMT ends it, 8 and 9 an infusion of modelled duration or
    rate, 6 and 7 its end), and what is left counts hundreds of compartments: 101 is a bolus into compartment 1, 10201
    an infusion into compartment 2.

    Args:
        frame: the table.
        columns: the parts of its columns.
        problems: receives every row whose code has no meaning here.

    Returns:
        The table with NONMEM's columns, and the parts of its columns.

    References:
        Wang, Hallow and James (2016), A tutorial on RxODE, doi:10.1002/psp4.12052.
    """
    name, amount = columns.get("evid"), columns.get("amt")
    if name is None or amount is None:
        return frame, columns
    evid = parse_numbers(frame[name]).value.copy()
    coded = np.flatnonzero(np.isfinite(evid) & (evid >= 100) & (evid == np.floor(evid)))
    if not len(coded):
        return frame, columns
    frame, columns = _with_parts(frame, columns, ("cmt", "rate", "dur", "ss", "ii"))
    part = columns.parts
    cells = {key: parse_numbers(frame[part[key]]).value.copy() for key in ("amt", "rate", "dur", "ss")}
    time = parse_numbers(frame[part["time"]]).value
    ids = read_ids(frame[part["id"]])
    compartment = frame[part["cmt"]].astype(object).to_numpy().copy()
    ended: set[int] = set()
    for row in coded:
        code = _Code(int(evid[row]) // 100 % 100 + 100 * (int(evid[row]) // 100000), int(evid[row]) // 10000 % 10,
                     int(evid[row]) % 100)  # fmt: skip
        compartment[row], here = code.compartment, evid[row]
        if row in ended or code.kind in (6, 7):
            evid[row], cells["amt"][row], cells["rate"][row], compartment[row] = Event.OTHER, 0.0, 0.0, None
            for key in ("ss", "ii", "addl"):
                if key in part:
                    frame[part[key]] = frame[part[key]].where(np.arange(len(frame)) != row, 0)
            cells["ss"][row] = 0.0
            continue
        if code.compartment == 0 or code.suffix not in _STEADY or code.kind not in (0, 1, 2, 8, 9):
            message = f"EVID {here:g} is unknown: 0 to 4 as in NONMEM, or a dose as nlmixr2 writes it, such as 101."
            problems.append(Problem("EVID", message, row=int(row), column=name))
            continue
        evid[row] = Event.DOSE
        if _STEADY[code.suffix]:
            cells["ss"][row] = _STEADY[code.suffix]
        if code.kind in (8, 9):
            cells["rate"][row] = -2 if code.kind == 8 else -1
        elif code.suffix == 40:
            cells["rate"][row], cells["amt"][row] = cells["amt"][row], 0.0
        elif code.kind in (1, 2):
            end = _end(int(row), here, evid, cells["amt"], ids, ended)
            if end is not None:
                ended.add(end)
                rate, length = cells["amt"][row], time[end] - time[row]
                cells["amt"][row] = rate * length
                cells["rate"][row], cells["dur"][row] = (rate, 0.0) if code.kind == 1 else (0.0, length)
            elif not (cells["rate"][row] > 0 or cells["dur"][row] > 0):
                message = (
                    f"EVID {here:g} begins an infusion at the rate AMT, which no later row with this EVID and AMT "
                    f"{-cells['amt'][row]:g} ends. Add that row, or write EVID 1 with AMT and RATE."
                )
                problems.append(Problem("infusion without end", message, row=int(row), column=name))
    changed = {part[key]: value for key, value in cells.items()} | {part["cmt"]: compartment, name: evid}
    return frame.assign(**changed), columns


def _end(row: int, code: float, evid: np.ndarray, amount: np.ndarray, ids: list[object], ended: set[int]) -> int | None:
    """The row at which an infusion ends: the first later one of the subject with the same code and -AMT."""
    for later in range(row + 1, len(ids)):
        if ids[later] != ids[row]:
            return None
        same = evid[later] == code and later not in ended and amount[later] < 0
        if same and abs(amount[later] + amount[row]) <= 1e-9 * abs(amount[row]):
            return later
    return None


def _with_parts(frame: pd.DataFrame, columns: Columns, wanted: tuple[str, ...]) -> tuple[pd.DataFrame, Columns]:
    """The table with a column for every wanted part, empty where it had none."""
    parts = dict(columns.parts)
    frame = frame.copy()
    for part in wanted:
        if part not in parts:
            parts[part] = part.upper() if part.upper() not in frame else f"{part.upper()}_READ"
            frame[parts[part]] = None if part == "cmt" else 0.0
    return frame, replace(columns, parts=parts)
