"""Importance sampling of the marginal likelihood, with the diagnostics that say whether to believe it."""

from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Float, LogDensity
from nlme_torch.errors import FitError
from nlme_torch.inference.likelihood.monte_carlo import MarginalEstimate, log_mean
from nlme_torch.inference.likelihood.pareto_smoothing import pareto_smooth
from nlme_torch.inference.mcmc.kernels import evaluate
from nlme_torch.inference.mcmc.proposals import Mixture


class WeightedDraws(NamedTuple):
    """Draws from a proposal and their importance weights.

    Attributes:
        effects: Draws, ``(effect, sample, subject)``.
        log_weights: Log joint density minus log proposal density, ``(sample, subject)``.
    """

    effects: Tensor
    log_weights: Tensor

    def moments(self) -> tuple[Float[Tensor, "effect subject"], Float[Tensor, "effect effect subject"]]:
        """Self-normalised conditional mean and covariance of each subject."""
        weights = self.log_weights.softmax(0)
        mean = (weights * self.effects).sum(1)
        centred = self.effects - mean[:, None]
        return mean, torch.einsum("ins,jns,ns->ijs", centred, centred, weights)


def draw_weighted(
    log_joint: LogDensity,
    proposal: Mixture,
    *,
    samples: int,
    generator: torch.Generator,
    max_columns: int = 50_000,
) -> WeightedDraws:
    """Draw from the proposal and weight by the log joint density.

    Args:
        log_joint: Log joint density, ``(effect, *batch) -> (*batch)``; a draw where it cannot be evaluated
            weighs zero.
        proposal: The importance distribution of every subject.
        samples: Draws per subject.
        generator: Source of randomness.
        max_columns: Largest batch of one call.

    Returns:
        The weighted draws.
    """
    effects = proposal.sample(samples, generator)
    chunk = max(1, max_columns // effects.shape[-1])
    weights = [evaluate(log_joint, part) - proposal.log_density(part) for part in effects.split(chunk, 1)]
    return WeightedDraws(effects, torch.cat(weights))


def summarise(draws: WeightedDraws, *, evaluations: int = 1) -> MarginalEstimate:
    r"""The estimate that weighted draws give.

    .. math::
        \log \hat p(y_i) = \log \frac1S \sum_s w_s, \qquad
        \mathrm{se} = \sqrt{\frac{\widehat{\mathrm{var}}(w)}{S\, \bar w^2}}

    Args:
        draws: From ``draw_weighted``.
        evaluations: Calls behind them, passed on.

    Returns:
        The estimate; the effective size is :math:`(\sum w)^2 / \sum w^2`.

    Raises:
        FitError: No draw of a subject could be evaluated; names the subjects.
    """
    log_weights = draws.log_weights
    hopeless = torch.isinf(log_weights).all(0)
    if bool(hopeless.any()):
        where = [int(i) for i in hopeless.nonzero()[:, 0]]
        raise FitError(
            f"importance sampling: none of {len(log_weights)} draws could be evaluated for the subjects at "
            f"positions {where} of the batch. Check the proposal's centre and the model there."
        )
    weights = log_weights.softmax(0)
    effective = 1.0 / weights.pow(2).sum(0)
    samples = len(log_weights)
    relative_variance = (samples * weights).var(0) / samples
    return MarginalEstimate(
        log_mean(log_weights), relative_variance.sqrt(), effective, pareto_smooth(log_weights)[1], evaluations
    )


def importance_sampling(
    log_joint: LogDensity,
    proposal: Mixture,
    *,
    samples: int = 5000,
    generator: torch.Generator,
    max_columns: int = 50_000,
) -> MarginalEstimate:
    r"""Marginal likelihood of every subject by importance sampling.

    .. math:: p(y_i) = \int \frac{p(y_i, \eta)}{q_i(\eta)}\, q_i(\eta)\, d\eta

    Best with a Student-t at the conditional mean with the conditional covariance, or a mixture over the
    distinct modes (``laplace.laplace_mixture``), whose whole density stands in the denominator. It fails
    quietly with tens of effects: read ``khat`` and ``effective_size``, and use annealed importance sampling there.

    Args:
        log_joint: Log joint density with all constants, ``(effect, *batch) -> (*batch)``.
        proposal: The importance distribution of every subject.
        samples: Draws per subject.
        generator: Source of randomness.
        max_columns: Largest batch of one call.

    Returns:
        Estimate, standard error, effective size and Pareto shape per subject.

    Raises:
        FitError: No draw of a subject could be evaluated.

    Example:
        >>> import torch
        >>> from nlme_torch.inference.mcmc.proposals import student
        >>> log_joint = lambda e: -0.5 * e.pow(2).sum(0) - torch.log(torch.tensor(2 * torch.pi))
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> proposal = student(torch.zeros(2, 3, dtype=torch.float64), eye[..., None])
        >>> result = importance_sampling(log_joint, proposal, generator=torch.Generator().manual_seed(0))
        >>> abs(result.total) < 4 * result.total_standard_error
        True

    References:
        Kuhn and Lavielle (2005), Maximum likelihood estimation in nonlinear mixed effects models.
        doi:10.1016/j.csda.2004.07.033
        Owen and Zhou (2000), Safe and effective importance sampling. doi:10.1080/01621459.2000.10473909
    """
    draws = draw_weighted(log_joint, proposal, samples=samples, generator=generator, max_columns=max_columns)
    chunk = max(1, max_columns // draws.effects.shape[-1])
    return summarise(draws, evaluations=-(-samples // chunk))
