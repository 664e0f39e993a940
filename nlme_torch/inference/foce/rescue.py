"""A second way to the maximum, for searches that began far from it or did not end in one."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nlme_torch.errors import FitError, NLMEError
from nlme_torch.inference.effects.moves import Moves
from nlme_torch.inference.saem.schedule import StepSchedule
from nlme_torch.inference.saem.step import SAEMAlgorithm
from nlme_torch.model.declare.values import ParameterValues
from nlme_torch.model.density.density import Density
from nlme_torch.settings import check_at_least, check_types


@dataclass(frozen=True, kw_only=True)
class Rescue:
    """When an outer search is not to be trusted, and what looks for another beginning.

    Quasi-Newton steps from far away end in a wrong basin rather often: variances swallow what a typical value is wrong
    by. A short SAEM is slower and nearly blind to that. It runs from the same initial values where the search lowered
    -2 log-likelihood by much or ended without a maximum; a second search begins where it ends, and the better of the
    two counts. A search from good initial values pays nothing.

    Attributes:
        exploration: Iterations of SAEM with full steps.
        smoothing: Iterations with falling steps.
        chains: Chains per subject.
        fall: Of -2 log-likelihood per observation, during the search, from which the initial values are called poor.

    Example:
        >>> import nlme_torch as nlme
        >>> suspicious = nlme.FOCEI(rescue=nlme.Rescue(fall=0.0))
        >>> never = nlme.FOCEI(rescue=None)

    References:
        Kuhn and Lavielle (2005), Maximum likelihood estimation in nonlinear mixed effects models.
        doi:10.1016/j.csda.2004.07.033
    """

    exploration: int = 60
    smoothing: int = 10
    chains: int = 4
    fall: float = 0.5

    def __post_init__(self) -> None:
        check_types(self, FitError)
        check_at_least(self, FitError, 1, "exploration", "smoothing", "chains")
        check_at_least(self, FitError, 0, "fall")

    def poor(self, begun: float, ended: float, observations: int) -> bool:
        """Whether a search from one value of -2 log-likelihood to another began far away."""
        return not math.isfinite(begun) or begun - ended > self.fall * max(observations, 1)

    def beginning(
        self, density: Density, values: ParameterValues, generator: torch.Generator
    ) -> dict[str, Tensor] | None:
        """Look for another beginning.

        Args:
            density: The model, joined to data and solver.
            values: Raw name to ``(1, *shape)``: from where.
            generator: Source of randomness.

        Returns:
            The values found; None where nothing could be found.
        """
        schedule = StepSchedule(exploration=self.exploration, smoothing=self.smoothing)
        algorithm = SAEMAlgorithm(
            density,
            schedule=schedule,
            chains=self.chains,
            moves=Moves.automatic(density.model),
            annealing=0.97,
            learning_rate=0.02,
            gradient_steps=1,
        )
        try:
            state = algorithm.init(values, generator)
            for iteration in range(schedule.total):
                smoothing = iteration >= schedule.burn_in + schedule.exploration
                state = algorithm.step(state, generator, smoothing=smoothing)
        except NLMEError:
            return None
        return state.average
