"""Prediction times: records without data, put between the rows of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from nlme_torch.data.covariates.covariates import value_between
from nlme_torch.data.events.events import Event
from nlme_torch.data.records.table import Table
from nlme_torch.data.table.columns import Columns
from nlme_torch.errors import DataError

Ints = NDArray[np.int64]
Times: TypeAlias = ArrayLike | float | int | Mapping[Any, Any]
"""Times common to all subjects, or subject's id to that subject's times."""


def insert_times(table: Table, times: Times, start: float | None = None) -> tuple[Table, Ints]:
    """Add records at which nothing is given or observed (EVID 2), after the rows at the same time.

    Time-varying covariates are filled in by their own rule, so that the new records change no prediction.

    Args:
        table: a table without errors.
        times: in the data's time unit.
        start: when subjects begin whose first row is later; None: at their first row.

    Returns:
        The longer table, and ``(row,)`` the old row of every row of it, -1 for a new one.

    Raises:
        DataError: if a subject is unknown, or a time is not finite or lies before the subject begins.
    """
    new_subject, new_time = spread_times(table.ids, times)
    subject = np.concatenate([table.subject, new_subject])
    time = np.concatenate([table.time, new_time])
    is_new = np.arange(len(time)) >= table.n_rows
    order = np.lexsort((np.arange(len(time)), is_new, time, subject))
    subject, time, is_new = subject[order], time[order], is_new[order]
    # a new row is a copy of the row before it, stripped of its dose and its values
    source = np.maximum.accumulate(np.where(is_new, -1, order))
    early = (source < 0) | (table.subject[source] != subject)
    source = np.where(early, np.searchsorted(table.subject, subject, side="left"), source)
    early &= time < (np.inf if start is None else start)
    if early.any():
        label = table.ids[subject[early][0]]
        first = table.time[table.subject == subject[early][0]][0]
        raise DataError(
            f"time {time[early][0]:g} lies before subject {label}'s first row at {first:g}, where its model "
            "starts. Ask for later times, or add an earlier row to the table."
        )
    return _strip(table, source, is_new, time), np.where(is_new, -1, source)


def spread_times(ids: Sequence[Any], times: Times) -> tuple[Ints, NDArray[np.float64]]:
    """Subject (0-based) and time of every entry of ``times``.

    Raises:
        DataError: if a subject is unknown, or its times are not one list of finite numbers.
    """
    wanted = dict(times) if isinstance(times, Mapping) else {label: times for label in ids}
    subjects, when = [np.empty(0, dtype=np.int64)], [np.empty(0)]
    position = {label: k for k, label in enumerate(ids)}
    for label, value in wanted.items():
        if label not in position:
            few = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
            raise DataError(f"times were given for subject {label!r}, but the subjects are {few}.")
        try:
            array = np.atleast_1d(np.asarray(value, dtype=np.float64))
        except (TypeError, ValueError, OverflowError):
            say = f"the times of subject {label!r} must be one list of finite numbers, not {value!r:.60}."
            raise DataError(say) from None
        if array.ndim != 1 or not np.isfinite(array).all():
            raise DataError(f"the times of subject {label!r} must be one list of finite numbers, not {value!r}.")
        subjects.append(np.full(len(array), position[label]))
        when.append(array)
    return np.concatenate(subjects), np.concatenate(when)


def _strip(table: Table, source: Ints, is_new: NDArray[np.bool_], time: NDArray[np.float64]) -> Table:
    """The table of ``source`` rows in which new rows carry no dose, no value, and interpolated covariates."""
    part = table.take(source)
    seen, censoring = part.observations, part.observations.censoring
    if censoring is not None:
        censoring = replace(censoring, code=np.where(is_new, 0, censoring.code))
    after = np.minimum(source + 1, table.n_rows - 1)
    within = is_new & (table.subject[after] == table.subject[source]) & (time >= table.time[source])
    after = np.where(within, after, source)
    covariates = dict(part.covariates.values)
    for name, rule in part.covariates.interpolation.items():
        covariates[name] = value_between(table.covariates.values[name], table.time, time, source, after, rule)
    return replace(
        part,
        time=time,
        event=np.where(is_new, int(Event.OTHER), part.event),
        observations=replace(
            seen,
            values={name: np.where(is_new, np.nan, value) for name, value in seen.values.items()},
            censoring=censoring,
            ignored={reason: mask & ~is_new for reason, mask in seen.ignored.items()},
        ),
        covariates=replace(part.covariates, values=covariates),
        doses=None if part.doses is None else part.doses.without(is_new),
    )


def blank_frame(frame: pd.DataFrame, table: Table, columns: Columns, source: Ints) -> pd.DataFrame:
    """The user's table with a row for every new record: id, time and covariates filled in, the rest empty.

    Args:
        frame: the table before.
        table: the longer table that :func:`insert_times` returned.
        columns: the parts of the columns.
        source: ``(row,)``, the old row of every row, -1 for a new one.
    """
    is_new = source < 0
    template = np.maximum.accumulate(source)
    following = np.minimum.accumulate(np.where(is_new, len(frame), source)[::-1])[::-1]
    # by position: in the frame labels may stand with blanks around them
    subject = np.empty(len(frame), dtype=np.int64)
    subject[source[~is_new]] = table.subject[~is_new]
    before_first = (template < 0) | (subject[template] != table.subject)
    template = np.where(is_new & before_first, following, template)
    longer = frame.take(template).reset_index(drop=True)
    kept = {columns.parts["id"], *table.covariates.values}
    for name in longer:
        if name not in kept:
            longer[name] = longer[name].mask(is_new)
    longer[columns.parts["time"]] = table.time if table.shift is None else table.time - table.shift
    for part, flag in (("evid", int(Event.OTHER)), ("mdv", 1)):
        if part in columns.parts:
            name = columns.parts[part]
            longer[name] = np.where(is_new, flag, longer[name])
    if is_new.any() and not {"evid", "mdv"} & set(columns.parts) and "MDV" not in columns.ignore:
        # without a flag an empty value could be taken for a mistake when the table is read again
        longer["MDV"] = (~table.observations.observed).astype(int)
    for name in table.covariates.interpolation:
        if name not in table.covariates.categories:
            longer[name] = np.where(is_new, table.covariates.values[name], longer[name])
    return longer
