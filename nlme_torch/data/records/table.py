"""A table as it was read: every column that plays a part, one entry for every row, in file order."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nlme_torch.data.covariates.covariates import Covariates, read_covariates
from nlme_torch.data.dosing.dosing import DoseRows, read_doses
from nlme_torch.data.events.events import Event, read_events
from nlme_torch.data.events.subjects import check_observed, read_subjects, read_times
from nlme_torch.data.outcomes.outcomes import Observations, read_observations
from nlme_torch.data.table.cells import read_labels
from nlme_torch.data.table.columns import Columns
from nlme_torch.data.table.problems import Problem, locate
from nlme_torch.data.table.row_names import RowNames


@dataclass(frozen=True)
class Table:
    """The parts of a table, one entry for every row.

    Attributes:
        ids: subjects' ids, in order of appearance.
        subject: ``(row,)``, 0-based subject, never decreasing.
        time: ``(row,)``, in the user's unit, never decreasing within a subject.
        event: ``(row,)``, an :class:`Event`.
        observations: values of every output.
        covariates: constant and time-varying covariates.
        doses: doses and resets, or None when the table has none.
        occasion: ``(row,)``, 0-based occasion within the subject in order of appearance, or None.
        shift: ``(row,)``, by how much ``time`` runs ahead of the time column after the clock was set back at
            a reset, or None where it never was.
        warnings: what the table can be read with but should be looked at.
        names: what rows are called in messages.
    """

    ids: tuple[Any, ...]
    subject: NDArray[np.int64]
    time: NDArray[np.float64]
    event: NDArray[np.int64]
    observations: Observations
    covariates: Covariates
    doses: DoseRows | None = None
    occasion: NDArray[np.int64] | None = None
    shift: NDArray[np.float64] | None = None
    warnings: tuple[Problem, ...] = ()
    names: RowNames = field(default_factory=RowNames, compare=False)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.time)

    def take(self, rows: NDArray[np.int64]) -> "Table":
        """The table of some rows, in increasing order; subjects without rows are gone."""
        kept, subject = np.unique(self.subject[rows], return_inverse=True)
        part = _take(self, rows)
        position = {int(row): new for new, row in reversed(list(enumerate(rows)))}
        return replace(
            part,
            ids=tuple(self.ids[i] for i in kept),
            subject=subject.astype(np.int64),
            names=self.names.take(rows),
            warnings=tuple(
                w if w.row is None else replace(w, row=position[w.row])
                for w in self.warnings
                if w.row is None or w.row in position
            ),
        )

    def rows_of(self, rows: NDArray[np.int64]) -> "Table":
        """The entries of any rows in any order, repeats included; subjects and warnings are left as they are."""
        return replace(_take(self, rows), names=self.names.take(rows))

    def digest(self) -> str:
        """SHA-256 of everything in the table, including the names of outputs and covariates."""
        rules = (self.covariates.interpolation, self.covariates.categories)
        spoken = (self.ids, [sorted(rule.items()) for rule in rules], self.doses and self.doses.compartments)
        digest = hashlib.sha256(repr(spoken).encode())
        for name, array in _arrays("table", self):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def read_table(frame: pd.DataFrame, columns: Columns, *, observed: bool = True) -> tuple[Table, list[Problem]]:
    """Read a table and collect everything that is wrong with it.

    Args:
        frame: the user's table.
        columns: the part that each column plays.
        observed: whether every subject must have an observation (a design for simulation has none).

    Returns:
        The table, and all problems in row order; it must not be used when one of them is an error.
    """
    problems: list[Problem] = []
    row_ids, subject = read_subjects(frame, columns, problems)
    events = read_events(frame, columns, problems)
    reset = np.isin(events.code, (Event.RESET, Event.RESET_DOSE))
    time, shift = read_times(frame, columns, subject, reset, problems)
    observations = read_observations(frame, columns, events, problems)
    doses = read_doses(frame, columns, events, problems)
    taken = set(observations.sources.values())
    covariates = read_covariates(frame, columns, subject, time, taken, problems)
    occasion = _read_occasions(frame, columns, subject, problems)
    if observed and observations.values:
        check_observed(observations.observed, subject, row_ids, problems)
    first = np.flatnonzero(np.diff(subject, prepend=-1))
    ids = tuple(row_ids[row] for row in first)
    found = list(dict.fromkeys(locate(problems, row_ids)))
    warnings = tuple(problem for problem in found if problem.severity == "warning")
    parts = (observations, covariates, doses, occasion, shift, warnings, columns.rows)
    table = Table(ids, subject, time, events.code, *parts)
    return table, found


def _read_occasions(
    frame: pd.DataFrame, columns: Columns, subject: NDArray[np.int64], problems: list[Problem]
) -> NDArray[np.int64] | None:
    """``(row,)``, the occasion's position among those of the subject; None without an occasion column."""
    name = columns.get("occasion")
    if name is None:
        return None
    occasion = np.zeros(len(frame), dtype=np.int64)
    seen: dict[Any, int] = {}
    for row, label in enumerate(read_labels(frame[name])):
        if label is None:
            problems.append(Problem("occasion", "the occasion is missing.", row=row, column=name))
        if row == 0 or subject[row] != subject[row - 1]:
            seen = {}
        occasion[row] = seen.setdefault(label, len(seen))
    return occasion


def _arrays(name: str, part: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of a part of the table, however deep."""
    if isinstance(part, np.ndarray):
        yield name, part
    elif isinstance(part, Mapping):
        for key, value in part.items():
            yield from _arrays(f"{name}.{key}", value)
    elif is_dataclass(part):
        for entry in fields(part):
            yield from _arrays(f"{name}.{entry.name}", getattr(part, entry.name))


def _take(part: Any, rows: NDArray[np.int64]) -> Any:
    """A part of the table with every ``(row,)`` array reduced to ``rows``."""
    if isinstance(part, np.ndarray):
        return part[rows]
    if isinstance(part, Mapping):
        return {name: _take(value, rows) for name, value in part.items()}
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{entry.name: _take(getattr(part, entry.name), rows) for entry in fields(part)})
    return part
