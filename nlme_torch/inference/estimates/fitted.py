"""What is judged: a model at its estimates, the data, the method, the effects and the likelihood."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nlme_torch.inference.effects.effect_estimates import EffectEstimates
from nlme_torch.inference.estimates.estimation import FitMethod
from nlme_torch.inference.estimates.log_likelihood import LogLikelihood
from nlme_torch.model.declare.model import Model
from nlme_torch.model.density.density import Density
from nlme_torch.solve import Solver

if TYPE_CHECKING:
    from nlme_torch.data import Dataset


@dataclass(frozen=True)
class Fitted:
    """The part of a fit that standard errors, likelihoods and validation are computed from.

    Attributes:
        model: The model at its estimates.
        data: The data it was fitted to.
        method: The estimation method with its settings; ``str`` of it is its text.
        solver: How its equations were solved.
        effects: Conditional modes, means, covariances and draws of the random effects.
        log_likelihood: Marginal log-likelihood with its method and diagnostics.
    """

    model: Model
    data: "Dataset"
    method: FitMethod
    solver: Solver
    effects: EffectEstimates
    log_likelihood: LogLikelihood

    @property
    def density(self) -> Density:
        """The model joined to its data and solver, as it is now."""
        return self._density.refreshed()

    @cached_property
    def _density(self) -> Density:
        device = self.effects.modes.device
        return Density(self.model, self.data.batch(device=device), self.solver)
