r"""What weighted quasi-random draws tell of every subject: its likelihood, and its effects given the data.

Rounds of :func:`~nlme_torch.inference.likelihood.quasi_draws.quasi_draws`, each about the mean and covariance that the
last one found, are added up until the Monte-Carlo error of the total is small. The same draws, resampled by their
weights, are draws of the conditional distributions.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.inference.effects.effect_estimates import EffectEstimates, effects_of_draws
from nlme_torch.inference.likelihood.monte_carlo import MarginalEstimate, log_mean
from nlme_torch.inference.likelihood.quasi_draws import QuasiDraws, Shape, quasi_draws
from nlme_torch.model.density.density import Density

ERROR, MOST_DRAWS, MOST_COLUMNS = 0.02, 8192, 1_600_000
"""Standard error of the total log-likelihood that is good enough (a twenty-fifth of a unit of -2LL), most draws per
subject, and most of all subjects: 2000 each of 800 subjects leave an error of 0.1."""
REPLICATES, DRAWS, COLUMNS = 16, (32, 256), 100_000
"""Replicates, from which the error is told; fewest and most draws of each per subject in one round, and how many of all
subjects a round should have."""
ATTEMPTS = 3
"""How often draws shape the next ones until they are trusted."""


KEPT = 600
"""Draws of every subject's effects that are kept."""


class EvenDraws(NamedTuple):
    """What the draws tell.

    Attributes:
        estimate: Marginal likelihoods.
        last: The last round.
    """

    estimate: MarginalEstimate
    last: QuasiDraws


def even_draws(
    density: Density,
    means: Float[Tensor, "effect subject"],
    covariances: Float[Tensor, "effect effect subject"],
    generator: torch.Generator,
) -> EvenDraws | None:
    """Draw at a model's own parameters until the error is small.

    Args:
        density: The model with its data.
        means: About where every subject's eta lies.
        covariances: And how far it spreads.
        generator: Source of randomness.

    Returns:
        What the draws tell; None where they stay too uneven to be trusted.
    """
    if not bool(torch.isfinite(means).all() & torch.isfinite(covariances).all()):
        return None
    conditional = density.at()
    shape = Shape((means + conditional.mean[:, 0]).detach(), covariances)
    count = min(max(COLUMNS // (REPLICATES * density.batch.n_subjects), DRAWS[0]), DRAWS[1])
    found: list[QuasiDraws] = []
    failures = 0
    while True:
        drawn = quasi_draws(conditional, shape, count, REPLICATES, generator)
        if not drawn.usable:
            return None
        shape = drawn.shape()
        if not drawn.trusted:
            failures += 1
            if failures == ATTEMPTS:
                return None
            continue
        found.append(drawn)
        estimate = _estimate(found, count)
        next_draws = (len(found) + 1) * count * REPLICATES
        over = next_draws > MOST_DRAWS or next_draws * density.batch.n_subjects > MOST_COLUMNS
        if over or estimate.total_standard_error <= ERROR:
            return EvenDraws(estimate, drawn)


def effects_and_likelihood(
    density: Density, draws: Float[Tensor, "effect draw subject"], generator: torch.Generator
) -> tuple[EffectEstimates, MarginalEstimate] | None:
    """Find effects and likelihood at a model's own parameters with the same draws.

    Args:
        density: The model with its data.
        draws: Of eta, from the conditional distributions at parameters nearby.
        generator: Source of randomness.

    Returns:
        Both; None where weighted draws cannot be trusted.
    """
    means = draws.mean(1)
    deviations = draws - means[:, None]
    covariances = torch.einsum("icn,jcn->ijn", deviations, deviations) / draws.shape[1]
    even = even_draws(density, means, covariances, generator)
    if even is None:
        return None
    conditional, shape = density.at(), even.last.shape()
    with torch.no_grad():
        mean = conditional.mean[:, 0]
        kept = even.last.resampled(KEPT, generator) - mean[:, None]
        effects = effects_of_draws(conditional, kept, shape.mean - mean, shape.covariance, generator)
    return effects, even.estimate


def _estimate(found: list[QuasiDraws], count: int) -> MarginalEstimate:
    """Put rounds together; all replicates are independent."""
    each = torch.cat([drawn.log_marginal for drawn in found])
    value = log_mean(each)
    error = ((each - value).exp().var(0) / len(each)).sqrt()
    effective = torch.stack([drawn.effective for drawn in found]).mean(0) * len(each) * count
    return MarginalEstimate(value, error, effective, found[-1].khat, len(each) * count)
