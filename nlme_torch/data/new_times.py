"""Prediction times: records without data, put between the rows of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError
from .doses import DoseKind
from .events import Event
from .table import Table

Times: TypeAlias = ArrayLike | Mapping[Any, ArrayLike]


def insert_times(table: Table, times: Times) -> tuple[Table, NDArray[np.int64]]:
    """Add records at which nothing is given or observed (EVID 2), after the rows at the same time.

    Time-varying covariates are filled in by their own rule, so the new records change no prediction.

    Args:
        table: a table without errors.
        times: in the user's unit, for every subject alike, or subject's id to that subject's times.

    Returns:
        The longer table, and ``(row,)`` the old row of every row of it, -1 for a new one.

    Raises:
        DataError: if a subject is unknown, or a time is not finite or lies before the subject's first row.
    """
    subject, time = _requested(table, times)
    old = np.arange(table.n_rows)
    first = np.searchsorted(table.subject, subject, side="left")
    template = np.empty(len(time), dtype=np.int64)
    for k in range(len(time)):
        rows = old[table.subject == subject[k]]
        before = np.searchsorted(table.time[rows], time[k], side="right") - 1
        if before < 0:
            raise DataError(
                f"with_times: time {time[k]:g} lies before subject {table.ids[subject[k]]}'s first row at "
                f"{table.time[first[k]]:g}, where the model starts. Ask for later times, or add an earlier row."
            )
        template[k] = rows[before]
    source = np.concatenate([old, template])
    is_new = np.arange(len(source)) >= table.n_rows
    when = np.concatenate([table.time, time])
    order = np.lexsort((np.arange(len(source)), is_new, when, table.subject[source]))
    source, is_new, when = source[order], is_new[order], when[order]
    return _blank(table, source, is_new, when), np.where(is_new, -1, source)


def _requested(table: Table, times: Times) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Subject and time of every new record."""
    wanted: dict[Any, ArrayLike] = (
        dict(times) if isinstance(times, Mapping) else {i: times for i in table.ids}
    )
    subjects: list[NDArray[np.int64]] = []
    when: list[NDArray[np.float64]] = []
    for label, value in wanted.items():
        if label not in table.ids:
            raise DataError(f"with_times: there is no subject {label!r}; the data set has {_few(table.ids)}.")
        array = np.atleast_1d(np.asarray(value, dtype=np.float64))
        if array.ndim != 1 or not np.isfinite(array).all():
            raise DataError(f"with_times: the times of subject {label!r} must be one list of finite numbers.")
        subjects.append(np.full(len(array), table.ids.index(label), dtype=np.int64))
        when.append(array)
    return np.concatenate(subjects), np.concatenate(when)


def _few(ids: Sequence[Any], shown: int = 5) -> str:
    return ", ".join(map(str, ids[:shown])) + (", ..." if len(ids) > shown else "")


def _blank(
    table: Table, source: NDArray[np.int64], is_new: NDArray[np.bool_], time: NDArray[np.float64]
) -> Table:
    """The table of ``source`` rows in which new rows carry no dose, no value, and interpolated covariates."""
    part = table.take(source)
    observations = replace(
        part.observations,
        values={name: np.where(is_new, np.nan, value) for name, value in part.observations.values.items()},
        censoring=None
        if part.observations.censoring is None
        else np.where(is_new, 0, part.observations.censoring),
        ignored={reason: mask & ~is_new for reason, mask in part.observations.ignored.items()},
    )
    covariates = dict(part.covariates.values)
    following = np.minimum(source + 1, table.n_rows - 1)
    following = np.where(table.subject[following] == table.subject[source], following, source)
    for name, rule in part.covariates.interpolation.items():
        value = table.covariates.values[name]
        if rule == "nocb":
            covariates[name] = np.where(is_new, value[following], value[source])
        elif rule == "linear":
            start, end = table.time[source], table.time[following]
            share = np.divide(time - start, end - start, out=np.zeros_like(time), where=end > start)
            covariates[name] = np.where(
                is_new, value[source] + share * (value[following] - value[source]), value[source]
            )
    doses = part.doses
    if doses is not None:
        doses = replace(
            doses,
            amount=np.where(is_new, 0.0, doses.amount),
            kind=np.where(is_new, int(DoseKind.NONE), doses.kind),
            rate=np.where(is_new, 0.0, doses.rate),
            duration=np.where(is_new, 0.0, doses.duration),
            compartment=np.where(is_new, -1, doses.compartment),
            steady_state=np.where(is_new, 0, doses.steady_state),
            interval=np.where(is_new, 0.0, doses.interval),
            additional=np.where(is_new, 0, doses.additional),
            reset=doses.reset & ~is_new,
        )
    return replace(
        part,
        time=time,
        event=np.where(is_new, int(Event.OTHER), part.event),
        observations=observations,
        covariates=replace(part.covariates, values=covariates),
        doses=doses,
    )
