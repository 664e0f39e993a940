"""What FO, FOCE, FOCEI, Laplace and Quadrature have in common: a fit, and a likelihood at given parameters."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from nlme_torch.errors import FitError
from nlme_torch.inference.effects.effect_estimates import EffectEstimates
from nlme_torch.inference.estimates.estimation import Estimation
from nlme_torch.inference.foce.maximum_likelihood import maximise
from nlme_torch.inference.foce.search import Search
from nlme_torch.inference.likelihood.monte_carlo import MarginalEstimate
from nlme_torch.inference.marginal.approximation import Approximation
from nlme_torch.inference.marginal.objective import MarginalObjective
from nlme_torch.inference.marginal.quadrature import next_rule
from nlme_torch.inference.modes.effect_density import StandardisedDensity
from nlme_torch.model.covariates.identified import refuse_confounded
from nlme_torch.model.declare.values import ParameterValues, parameter_values
from nlme_torch.model.density.density import Density

Method = TypeVar("Method", bound="MarginalMethod")


@dataclass(frozen=True, kw_only=True)
class MarginalMethod(Search, ABC):
    """An approximation of the marginal likelihood that can be maximised, and evaluated at given parameters.

    Attributes: those of :class:`Search`.
    """

    @property
    def name(self) -> str:
        """What the values of this method are called."""
        return type(self).__name__

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def build(self, density: Density) -> Approximation:
        """Return the approximation for one model and its data."""

    def approximation(self, density: Density) -> Approximation:
        """Return the approximation for one model and its data.

        Args:
            density: The model, joined to data and solver.

        Raises:
            FitError: The model has no random effects, or something that this approximation cannot do.
        """
        if not density.model.n_effects:
            raise FitError(f"the model has no random effects for {self.name} to integrate; use nlme.Pooled().")
        return self.build(density)

    def at(self: Method, density: Density, values: ParameterValues) -> Method:
        """Return the method with everything decided that it leaves to the data and to where it stands.

        Args:
            density: The model, joined to data and solver.
            values: Raw name to ``(1, *shape)``.
        """
        return self

    def estimate(self, density: Density, generator: torch.Generator, progress: bool) -> Estimation:
        """Maximise the approximate likelihood (with priors: the posterior density) from the model's own values.

        Args:
            density: The model, joined to data and solver.
            generator: Source of randomness, for further starts.
            progress: Whether to show a progress line.

        Raises:
            FitError: The model does not suit the method, or a subject cannot be evaluated at the initial values.
        """
        refuse_confounded(density.model, density.regressors)
        found = maximise(self.approximation(density), self, generator, progress)
        assert found.log_likelihood is not None
        return replace(found, log_likelihood=replace(found.log_likelihood, settings=self))

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
