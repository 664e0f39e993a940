"""Designs: tables of who gets which doses and when to look, before anything has been observed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nlme_torch.data.covariates.covariates import value_between
from nlme_torch.data.design.new_times import Times, spread_times
from nlme_torch.data.design.regimen import Regimen
from nlme_torch.data.events.events import Event
from nlme_torch.data.records.table import Table, read_table
from nlme_torch.data.table.columns import MEANINGS, NONMEM_NAMES, Columns, resolve_columns
from nlme_torch.data.table.problems import raise_errors
from nlme_torch.errors import DataError

Regimens: TypeAlias = Regimen | Mapping[Any, Regimen]
"""A regimen for all subjects, or subject's id to its own."""

DOSE_COLUMNS = ("AMT", "EVID", "CMT", "RATE", "DUR", "II", "ADDL", "SS")


def design_frame(
    ids: Sequence[Any],
    regimens: Regimens,
    times: Times,
    *,
    knots: Mapping[Any, NDArray[np.float64]] | None = None,
    id: str = "ID",
    time: str = "TIME",
) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """The rows of a design: every subject's doses, and a row of EVID 2 at each of its times and knots.

    At equal times doses come first, so that what is predicted there includes the dose.

    Args:
        ids: the subjects.
        regimens: what each is given.
        times: when to look.
        knots: by subject, further times at which a covariate changes.
        id: name of the subject column.
        time: name of the time column.

    Returns:
        The rows, and ``(row,)``, True where to look.

    Raises:
        DataError: if a subject has no regimen, or times or regimens name an unknown subject.
    """
    twice = [label for label, count in Counter(ids).items() if count > 1]
    if twice:
        raise DataError(f"subject {twice[0]!r} is named twice.")
    own = regimens if isinstance(regimens, Mapping) else {label: regimens for label in ids}
    for label in (*ids, *own):
        if label not in own or label not in ids:
            raise DataError(f"subject {label!r} has no regimen." if label in ids else f"there is no subject {label!r}.")
    position, when = spread_times(ids, times)
    looks = pd.DataFrame({"_position": position, "TIME": when, "EVID": int(Event.OTHER), "_look": True})
    at, changed = spread_times(ids, knots or {})
    changes = pd.DataFrame({"_position": at, "TIME": changed, "EVID": int(Event.OTHER)})
    doses = pd.DataFrame([{"_position": k, **row} for k, label in enumerate(ids) for row in own[label].rows()])
    rows = pd.concat([doses, changes, looks], ignore_index=True)
    rows = rows.sort_values(["_position", "TIME"], kind="stable", ignore_index=True)
    numbers = [name for name in DOSE_COLUMNS if name != "CMT"]
    rows[numbers] = rows[numbers].fillna(0.0)
    rows.insert(0, id, [ids[k] for k in rows.pop("_position")])
    look = rows.pop("_look").notna().to_numpy()
    return rows.rename(columns={"TIME": time}), look


def covariate_frame(ids: Sequence[Any], covariates: pd.DataFrame | Mapping[str, Any] | None) -> pd.DataFrame:
    """Constant covariates, one line for each subject, from a table, or from one value or list for each name.

    Raises:
        DataError: if a list is not as long as there are subjects, or a table lacks a subject.
    """
    if covariates is None:
        return pd.DataFrame(index=pd.Index(ids))
    if isinstance(covariates, pd.DataFrame):
        missing = [label for label in ids if label not in covariates.index]
        if missing:
            raise DataError(f"the covariates have no line for subject {missing[0]!r}; their index must hold the ids.")
        for label, count in covariates.loc[list(ids)].index.value_counts().items():
            if count > 1:
                raise DataError(f"subject {label!r} has {count} lines in the table of covariates; leave one.")
        return covariates.loc[list(ids)]
    columns = {}
    for name, value in covariates.items():
        array = np.asarray(value)
        if array.ndim > 1 or (array.ndim == 1 and len(array) != len(ids)):
            raise DataError(f"covariate {name!r} has shape {array.shape}; give one value, or one for each subject.")
        columns[name] = np.broadcast_to(array, (len(ids),))
    return pd.DataFrame(columns, index=pd.Index(ids))


