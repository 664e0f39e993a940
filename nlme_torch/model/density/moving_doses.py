"""Whether the times of doses and switches move with parameters: where the likelihood has kinks."""

import torch

from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.model.dosing.dosing_events import given_doses
from nlme_torch.model.trajectory.system import DifferentialSystem


def dose_times_move(density: Density) -> bool:
    """Return whether lags, the ends of infusions or switches in time depend on parameters or random effects.

    Where such a time passes an observation the likelihood is continuous and its gradient is not: a search by gradients
    may end at a kink, which is no maximum.

    Args:
        density: A model with its data.
    """
    plan, model, batch = density._plan, density.model, density.batch
    if not model.has_dynamics:
        return False
    with torch.enable_grad():
        values = {name: value.detach().requires_grad_() for name, value in parameter_values(model).items()}
        effects = torch.zeros(
            model.n_effects, 1, 1, batch.n_subjects, dtype=batch.dtype, device=batch.device, requires_grad=True
        )
        conditional = density.at(values)
        individual = conditional.individual(effects)
        if plan is not None and plan.extras is not None:
            given = given_doses(plan, model.dosing(individual))
            if any(value is not None and value.requires_grad for value in (given.lag, given.duration)):
                return True
        trajectory = conditional.trajectory(individual, effects)
        system = trajectory.system
        if not isinstance(system, DifferentialSystem) or system.switched is None:
            return False
        return system.posed(trajectory.initial, trajectory.timeline)[1].times.requires_grad
