"""How well the curve of every subject is known: its percentiles over the conditional distribution of the effects."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch

from nlme_torch.diagnostics.fit_curves import time_grids
from nlme_torch.errors import DataError
from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.method_arguments import check_fit
from nlme_torch.model.density.density import Density

CHUNK = 4_000_000
"""Records times draws that are solved at once: 32 MB for every state."""


def individual_bands(
    fit: Fit, subjects: Iterable[Any] | None = None, points: int = 100, *, draws: int = 100, level: float = 0.9
) -> pd.DataFrame:
    """Return pointwise intervals of every subject's expected outcome, given its data.

    Args:
        fit: A fit.
        subjects: Ids; all if None.
        points: Grid points per subject, as in :func:`fit_curves`.
        draws: Conditional draws that are solved; the fit may have kept fewer.
        level: Of the intervals.

    Returns:
        Columns id, time [data's time unit], outcome, lower and upper [outcome's unit], at the times of
        :func:`fit_curves`.

    Raises:
        DataError: A subject is unknown, or the level is no probability.
    """
    check_fit("individual_bands", fit)
    if not 0 < level < 1:
        raise DataError(f"level must be a probability, got {level}.")
    data = fit.data if subjects is None else fit.data.subset(subjects)
    extended = data.with_times(time_grids(data.batch(), points))
    device = fit.effects.modes.device
    density = Density(fit.model, extended.batch(device=device), fit.solver)
    batch = density.batch
    places = [fit.data.subjects.index(label) for label in data.subjects]
    kept = fit.effects.draws
    picked = np.unique(np.linspace(0, kept.shape[1] - 1, min(draws, kept.shape[1])).round().astype(int))
    eta = kept[:, torch.as_tensor(picked, device=device)][:, :, None, places]
    new = torch.isin(batch.rows, torch.as_tensor(np.flatnonzero(extended.prediction_rows), device=device))
    record, subject = torch.nonzero(new, as_tuple=True)
    order = torch.argsort(batch.rows[record, subject])
    record, subject = record[order], subject[order]
    pieces: dict[str, list[torch.Tensor]] = {name: [] for name in batch.outcomes}
    with torch.no_grad():
        conditional = density.at()
        for part in eta.split(max(1, CHUNK // (batch.n_records * batch.n_subjects)), dim=1):
            observed, solved = conditional.observe(part)
            shape = (batch.n_records, part.shape[1], 1, batch.n_subjects)
            for name, values in pieces.items():
                mean = torch.where(solved, observed[name].mean, torch.nan).expand(shape)[:, :, 0]
                values.append(mean.permute(0, 2, 1)[record, subject])
    tables = []
    for name, values in pieces.items():
        low, high = np.nanquantile(torch.cat(values, 1).numpy(force=True), [0.5 - level / 2, 0.5 + level / 2], axis=1)
        columns = {
            "id": [batch.subjects[index] for index in subject.tolist()],
            "time": batch.times[record, subject].numpy(force=True),
        }
        tables.append(pd.DataFrame({**columns, "outcome": name, "lower": low, "upper": high}))
    return pd.concat(tables, ignore_index=True)
