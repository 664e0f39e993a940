"""What a row's dosing columns must satisfy to have a meaning: one line for each rule."""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nlme_torch.data.events.events import Event
from nlme_torch.data.table.columns import Columns
from nlme_torch.data.table.problems import Problem

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class _Rule(NamedTuple):
    """A rule, the part whose column is to blame, the rows that break it, and what to say about them."""

    name: str
    part: str
    broken: Mask
    message: str
    severity: Literal["error", "warning"] = "error"


def check_doses(
    cells: Mapping[str, Floats],
    amount_given: Mask,
    code: NDArray[np.int64],
    columns: Columns,
    problems: list[Problem],
) -> None:
    """Report every row whose dosing columns cannot be meant, or can but probably are not.

    Args:
        cells: part (``"amt"``, ``"rate"``, ``"dur"``, ``"ii"``, ``"addl"``, ``"ss"``) to ``(row,)``, 0 where
            missing.
        amount_given: ``(row,)``, False where AMT is missing.
        code: ``(row,)``, EVID.
        columns: the parts of the table's columns, for the messages.
        problems: receives one entry for every row and rule broken.
    """
    dose = np.isin(code, (Event.DOSE, Event.RESET_DOSE))
    for rule in (*_rules(cells, amount_given, dose), *_rules_off_dose(cells, dose)):
        column = columns.get(rule.part) or columns.get("evid")
        for row in np.flatnonzero(rule.broken):
            text = rule.message.format(evid=code[row], **{part: f"{cell[row]:g}" for part, cell in cells.items()})
            problems.append(Problem(rule.name, text, int(row), column, severity=rule.severity))


def _rules(cells: Mapping[str, Floats], amount_given: Mask, dose: Mask) -> Iterator[_Rule]:
    """The rules for doses."""
    amt, rate, dur, ii, addl, ss = (cells[part] for part in ("amt", "rate", "dur", "ii", "addl", "ss"))
    endless = dose & (ss != 0) & (amt == 0) & ((rate > 0) | (rate == -1))
    yield _Rule("negative AMT", "amt", dose & (amt < 0), "AMT is {amt}: a dose cannot be negative.")
    yield _Rule(
        "dose without AMT", "amt", dose & ~amount_given & (rate == 0) & (dur == 0),
        "EVID is {evid} but AMT is missing: write the amount given.",
    )  # fmt: skip
    yield _Rule(
        "RATE without AMT", "rate", dose & (rate != 0) & (amt == 0) & ~endless,
        "RATE is {rate} but AMT is {amt}: write the amount given (an infusion without end: SS 1 and II 0).",
    )  # fmt: skip
    yield _Rule(
        "DUR without AMT", "dur", dose & (dur > 0) & (amt == 0),
        "DUR is {dur} but AMT is {amt}: write the amount given.",
    )  # fmt: skip
    yield _Rule(
        "SS without AMT", "amt", dose & (ss != 0) & amount_given & (amt == 0) & (rate == 0) & (dur == 0),
        "SS is {ss} but AMT and RATE are 0: the steady state of no dose. Write the amount, or EVID 3 to reset.",
    )  # fmt: skip
    yield _Rule(
        "RATE", "rate", (rate < 0) & ~np.isin(rate, (-1, -2)),
        "RATE is {rate}: write a positive rate, 0 for a bolus, -1 (modelled rate) or -2 (modelled duration).",
    )  # fmt: skip
    yield _Rule("DUR", "dur", dur < 0, "DUR is {dur}: a duration cannot be negative.")
    yield _Rule("RATE and DUR", "dur", (rate != 0) & (dur > 0), "RATE {rate} and DUR {dur}: leave one of them 0.")
    yield _Rule(
        "ADDL",
        "addl",
        (addl < 0) | (addl != np.floor(addl)),
        "ADDL is {addl}: write a whole number, 0 or more.",
    )
    yield _Rule("II", "ii", ii < 0, "II is {ii}: an interval cannot be negative.")
    yield _Rule(
        "ADDL without II", "ii", dose & (addl > 0) & (ii == 0),
        "ADDL is {addl} but II is {ii}: write the interval between the doses.",
    )  # fmt: skip
    yield _Rule("SS", "ss", ~np.isin(ss, (0, 1, 2)), "SS is {ss}: write 0 (no), 1 (replaces the state) or 2 (adds).")
    yield _Rule(
        "SS without II", "ii", dose & np.isin(ss, (1, 2)) & (ii == 0) & ~endless,
        "SS is {ss} but II is {ii}: write the interval of the doses that led to the steady state.",
    )  # fmt: skip
    yield _Rule(
        "infusion without end", "ii", endless & ((ii > 0) | (addl > 0)),
        "AMT 0 with RATE and SS means an infusion without end: II and ADDL must be 0.",
    )  # fmt: skip
    yield _Rule(
        "II without ADDL or SS", "ii", dose & (ii > 0) & (addl == 0) & (ss == 0),
        "II is {ii} but neither ADDL nor SS is set: the dose is given once.", "warning",
    )  # fmt: skip
    yield _Rule(
        "zero dose", "amt", dose & amount_given & (amt == 0) & (ss == 0) & (rate == 0) & (dur == 0),
        "a dose of amount 0 changes nothing.", "warning",
    )  # fmt: skip


def _rules_off_dose(cells: Mapping[str, Floats], dose: Mask) -> Iterator[_Rule]:
    """The rules for rows that are no dose, on which dosing columns have nothing to say."""
    yield _Rule(
        "AMT on a row that is no dose", "amt", ~dose & (cells["amt"] != 0),
        "AMT is {amt} but EVID is {evid}: give doses EVID 1 (or 4), other rows AMT 0.",
    )  # fmt: skip
    yield _Rule(
        "RATE without AMT", "rate", ~dose & (cells["rate"] != 0) & (cells["amt"] == 0),
        "RATE is {rate} on a row that is no dose (AMT {amt}, EVID {evid}): write the amount, or RATE 0.",
    )  # fmt: skip
    yield _Rule(
        "DUR without AMT", "dur", ~dose & (cells["dur"] > 0) & (cells["amt"] == 0),
        "DUR is {dur} on a row that is no dose (AMT {amt}, EVID {evid}): write the amount, or DUR 0.",
    )  # fmt: skip
    yield _Rule(
        "ADDL on a row that is no dose",
        "addl",
        ~dose & (cells["addl"] > 0),
        "ADDL is {addl} but EVID is {evid}.",
    )
    yield _Rule(
        "SS on a row that is no dose", "ss", ~dose & (cells["ss"] != 0),
        "SS is {ss} but EVID is {evid}: steady state belongs to a dose (EVID 1 or 4).",
    )  # fmt: skip
