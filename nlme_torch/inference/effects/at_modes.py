"""Conditional distributions of the random effects as normals at their modes: no chains, hence quick."""

import torch

from nlme_torch.inference.effects.effect_estimates import EffectEstimates, find_modes
from nlme_torch.inference.mcmc.proposals import factor_of_precision
from nlme_torch.inference.numerics.positive_definite import prior_factor
from nlme_torch.model.density.density import Conditional


def effects_at_modes(
    conditional: Conditional, generator: torch.Generator, *, starts: int = 12, draws: int = 100
) -> EffectEstimates:
    """Find the best conditional mode of every subject and the curvature there.

    Args:
        conditional: Densities at the parameters.
        generator: Source of randomness.
        starts: Searches per subject: from zero and from draws of the prior.
        draws: Draws per subject from the normal distribution at the mode.

    Returns:
        The estimates; means are the modes. Where a search failed, mean and covariance are those of the prior, which is
        wider than any conditional distribution.
    """
    with torch.no_grad():
        origins = conditional.sample(starts - 1, generator)[:, :, 0]
        root = prior_factor(conditional)
    modes = find_modes(conditional, torch.cat([torch.zeros_like(origins[:, :1]), origins], dim=1))
    factors = factor_of_precision(modes.precision).permute(2, 0, 1)
    concave = torch.isfinite(factors).all(-1).all(-1)[:, None, None]
    factors = torch.where(concave, factors, root)
    precision = torch.where(concave, modes.precision.permute(2, 0, 1), torch.cholesky_inverse(root))
    covariances = factors @ factors.mT
    means = modes.effects.nan_to_num(0.0)
    shape = (*covariances.shape[:2], draws)
    noise = torch.randn(shape, generator=generator, dtype=covariances.dtype, device=generator.device)
    spread = (factors @ noise.to(covariances.device)).permute(1, 2, 0)
    return EffectEstimates(
        modes=modes.effects,
        precision=precision.permute(1, 2, 0),
        log_joint=modes.value,
        means=means,
        covariances=covariances.permute(1, 2, 0),
        draws=means[:, None] + spread,
    )
