"""Several starting points at once, and what Laplace's approximation says of each."""

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.inference.modes.conditional_modes import best_mode, conditional_modes
from nlme_torch.inference.modes.effect_density import column_density
from nlme_torch.inference.modes.mode_search import reach
from nlme_torch.model.declare.raw_parameters import names_of_omega
from nlme_torch.model.declare.values import ParameterValues, free_names
from nlme_torch.model.density.density import Density


def jittered_starts(
    density: Density, values: ParameterValues, starts: int, spread: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return values for all starts: the first as given, the others perturbed on the estimation scale.

    Args:
        density: The model with its data.
        values: Raw name to ``(1, *shape)``.
        starts: Number of starts.
        spread: Standard deviation of the perturbation of everything but Omega.
        generator: Source of randomness.

    Returns:
        Raw name to ``(start, *shape)``. Starts at which a subject's log joint is not finite are drawn in by halves.
    """
    centre = {name: value.expand(starts, *value.shape[1:]).clone() for name, value in values.items()}
    shifts = {}
    omegas = names_of_omega(density.model)
    for name in free_names(density.model):
        if name not in omegas:
            value = centre[name]
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype, device=generator.device)
            noise[0] = 0.0
            shifts[name] = spread * noise.to(value.device)
    if starts == 1:
        return centre
    batch = density.batch
    zero = batch.times.new_zeros(density.model.n_effects, 1, starts, batch.n_subjects)
    for _ in range(20):
        result = {**centre, **{name: centre[name] + shift for name, shift in shifts.items()}}
        with torch.no_grad():
            usable = torch.isfinite(density.at(result).log_joint(zero)).all(-1)[0]
        usable[0] = True  # the values as given: what is wrong with them is the user's to know
        if bool(usable.all()):
            break
        for name, shift in shifts.items():
            shifts[name] = torch.where(usable.reshape(-1, *(1,) * (shift.dim() - 1)), shift, 0.5 * shift)
    return result


def usable_starts(density: Density, values: ParameterValues) -> dict[str, Tensor]:
    """Leave out the starts at which the log joint of a typical subject cannot be evaluated, unless that is all.

    Args:
        density: The model with its data.
        values: Raw name to ``(start, *shape)``.
    """
    starts = len(next(iter(values.values())))
    zero = density.batch.times.new_zeros(density.model.n_effects, 1, starts, density.batch.n_subjects)
    with torch.no_grad():
        usable = torch.isfinite(density.at(values).log_joint(zero)).all(-1)[0]
    if bool(usable.all()) or not bool(usable.any()):
        return dict(values)
    return {name: value[usable] for name, value in values.items()}


def laplace_of_starts(
    density: Density, values: ParameterValues, transformed: Float[Tensor, "effect chain start subject"]
) -> Float[Tensor, "start"]:
    """Return the penalised Laplace log-likelihood of every start, to rank them; -inf where it cannot be had.

    Args:
        density: The model with its data.
        values: Raw name to ``(start, *shape)``.
        transformed: Draws of phi to begin the search of the modes at.
    """
    conditional = density.at(values)
    origins = (transformed - conditional.mean[:, None])[:, :1].flatten(-2)
    target, longest = column_density(conditional), reach(conditional)
    modes = best_mode(conditional_modes(target, origins, tolerance=1e-4, newton_steps=15, reach=longest))
    log_det = torch.linalg.slogdet(modes.precision.permute(2, 0, 1)).logabsdet
    half = 0.5 * transformed.shape[0] * torch.log(log_det.new_tensor(2 * torch.pi))
    subjects = (modes.value + half - 0.5 * log_det).reshape(transformed.shape[2], -1)
    return torch.nan_to_num(subjects.sum(-1) + density.log_prior(values), nan=-torch.inf, posinf=-torch.inf)
