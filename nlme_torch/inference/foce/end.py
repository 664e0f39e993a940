"""What is told where a search ended: effects with their precision, and the likelihood by its method's name."""

import math

import torch
from torch import Tensor

from nlme_torch.inference.effects.effect_estimates import EffectEstimates
from nlme_torch.inference.estimates.log_likelihood import LogLikelihood
from nlme_torch.inference.likelihood.likelihood import from_estimate
from nlme_torch.inference.likelihood.monte_carlo import MarginalEstimate
from nlme_torch.inference.marginal.approximation import Approximation, batched
from nlme_torch.inference.marginal.expansion_points import Expansion
from nlme_torch.inference.marginal.quadrature import next_rule
from nlme_torch.inference.modes.conditional_modes import ModeStatus
from nlme_torch.inference.modes.newton import inner_modes
from nlme_torch.inference.numerics import linear_algebra
from nlme_torch.model.declare.values import ParameterValues


def natural_effects(approximation: Approximation, values: ParameterValues, found: Expansion) -> tuple[Tensor, Tensor]:
    """Return eta ``(effect, subject)`` and its curvature ``(effect, effect, subject)`` from standardised effects."""
    with torch.no_grad():
        conditional = approximation.density.at(values)
        centre, curvature = found.evaluation.centre, found.evaluation.curvature[:, :, 0]
        identity = torch.eye(len(centre), dtype=centre.dtype, device=centre.device)
        factor = conditional.colour(identity[:, :, None, None].expand(-1, -1, conditional.starts, 1))[:, :, 0, 0]
        eta = conditional.colour(centre[:, None])[:, 0, 0]
        inverse = linear_algebra.inverse(factor)
        return eta, torch.einsum("ai,abn,bj->ijn", inverse, curvature, inverse)


def effect_estimates(
    approximation: Approximation, values: ParameterValues, found: Expansion, generator: torch.Generator
) -> EffectEstimates:
    """Return modes, normal approximations and 100 draws of the effects; after FO, modes of the joint density."""
    density = approximation.density
    with torch.no_grad():
        conditional = density.at(values)
    if not approximation.has_modes:
        integrand = approximation.integrand(conditional)
        modes = inner_modes(integrand, found.evaluation.centre)
        evaluation = found.evaluation._replace(centre=modes.effects)
        found = Expansion(evaluation, modes.status, modes.evaluations)
    eta, precision = natural_effects(approximation, values, found)
    lost = (found.status[0] != ModeStatus.CONVERGED) & (found.status[0] != ModeStatus.STALLED)
    eta, precision = torch.where(lost, torch.nan, eta), torch.where(lost, torch.nan, precision)
    with torch.no_grad():
        covariance = linear_algebra.inverse(batched(precision))
        factor = linear_algebra.cholesky(0.5 * (covariance + covariance.mT))
        noise = torch.randn(*eta.shape[::-1], 100, generator=generator, dtype=eta.dtype).to(eta.device)
        kept = eta[:, None] + (factor @ noise).permute(1, 2, 0)
        joint = conditional.log_joint(eta[:, None, None])[0, 0]
    return EffectEstimates(eta, precision, joint, eta, covariance.permute(1, 2, 0), kept)


def log_likelihood(approximation: Approximation, values: ParameterValues, found: Expansion) -> LogLikelihood:
    """Return the approximate log-likelihood with its method's name."""
    value = -0.5 * found.evaluation.value[0].detach()
    nothing = torch.full_like(value, math.nan)
    following = next_rule(approximation, values, found.evaluation.centre)
    estimate = MarginalEstimate(value, torch.zeros_like(value), nothing, nothing, 0, following)
    return from_estimate(approximation.density, estimate, approximation.name)
