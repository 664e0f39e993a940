"""Laplace's approximation as a method: a fit, and a likelihood at given parameters."""

from dataclasses import dataclass

from nlme_torch.inference.foce.marginal_method import MarginalMethod
from nlme_torch.inference.marginal.approximation import Approximation
from nlme_torch.inference.marginal.laplace import LaplaceApproximation
from nlme_torch.model.density.density import Density


@dataclass(frozen=True, kw_only=True)
class Laplace(MarginalMethod):
    r"""Laplace's approximation with the exact Hessian and with interaction; any outcome.

    .. math:: -2 \log p(y_i) \approx 2 g(\hat\eta_i) + \log |\nabla^2 g(\hat\eta_i)|

    Attributes:
        optimiser: Minimiser of a fit; None takes ``BFGS()``, ``TrustRegion()`` for a model with a network, and
            ``LBFGS()`` above 150 parameters.
        mode_starts: Searches for each mode; None takes 4, 2 for an equation, and 6 for a model with a network.
        starts: Fits from different initial values, one after the other; the best is kept.
        spread: How far the further starts are jittered on the estimation scale.
        rescue: When a search from elsewhere is tried as well, see :class:`nlme.Rescue`; None never does. Models with a
            network are not rescued: see :func:`nlme.multistart`.

    References:
        Tierney and Kadane (1986), Accurate approximations for posterior moments and marginal densities.
        doi:10.1080/01621459.1986.10478240
    """

    def build(self, density: Density) -> Approximation:
        """Return the approximation for one model and its data."""
        return LaplaceApproximation(density)
