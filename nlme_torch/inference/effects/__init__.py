"""Conditional distributions of the random effects: modes, moments, draws."""

from nlme_torch.inference.effects.effect_estimates import find_modes as find_modes
