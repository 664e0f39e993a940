"""The choice among the results of several starts."""

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.errors import FitError
from nlme_torch.inference.effects.moves import MANY_EFFECTS
from nlme_torch.inference.likelihood.annealed_importance_sampling import Annealing, annealed_importance_sampling
from nlme_torch.inference.mcmc.proposals import normal
from nlme_torch.inference.modes.effect_density import column_density
from nlme_torch.inference.modes.starts import laplace_of_starts
from nlme_torch.inference.numerics.positive_definite import prior_factor
from nlme_torch.model.declare.values import ParameterValues
from nlme_torch.model.density.density import Density

RANKING = Annealing(chains=64, moves=1)
"""Errors of 0.3 to 0.4 in the log-likelihood of twelve subjects with eleven effects."""


def best_start(
    density: Density, values: ParameterValues, transformed: Tensor, generator: torch.Generator
) -> tuple[int, str]:
    """Choose the start with the highest penalised marginal log-likelihood.

    Laplace's approximation ranks starts with few effects. With many it is off by several units, by more for one start
    than for the next, and draws decide.

    Args:
        density: The model with its data.
        values: Raw name to ``(start, *shape)``.
        transformed: Draws of phi, ``(effect, chain, start, subject)``, to begin the search of the modes at.
        generator: Source of randomness.

    Returns:
        The start, and the values of the best ones in words.
    """
    if transformed.shape[2] == 1:
        return 0, ""
    method, marginal = "Laplace", laplace_of_starts(density, values, transformed)
    if len(transformed) > MANY_EFFECTS:
        method, marginal = "annealed", annealed_of_starts(density, values, marginal, generator)
    ranked = ", ".join(f"{value:.1f}" for value in marginal.sort(descending=True).values[:4].tolist())
    return int(marginal.argmax()), f"by {method} log-likelihood ({ranked})"


def annealed_of_starts(
    density: Density, values: ParameterValues, laplace: Float[Tensor, "start"], generator: torch.Generator
) -> Float[Tensor, "start"]:
    """Return the penalised log-likelihood of every start by annealing from the prior of the effects.

    Args:
        density: The model with its data.
        values: Raw name to ``(start, *shape)``.
        laplace: Laplace's approximation, which stands for all where annealing does not reach one of them.
        generator: Source of randomness.
    """
    conditional = density.at(values)
    subjects = density.batch.n_subjects
    with torch.no_grad():
        factor = prior_factor(conditional).permute(1, 2, 0).repeat_interleave(subjects, -1)
    reference = normal(torch.zeros_like(factor[0]), factor)
    try:
        found = annealed_importance_sampling(
            column_density(conditional), reference, generator=generator, annealing=RANKING
        )
    except FitError:  # the ladder grew too long
        return laplace
    each = found.estimate.log_marginal.reshape(-1, subjects).sum(-1) + density.log_prior(values).detach()
    return torch.nan_to_num(each, nan=-torch.inf, posinf=-torch.inf)
