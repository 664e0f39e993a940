"""The one table of a fit: data, predictions, residuals, effects and individual parameters, in the user's rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import LogNormal

from nlme_torch.data.dataset.resampled import covariate_rows
from nlme_torch.data.dosing.doses import DoseKind
from nlme_torch.errors import ModelError
from nlme_torch.inference.residuals.continuous_records import ContinuousRecords, is_discrete, is_event, outcome_kinds
from nlme_torch.inference.residuals.counted import counted_residuals
from nlme_torch.inference.residuals.prediction_errors import prediction_errors
from nlme_torch.inference.residuals.weighted import weighted_residuals
from nlme_torch.model.density.density import Density

if TYPE_CHECKING:
    from nlme_torch.data import Dataset

PREDICTED = ("PRED", "IPRED", "CPRED")
WEIGHTED = ("RES", "IRES", "WRES", "IWRES", "CWRES", "NPD", "NPDE")
COUNTED = ("PEARSON", "DEVIANCE", "MARTINGALE", "COX_SNELL")


@dataclass
class _Columns:
    """Values by column and outcome, ``(record, subject)``, and why some are missing."""

    values: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    absent: dict[str, dict[str, str]] = field(default_factory=dict)

    def put(self, column: str, outcome: str, value: Tensor) -> None:
        self.values.setdefault(column, {})[outcome] = value

    def miss(self, columns: Sequence[str], outcome: str, reason: str) -> None:
        for column in columns:
            self.absent.setdefault(column, {})[outcome] = reason


def diagnostic_table(density: Density, data: "Dataset", modes: Tensor, simulations: int, seed: int) -> pd.DataFrame:
    """Return everything there is to see at every row of the user's table; see :meth:`nlme_torch.Fit.table`.

    Args:
        density: The model at its estimates, joined to the data.
        data: The data, for row order and covariates.
        modes: Conditional modes, ``(effect, subject)``; NaN where not known.
        simulations: Simulated values of every observation for NPD and NPDE; 0 leaves both out.
        seed: Of the simulations.
    """
    kinds = outcome_kinds(density)
    records = ContinuousRecords(density, kinds)
    columns = _Columns()
    _predictions(columns, records, modes)
    _counted(columns, records, modes)
    _simulated(columns, records, simulations, seed)
    frame = _rows(density, data, list(kinds), columns)
    frame = _join(frame, _effects(density, frame, modes), "")
    frame = _join(frame, covariate_rows(data, frame["row"].to_numpy()), "covariate_")
    frame.attrs = {
        "absent": columns.absent,
        "simulations": simulations,
        "seed": seed,
        "units": data.units,
        "log_scale": [name for name, kind in kinds.items() if isinstance(kind, LogNormal)],
    }
    return frame


def _predictions(columns: _Columns, records: ContinuousRecords, modes: Tensor) -> None:
    density = records.density
    conditional, found = density.at(), torch.isfinite(modes).all(0)
    with torch.no_grad():
        observed = {}
        for name, effects in (("PRED", torch.zeros_like(modes)), ("IPRED", torch.where(found, modes, 0.0))):
            distributions, solved = conditional.observe(effects[:, None, None])
            shape = (density.batch.n_records, 1, 1, density.batch.n_subjects)
            known = solved.expand(shape[1:])[0, 0] & (found | (name == "PRED"))
            observed[name] = {
                outcome: torch.where(known, distributions[outcome].mean.expand(shape)[:, 0, 0], torch.nan)
                for outcome in records.kinds
                if not is_event(records.kinds[outcome])
            }
    weighted = weighted_residuals(records, modes) if records.names else None
    for name, kind in records.kinds.items():
        if is_event(kind):
            columns.miss((*PREDICTED, *WEIGHTED), name, "the time of an event has martingale and deviance residuals")
            continue
        for column in ("PRED", "IPRED"):
            columns.put(column, name, observed[column][name])
        outcome = density.batch.outcomes[name]
        known = outcome.mask if outcome.censoring is None else outcome.mask & (outcome.censoring == 0)
        for column, prediction in (("RES", "PRED"), ("IRES", "IPRED")):
            residual = outcome.value - observed[prediction][name]
            columns.put(column, name, torch.where(known, residual, torch.nan))
        if is_discrete(kind):
            reason = "a discrete outcome has Pearson and deviance residuals"
            columns.miss(("CPRED", "WRES", "IWRES", "CWRES"), name, reason)
            continue
        assert weighted is not None
        for column in ("WRES", "IWRES", "CWRES"):
            columns.put(column, name, records.outcome(getattr(weighted, column.lower()), name))
        cpred, spread = records.outcome(weighted.cpred, name), records.outcome(weighted.spread, name)
        cpred = torch.exp(cpred + 0.5 * spread) if isinstance(kind, LogNormal) else cpred
        columns.put("CPRED", name, torch.where(outcome.mask, cpred, torch.nan))


def _counted(columns: _Columns, records: ContinuousRecords, modes: Tensor) -> None:
    for name, found in counted_residuals(records.density.at(), modes, records.kinds).items():
        for column, value in found.items():
            columns.put(column, name, value)
        if "MARTINGALE" not in found and "DEVIANCE" not in found:
            columns.miss(("DEVIANCE",), name, f"a {type(records.kinds[name]).__name__} has no saturated model here")


def _simulated(columns: _Columns, records: ContinuousRecords, simulations: int, seed: int) -> None:
    names = [name for name, kind in records.kinds.items() if not is_event(kind)]
    if not simulations:
        for name in names:
            columns.miss(("NPD", "NPDE"), name, "not asked for: simulations=0")
        return
    try:
        errors = prediction_errors(records, simulations, seed)
    except ModelError as error:
        for name in names:
            columns.miss(("NPD", "NPDE"), name, str(error))
        return
    for name in names:
        columns.put("NPD", name, errors.npd[name])
        if name in errors.npde:
            columns.put("NPDE", name, errors.npde[name])
        else:
            columns.miss(("NPDE",), name, "a discrete outcome is not decorrelated; see NPD")
        if errors.few and name in errors.npde:
            few = f"{errors.few} subjects have too few simulations for the covariance of their records"
            columns.miss(("NPDE",), name, few)


def _rows(density: Density, data: "Dataset", names: list[str], columns: _Columns) -> pd.DataFrame:
    """One line for every observation and every other row of the table, in the order of the table."""
    batch = density.batch
    in_table = batch.rows >= 0
    anything = torch.stack([batch.outcomes[name].mask for name in names]).any(0)
    lines = []
    for place, name in enumerate(names):
        seen = batch.outcomes[name].mask & in_table
        lines.append(_places(batch.rows, seen, place))
        if len(names) == 1:
            lines.append(_places(batch.rows, in_table & ~anything, place))
    if len(names) > 1:
        lines.append(_places(batch.rows, in_table & ~anything, -1))
    row, record, subject, which = np.concatenate(lines, axis=1)
    order = np.lexsort((which, row))
    row, record, subject, which = (part[order] for part in (row, record, subject, which))
    at = record, subject

    def there(value: Tensor) -> np.ndarray:
        return value.numpy(force=True)[at]

    shift = 0.0 if batch.time_shift is None else there(batch.time_shift)
    observed = [there(batch.outcomes[name].mask) & (which == place) for place, name in enumerate(names)]
    frame = pd.DataFrame(
        {
            "row": row,
            "ID": pd.Series([batch.subjects[index] for index in subject]),
            "TIME": there(batch.times) - shift,
            "OUTCOME": pd.Series([names[index] if index >= 0 else None for index in which], dtype=object),
            "DV": np.select(observed, [there(batch.outcomes[name].value) for name in names], np.nan),
        }
    )
    censored = {name: outcome.censoring for name, outcome in batch.outcomes.items() if outcome.censoring is not None}
    if censored:
        codes = [
            there(censored[name]) if name in censored else np.zeros(len(row), dtype=int) for name in names
        ]  # fmt: skip
        frame["CENS"] = np.select(observed, codes, 0)
    if batch.doses is not None:
        dose, reset = there(batch.doses.kind) != int(DoseKind.NONE), there(batch.doses.reset)
        other = ~np.any(observed, axis=0)
        frame["AMT"] = np.where(dose, there(batch.doses.amount), 0.0)
        frame["EVID"] = np.select([reset & dose, reset, dose, other], [4, 3, 1, 2], 0)
    for column in (*PREDICTED, *WEIGHTED, *COUNTED):
        if column in columns.values:
            values = columns.values[column]
            chosen = [which == names.index(name) for name in values]
            frame[column] = np.select(chosen, [there(value) for value in values.values()], np.nan)
    frame.index = pd.RangeIndex(len(frame))
    return frame.assign(_record=record, _subject=subject)


def _places(rows: Tensor, where: Tensor, outcome: int) -> np.ndarray:
    record, subject = torch.nonzero(where, as_tuple=True)
    parts = (rows[record, subject], record, subject, torch.full_like(record, outcome))
    return np.stack([part.numpy(force=True) for part in parts])


def _effects(density: Density, frame: pd.DataFrame, modes: Tensor) -> pd.DataFrame:
    """Effects and individual parameters at every line."""
    record, subject = frame["_record"].to_numpy(), frame["_subject"].to_numpy()
    model, batch = density.model, density.batch
    columns = dict(zip(model.effect_labels, modes.numpy(force=True)[:, subject], strict=True))
    with torch.no_grad():
        individual = density.at().individual(modes[:, None, None])
    owners = [owner for block in model.blocks if block.kind == "individual" for owner in block.owners]
    for owner in owners:
        value = getattr(individual, owner).expand(batch.n_records, 1, 1, batch.n_subjects)[:, 0, 0]
        columns[owner] = value.numpy(force=True)[record, subject]
    return pd.DataFrame(columns, index=frame.index)


def _join(frame: pd.DataFrame, other: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """Put columns beside others; one whose name is taken gets a prefix."""
    frame = frame.drop(columns=[name for name in frame if prefix and str(name).startswith("_")])
    taken = {name: f"{prefix or 'individual_'}{name}" for name in other if name in frame}
    return pd.concat([frame, other.rename(columns=taken)], axis=1)