def new_design(
    regimens: Regimens,
    times: Times,
    ids: Sequence[Any],
    covariates: pd.DataFrame | Mapping[str, Any] | None,
    outputs: Sequence[str],
    start: float | None = None,
) -> tuple[pd.DataFrame, Table, Columns, NDArray[np.bool_]]:
    """A design made from its parts.

    Returns:
        The user's table, the table, its columns, and ``(row,)``, True where to look.
    """
    rows, look = design_frame(ids, regimens, times)
    lines = covariate_frame(ids, covariates)
    for kind, name in (*(("covariate", str(name)) for name in lines), *(("output", name) for name in outputs)):
        meant = next((MEANINGS[part] for part, column in NONMEM_NAMES.items() if column == name), None)
        if name in rows and meant is not None:
            raise DataError(f"{kind} {name!r} has the name of a column that means {meant}; give it another name.")
    rows = rows.assign(**dict.fromkeys(outputs, np.nan)).join(lines, on="ID")
    columns, problems = resolve_columns(rows, outputs=outputs, covariates=[str(name) for name in lines], start=start)
    raise_errors(problems, columns.rows)
    table, problems = read_table(rows, columns, observed=False)
    raise_errors(problems, columns.rows)
    return rows, table, columns, look


def designed(
    frame: pd.DataFrame, table: Table, columns: Columns, regimens: Regimens, times: Times
) -> tuple[pd.DataFrame, Table, Columns, NDArray[np.bool_]]:
    """The subjects and covariates of a table under other doses, as a table without observations.

    A time-varying covariate has at each new row the value that its rule gives there; before a subject's first
    row that row's value holds. The times of the old rows stay as rows, so that it runs as it did between
    them.

    Returns:
        The user's table, the table, its columns, and ``(row,)``, True where to look.
    """
    id, time = columns.parts["id"], columns.parts["time"]
    outputs = tuple(table.observations.values)
    knots = {}
    if table.covariates.interpolation:
        knots = {label: np.unique(table.time[table.subject == k]) for k, label in enumerate(table.ids)}
    rows, look = design_frame(table.ids, regimens, times, knots=knots, id=id, time=time)
    rows = rows.assign(**dict.fromkeys(outputs, np.nan))
    parts, problems = resolve_columns(rows, id=id, time=time, outputs=outputs, covariates=(), start=columns.start)
    raise_errors(problems, parts.rows)
    new, problems = read_table(rows, parts, observed=False)
    raise_errors(problems, parts.rows)

    first = np.flatnonzero(np.diff(table.subject, prepend=-1))
    before, after = _neighbours(table, new)
    values, old = {}, table.covariates
    for name, value in old.values.items():
        rule = old.interpolation.get(name)
        when = np.maximum(new.time, table.time[before])
        between = value_between(value, table.time, when, before, after, rule or "locf")
        values[name] = between if rule else value[first][new.subject]
        coded = rule is None or name in old.categories
        rows[name] = frame[name].to_numpy()[first[new.subject] if rule is None else before] if coded else between
    covariates = replace(old, values=values, unused={}, questions={})
    return rows, replace(new, covariates=covariates), replace(parts, units=columns.units), look


def _neighbours(table: Table, new: Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every new row the subject's last old row at or before its time, and the first one after."""
    size = table.n_rows
    order = np.lexsort((np.arange(size + new.n_rows), np.r_[table.time, new.time], np.r_[table.subject, new.subject]))
    is_old = order < size
    count = np.cumsum(is_old)
    first = np.searchsorted(table.subject, np.arange(len(table.ids)), side="left")
    last = np.searchsorted(table.subject, np.arange(len(table.ids)), side="right") - 1
    before, after = np.empty(new.n_rows, dtype=np.int64), np.empty(new.n_rows, dtype=np.int64)
    before[order[~is_old] - size] = count[~is_old] - 1
    after[order[~is_old] - size] = count[~is_old]
    return np.maximum(before, first[new.subject]), np.minimum(after, last[new.subject])
