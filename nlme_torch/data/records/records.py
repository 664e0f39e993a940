"""From rows to records: the repeats of ADDL doses become records of their own."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nlme_torch.data.records.table import Table

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Records:
    """The records of a table in the order in which they happen.

    Attributes:
        row: ``(entry,)``, the row of the table that a record stands for; for a repeat the row of its first
            dose.
        time: ``(entry,)``.
        repeat: ``(entry,)``, True for a repeat of an ADDL dose.
        before: ``(entry,)``, the last row of the same subject at or before the record (itself unless a
            repeat).
        after: ``(entry,)``, the first row of the same subject after it (itself unless a repeat).
        dropped: repeats not made because the subject's last row came first.
        cancelled: repeats not made because a reset or an SS=1 dose came first.
    """

    row: Ints
    time: Floats
    repeat: NDArray[np.bool_]
    before: Ints
    after: Ints
    dropped: int
    cancelled: int


def expand(table: Table) -> Records:
    """Turn rows into records.

    A dose at time t with ADDL n and interval II is repeated at t + II, ..., t + n·II. A repeat comes before
    the rows at the same time, as in NONMEM (a trough sample taken at the time of the next dose wants a row of
    its own for that dose). A reset (EVID 3, 4) and a dose with SS=1 cancel the repeats due after it.
    """
    rows = np.arange(table.n_rows, dtype=np.int64)
    doses = table.doses
    repeating = rows[:0] if doses is None else np.flatnonzero(doses.additional > 0)
    if doses is None or len(repeating) == 0:
        return Records(rows, table.time, np.zeros(len(rows), dtype=bool), rows, rows, 0, 0)
    cancels = doses.reset | (doses.steady_state == 1)
    ends = np.searchsorted(table.subject, table.subject, side="right")
    source, time, dropped, cancelled = [rows], [table.time], 0, 0
    for row in repeating:
        later = slice(row, ends[row])
        due = table.time[row] + doses.interval[row] * np.arange(1, doses.additional[row] + 1)
        due = _snap(due, table.time[later])
        stops = np.flatnonzero(cancels[later][1:])
        pending = due[due <= table.time[later][1:][stops[0]]] if len(stops) else due
        kept = pending[pending <= table.time[later][-1]]
        cancelled += len(due) - len(pending)
        dropped += len(pending) - len(kept)
        source.append(np.full(len(kept), row))
        time.append(kept)
    row, when = np.concatenate(source), np.concatenate(time)
    repeat = np.arange(len(row)) >= table.n_rows
    # at equal times: repeats first, then the table's rows in file order
    order = np.lexsort((row, ~repeat, when, table.subject[row]))
    row, when, repeat = row[order], when[order], repeat[order]
    position = np.flatnonzero(~repeat)
    count = np.cumsum(~repeat)
    before = row[position[np.maximum(count - 1, 0)]]
    after = row[position[np.minimum(np.where(repeat, count, count - 1), len(position) - 1)]]
    return Records(row, when, repeat, before, after, dropped, cancelled)


def _snap(due: Floats, times: Floats) -> Floats:
    """``due`` with rounding error removed: 0.1 + 2·0.1 is the row at 0.3, not a time just after it."""
    place = np.searchsorted(times, due)
    left, right = times[np.maximum(place - 1, 0)], times[np.minimum(place, len(times) - 1)]
    nearest = np.where(due - left < right - due, left, right)
    return np.where(np.abs(due - nearest) <= 1e-12 * np.abs(times).max(), nearest, due)
