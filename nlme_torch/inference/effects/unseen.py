"""What likelihood methods need to know of the effects of subjects that no fit has seen."""

from dataclasses import replace

import torch

from nlme_torch.inference.effects.at_modes import effects_at_modes
from nlme_torch.inference.effects.effect_estimates import EffectEstimates, estimate_effects
from nlme_torch.model.density.density import Density


def effects_for_likelihood(density: Density, generator: torch.Generator) -> EffectEstimates:
    """Return what likelihood methods need to know of subjects that no fit has seen, at a model's own parameters.

    Args:
        density: The model, joined to data and solver.
        generator: Source of randomness.
    """
    conditional = density.at()
    if not density.model.n_effects:
        return estimate_effects(density, None, generator)
    effects = effects_at_modes(conditional, generator)
    with torch.no_grad():  # where likelihood methods begin their search for further modes
        spread = conditional.sample(effects.draws.shape[1], generator)[:, :, 0]
    return replace(effects, draws=spread)
