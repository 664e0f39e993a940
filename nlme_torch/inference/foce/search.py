"""How the maximum of an approximate likelihood is looked for."""

from dataclasses import dataclass, field

from nlme_torch.errors import FitError
from nlme_torch.inference.foce.rescue import Rescue
from nlme_torch.inference.marginal.expansion_points import solves_equations
from nlme_torch.inference.optimise.minimisers import Optimiser
from nlme_torch.model.density.density import Density
from nlme_torch.settings import check_at_least, check_types


@dataclass(frozen=True, kw_only=True)
class Search:
    """The settings of the search that FO, FOCE, FOCEI, Laplace and Quadrature share.

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
            raise FitError(f"{type(self).__name__} needs at least one start, got starts={self.starts}.")

    def searches(self, density: Density) -> int:
        """Return the number of searches for each mode."""
        if self.mode_starts is not None:
            return self.mode_starts
        if density.model.has_network:
            return 6
        return 2 if solves_equations(density.model) else 4
