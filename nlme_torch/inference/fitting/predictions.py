"""Predictions and residuals at every observation, in the order of the user's rows."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Distribution, LogNormal

from nlme_torch.model.density.density import Density
from nlme_torch.model.observation import Correlated

if TYPE_CHECKING:
    from nlme_torch.data import Dataset


def prediction_table(density: Density, data: "Dataset", modes: Tensor) -> pd.DataFrame:
    """Return population and individual predictions with their residuals.

    Args:
        density: The model at the estimated parameters, joined to the data.
        data: The data set, for row order.
        modes: Conditional modes, ``(effect, subject)``; NaN where not known.

    Returns:
        One row per observation (and per requested new time): row, id, time, outcome, DV, PRED (typical subject, eta
        = 0),
        IPRED (eta at the conditional mode), RES = DV - PRED, IRES = DV - IPRED, IWRES = IRES / standard deviation (of
        the logarithm where the outcome is log-normal); NaN for a subject whose equation cannot be solved or whose mode
        is not known, and residuals of censored values.
    """
    with torch.no_grad():
        conditional = density.at()
        typical, typical_solved = conditional.observe(torch.zeros_like(modes)[:, None, None])
        found = torch.isfinite(modes).all(0)
        individual, individual_solved = conditional.observe(torch.where(found, modes, 0.0)[:, None, None])
        individual_solved = individual_solved & found
    batch = density.batch
    wanted_new = torch.zeros_like(batch.record_mask)
    new_rows = np.flatnonzero(data.prediction_rows)
    if len(new_rows):
        wanted_new = torch.isin(batch.rows, torch.as_tensor(new_rows, device=batch.rows.device))
    tables = []
    for name, outcome in batch.outcomes.items():
        record, subject = torch.nonzero(outcome.mask | wanted_new, as_tuple=True)

        def pick(
            value: Tensor, shape: torch.Size = batch.times.shape, at: tuple[Tensor, Tensor] = (record, subject)
        ) -> np.ndarray:
            return value.expand(shape[0], 1, 1, shape[1])[:, 0, 0][at].numpy(force=True)

        observed = np.where(
            outcome.mask[record, subject].numpy(force=True), outcome.value[record, subject].numpy(force=True), np.nan
        )
        if outcome.censoring is not None:
            known = np.where(outcome.censoring[record, subject].numpy(force=True) == 0, observed, np.nan)
        else:
            known = observed
        pred = pick(torch.where(typical_solved, typical[name].mean, torch.nan))
        ipred = pick(torch.where(individual_solved, individual[name].mean, torch.nan))
        weighted = _weighted(individual[name], outcome.value[:, None, None])
        iwres = pick(torch.where(individual_solved, weighted, torch.nan))
        tables.append(
            pd.DataFrame(
                {
                    "row": batch.rows[record, subject].numpy(force=True),
                    "id": [batch.subjects[index] for index in subject.tolist()],
                    "time": batch.times[record, subject].numpy(force=True),
                    "outcome": name,
                    "DV": observed,
                    "PRED": pred,
                    "IPRED": ipred,
                    "RES": known - pred,
                    "IRES": known - ipred,
                    "IWRES": np.where(np.isnan(known), np.nan, iwres),
                }
            )
        )
    return pd.concat(tables).sort_values("row", kind="stable").reset_index(drop=True)


def _weighted(distribution: Distribution, value: Tensor) -> Tensor:
    """Residuals in standard deviations, on the scale on which the error is symmetric."""
    distribution = distribution.base if isinstance(distribution, Correlated) else distribution
    if isinstance(distribution, LogNormal):
        return (torch.where(value > 0, value, torch.nan).log() - distribution.loc) / distribution.scale
    return (value - distribution.mean) / distribution.stddev
