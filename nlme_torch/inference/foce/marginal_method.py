"""What FO, FOCE, FOCEI, Laplace and Quadrature have in common: a fit, and a likelihood at given parameters."""

from dataclasses import dataclass

import torch

from nlme_torch.inference.effects.effect_estimates import EffectEstimates
from nlme_torch.inference.estimates.estimation import Estimation
from nlme_torch.inference.foce.maximum_likelihood import maximise
from nlme_torch.inference.foce.settings import MarginalSettings
from nlme_torch.inference.likelihood.monte_carlo import MarginalEstimate
from nlme_torch.inference.marginal.laplace import next_rule
from nlme_torch.inference.marginal.objective import MarginalObjective
from nlme_torch.inference.modes.effect_density import StandardisedDensity
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density


@dataclass(frozen=True, kw_only=True)
class MarginalMethod(MarginalSettings):
    """An approximation of the marginal likelihood that can be maximised, and evaluated after a fit.

    Attributes: those of :class:`MarginalSettings`.
    """

    def estimate(self, density: Density, generator: torch.Generator, progress: bool) -> Estimation:
        """Maximise the approximate likelihood (with priors: the posterior density) from the model's own values.

        Args:
            density: The model, joined to data and solver.
            generator: Source of randomness, for further starts.
            progress: Whether to show a progress line.

        Raises:
            FitError: The model does not suit the method, or a subject cannot be evaluated at the initial values.
        """
        return maximise(self, density, generator, progress)

    def log_marginal(self, density: Density, effects: EffectEstimates, generator: torch.Generator) -> MarginalEstimate:
        """Approximate every subject's log marginal likelihood at the model's own parameters."""
        values = parameter_values(density.model)
        approximation = self.approximation(density)
        known = StandardisedDensity(density.at()).standardise(effects.modes[:, None])
        objective = MarginalObjective(approximation, values, self.searches(density), begin=known)
        found = objective.expansion(objective.initial, gradient=False).evaluation
        value = -0.5 * found.value[0]
        nothing = torch.full_like(value, torch.nan)
        following = next_rule(approximation, values, found.centre)
        return MarginalEstimate(value, torch.zeros_like(value), nothing, nothing, objective.evaluations, following)
