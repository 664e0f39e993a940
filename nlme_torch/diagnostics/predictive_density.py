r"""The predictive density at one data point: where the datum lies in what the model expects there.

.. math::
    p_{pop}(y) = \int p(y \mid \eta, \theta)\, N(\eta; 0, \Omega)\, d\eta, \qquad
    p_{ind}(y) = \int p(y \mid \eta, \theta)\, p(\eta \mid y_i, \theta)\, d\eta
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from nlme_torch.data import Batch
from nlme_torch.diagnostics.mixture import Mixture, observation_mixture
from nlme_torch.errors import DataError
from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.method_arguments import check_fit
from nlme_torch.model.density.density import Density


@dataclass(frozen=True)
class PredictiveDensity:
    """What a fitted model expects at one observation.

    Attributes:
        row: 0-based position of the observation in the user's table.
        id: The subject.
        time: Time of the observation [data's time unit].
        outcome: Name of the outcome.
        observed: The datum [outcome's unit].
        discrete: Whether the outcome takes integer values; densities are then probabilities.
        table: Columns value [outcome's unit], population and individual [1 / outcome's unit].
        pit_population: Probability integral transform of the datum, P(Y <= datum), for a new subject with
            this subject's covariates and doses; P(Y < datum) + P(Y = datum) / 2 where discrete.
        pit_individual: The same for this subject, given all of its data, the datum itself included.
    """

    row: int
    id: Any
    time: float
    outcome: str
    observed: float
    discrete: bool
    table: pd.DataFrame
    pit_population: float
    pit_individual: float


def predictive_density(
    fit: Fit, row: int, outcome: str | None = None, *, draws: int = 1000, points: int = 400, seed: int = 0
) -> PredictiveDensity:
    """Return the population and individual predictive densities at one observation.

    Both are mixtures of the outcome's own distribution: the population's over draws of eta ~ N(0, Omega), the
    individual's over draws from the subject's conditional distribution (``fit.effects.draws``).

    Args:
        fit: A fit.
        row: 0-based position of the observation in the user's table, as in ``fit.predictions["row"]``.
        outcome: Name of the outcome; needed only where a row has several.
        draws: Draws in either mixture; the conditional draws kept by the fit may be fewer.
        points: About how many values of the outcome the table has.
        seed: Seed of the draws from N(0, Omega).

    Returns:
        The densities with the datum and its probability integral transforms.

    Raises:
        DataError: Nothing is observed at the row, or the outcome must be named.

    References:
        Dawid (1984), Statistical theory: the prequential approach. doi:10.2307/2981683

    Example:
        >>> import nlme_torch as nlme
        >>> model, data = nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline()
        >>> short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=5, smoothing=5))
        >>> fit = nlme.fit(model, data, short, progress=False)
        >>> at = nlme.diagnostics.predictive_density(fit, row=3)
        >>> at.id, at.observed, 0 < at.pit_population < 1
        (1, 10.5, True)
    """
    check_fit("predictive_density", fit)
    batch = fit.density.batch
    record, subject, name = _locate(batch, row, outcome)
    density = Density(fit.model, batch.select([subject]), fit.solver)
    datum = batch.outcomes[name].value[record, subject]
    kept = fit.effects.draws[:, :, subject]
    picked = torch.linspace(0, kept.shape[1] - 1, min(draws, kept.shape[1])).round().long()
    with torch.no_grad():
        conditional = density.at()
        anyone = conditional.sample(draws, torch.Generator().manual_seed(seed))
        own = kept[:, picked.to(kept.device), None, None]
        mixtures = [observation_mixture(conditional, eta, name, record) for eta in (anyone, own)]
        grid = _grid(mixtures, datum, points)
        densities = [mixture.density(grid) for mixture in mixtures]
        pits = [mixture.cumulative(datum, grid, density) for mixture, density in zip(mixtures, densities, strict=True)]
    columns = {"value": grid, "population": densities[0], "individual": densities[1]}
    return PredictiveDensity(
        row=row,
        id=batch.subjects[subject],
        time=float(batch.times[record, subject]),
        outcome=name,
        observed=float(datum),
        discrete=mixtures[0].discrete,
        table=pd.DataFrame({column: values.numpy(force=True) for column, values in columns.items()}),
        pit_population=pits[0],
        pit_individual=pits[1],
    )


def _locate(batch: Batch, row: int, outcome: str | None) -> tuple[int, int, str]:
    """Find the record, the subject and the outcome that stand in a row of the user's table."""
    at = torch.nonzero(batch.rows == row)
    names = [name for name, observed in batch.outcomes.items() if len(at) and bool(observed.mask[tuple(at[0])])]
    if not names:
        seen = torch.stack([observed.mask for observed in batch.outcomes.values()]).any(0)
        rows = batch.rows[seen]
        raise DataError(
            f"row {row} holds no observation; rows are counted from 0 in the order of the table, and those "
            f"with observations lie between {int(rows.min())} and {int(rows.max())} "
            "(see fit.predictions['row'])."
        )
    if outcome is None and len(names) > 1:
        raise DataError(f"row {row} holds several outcomes, {', '.join(names)}; say which with outcome=.")
    if outcome is not None and outcome not in names:
        raise DataError(f"row {row} holds no observation of {outcome!r}, but of {', '.join(names)}.")
    return int(at[0, 0]), int(at[0, 1]), outcome or names[0]


def _grid(mixtures: list[Mixture], datum: Tensor, points: int) -> Tensor:
    """Values that cover all mixtures: half equally spaced, half where the mass is; or all integers."""
    spans = [mixture.span() for mixture in mixtures]
    everything = torch.cat([*spans, datum[None]])
    low, high = everything.min(), everything.max()
    bounds = torch.tensor(mixtures[0].bounds(), dtype=datum.dtype, device=datum.device)
    if mixtures[0].discrete:
        grid = torch.arange(float(low.floor()), float(high) + 1, dtype=datum.dtype).to(datum.device)
    else:
        share = max(points // (2 * len(spans)), 2)
        pieces = [datum[None]]
        for span in spans:
            ranks = torch.linspace(0, len(span) - 1, share, device=span.device).round().long()
            inner = span[int(0.01 * len(span)) : int(0.99 * len(span)) + 1]
            even = torch.linspace(0, 1, share, dtype=span.dtype, device=span.device)
            pieces += [span[ranks], inner[0] + even * (inner[-1] - inner[0])]
        margin = 1e-6 * (high - low)
        grid = torch.cat([*pieces, bounds - margin, bounds + margin]).unique()
    return grid[torch.stack([mixture.supports(grid) for mixture in mixtures]).any(0)]
