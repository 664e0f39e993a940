"""Who a row belongs to and when it happened: the subject and time columns."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nlme_torch.data.table.cells import read_ids, read_numbers
from nlme_torch.data.table.columns import Columns
from nlme_torch.data.table.problems import Problem

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def read_subjects(
    frame: pd.DataFrame, columns: Columns, problems: list[Problem]
) -> tuple[list[Any], NDArray[np.int64]]:
    """Read the subject column.

    Rules: no id is missing; all rows of a subject stand together; there is at least one row.

    Returns:
        The id of every row, and ``(row,)`` the 0-based subject of every row, in order of appearance.
    """
    name = columns.parts["id"]
    labels = read_ids(frame[name])
    if not labels:
        problems.append(Problem("no subjects", "the table has no rows, hence no subjects."))
    texts = {label for label in labels if isinstance(label, str)}
    for row, label in enumerate(labels):
        if texts and label is not None and not isinstance(label, str) and str(label) in texts:
            message = f"{label} stands as a number here and as text elsewhere. Write the ids of the column in one way."
            problems.append(Problem("id", message, row=row, column=name))
    index = np.zeros(len(labels), dtype=np.int64)
    last_row: dict[Any, int] = {}
    position = -1
    for row, label in enumerate(labels):
        if label is None:
            problems.append(Problem("id", "the subject's id is missing.", row=row, column=name))
        if row == 0 or label != labels[row - 1]:
            position += 1
            if label is not None and label in last_row:
                message = (
                    f"subject {label} re-appears: an earlier block of its rows ended at "
                    f"{columns.rows.name(last_row[label])}. Put the rows of a subject together, or give different "
                    "subjects different ids."
                )
                problems.append(Problem("id re-appears", message, row=row, column=name))
        index[row] = position
        last_row[label] = row
    return labels, index


def read_times(
    frame: pd.DataFrame, columns: Columns, subject: Ints, reset: NDArray[np.bool_], problems: list[Problem]
) -> tuple[Floats, Floats | None]:
    """Read the time column: never missing, and never decreasing within a subject except at a reset.

    At a reset (EVID 3, 4) the clock may be set back, as in NONMEM. Such a period is moved to follow the one
    before it, so that times never decrease.

    Returns:
        ``(row,)`` the running time, and ``(row,)`` by how much it runs ahead of the column; None if nowhere.
    """
    name = columns.parts["time"]
    clock, missing = read_numbers(frame[name], problems)
    for row in np.flatnonzero(missing):
        problems.append(Problem("time", "the time is missing.", row=int(row), column=name))
    step = np.diff(clock, prepend=clock[:1])
    backward = (step < 0) & (np.diff(subject, prepend=-1) == 0)
    for row in np.flatnonzero(backward & ~reset):
        message = (
            f"time goes back from {clock[row - 1]:g} to {clock[row]:g}. Sort the rows by time within each "
            "subject; where a new period begins, the clock may be set back on a reset row (EVID 3 or 4)."
        )
        problems.append(Problem("time order", message, row=int(row), column=name))
    if not (backward & reset).any():
        return clock, None
    lead = np.cumsum(np.where(backward & reset, -step, 0.0))
    shift = lead - lead[np.searchsorted(subject, subject, side="left")]
    return clock + shift, shift


def check_observed(
    observed: NDArray[np.bool_], subject: NDArray[np.int64], ids: Sequence[Any], problems: list[Problem]
) -> None:
    """A warning for every subject without an observation: a new patient is one, and no fit takes it."""
    if len(observed) == 0:
        return
    counts = np.bincount(subject, weights=observed)
    for position in np.flatnonzero(counts == 0):
        row = int(np.flatnonzero(subject == position)[0])
        message = (
            "has no observation of any output: as a new patient it can be predicted (Fit.individualise) and simulated, "
            "and no fit takes it. See why its rows do not count, if it has some."
        )
        problems.append(Problem("no observations", message, row=row, subject=ids[row], severity="warning"))
