"""FOCE: the model linearised at the conditional modes, the residual variance at its value for zero effects."""

from dataclasses import dataclass

from nlme_torch.inference.foce.marginal_method import MarginalMethod
from nlme_torch.inference.marginal.approximation import Approximation
from nlme_torch.inference.marginal.foce import Linearised
from nlme_torch.model.density.density import Density


@dataclass(frozen=True, kw_only=True)
class FOCE(MarginalMethod):
    r"""First-order conditional estimation without interaction: the residual variance stays at its value for eta = 0.

    .. math:: H_i = \Omega^{-1} + \sum_j a_j a_j^\top / r_j(0), \qquad a = \partial f / \partial \eta

    r is frozen in the search of the modes and in the objective alike, as in NONMEM. Normal and log-normal outcomes
    only.

    Attributes:
        optimiser: Minimiser of a fit; None takes ``BFGS()``, ``TrustRegion()`` for a model with a network, and
            ``LBFGS()`` above 150 parameters.
        mode_starts: Searches for each mode; None takes 4, 2 for an equation, and 6 for a model with a network.
        starts: Fits from different initial values, one after the other; the best is kept.
        spread: How far the further starts are jittered on the estimation scale.
        rescue: When a search from elsewhere is tried as well, see :class:`nlme.Rescue`; None never does. Models with a
            network are not rescued: see :func:`nlme.multistart`.

    References:
        Lindstrom and Bates (1990), Nonlinear mixed effects models for repeated measures data. doi:10.2307/2532087
    """

    def build(self, density: Density) -> Approximation:
        """Return the approximation for one model and its data."""
        return Linearised(density, "FOCE")
