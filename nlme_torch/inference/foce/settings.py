"""What is maximised and how: an approximation of the marginal likelihood with the settings of its search."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TypeVar

from nlme_torch.errors import FitError
from nlme_torch.inference.foce.rescue import Rescue
from nlme_torch.inference.marginal.approximation import Approximation
from nlme_torch.inference.marginal.expansion_points import solves_equations
from nlme_torch.inference.optimise.minimisers import Optimiser
from nlme_torch.model.declare.values import ParameterValues
from nlme_torch.model.density.density import Density
from nlme_torch.settings import check_at_least, check_types

Settings = TypeVar("Settings", bound="MarginalSettings")


@dataclass(frozen=True, kw_only=True)
class MarginalSettings(ABC):
    """What is approximated, and the settings of the search that FO, FOCE, FOCEI, Laplace and Quadrature share.

    Attributes:
        optimiser: Minimiser of a fit; None takes ``BFGS()``, ``TrustRegion()`` for a model with a network, and
            ``LBFGS()`` above 150 parameters.
        mode_starts: Searches for each subject's best conditional mode at the beginning and the end; None takes 4, 2 for
            a differential equation, and 6 for a model with a network, whose individual posteriors may have several
            modes. 1 only follows the mode that is found from zero effects.
        starts: Fits from different initial values, one after the other; the best is kept.
        spread: How far the further starts are jittered on the estimation scale.
        rescue: When a search from elsewhere is tried as well, see :class:`nlme.Rescue`; None never does. Models with a
            network are not rescued: see :func:`nlme.multistart`.
    """

    optimiser: Optimiser | None = None
    mode_starts: int | None = None
    starts: int = 1
    spread: float = 0.3
    rescue: Rescue | None = field(default_factory=Rescue)

    def __post_init__(self) -> None:
        check_types(self, FitError)
        check_at_least(self, FitError, 0, "spread")
        if self.starts < 1 or (self.mode_starts is not None and self.mode_starts < 1):
            raise FitError(f"{self.name} needs at least one start, got starts={self.starts}.")

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

    def at(self: Settings, density: Density, values: ParameterValues) -> Settings:
        """Return the method with everything decided that it leaves to the data and to where it stands.

        Args:
            density: The model, joined to data and solver.
            values: Raw name to ``(1, *shape)``.
        """
        return self

    def searches(self, density: Density) -> int:
        """Return the number of searches for each mode."""
        if self.mode_starts is not None:
            return self.mode_starts
        if density.model.has_network:
            return 6
        return 2 if solves_equations(density.model) else 4
