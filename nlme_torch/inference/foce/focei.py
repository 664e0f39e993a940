"""FOCEI: the model linearised at the conditional modes, with interaction."""

from dataclasses import dataclass

from nlme_torch.inference.foce.marginal_method import MarginalMethod
from nlme_torch.inference.marginal.approximation import Approximation
from nlme_torch.inference.marginal.foce import Linearised
from nlme_torch.model.density.density import Density


@dataclass(frozen=True, kw_only=True)
class FOCEI(MarginalMethod):
    r"""First-order conditional estimation with interaction between effects and residual variance.

    .. math:: H_i = \Omega^{-1} + \sum_j \big(a_j a_j^\top / r_j + \tfrac12 c_j c_j^\top\big), \qquad
              a = \partial f / \partial \eta,\; c = \partial \log r / \partial \eta

    Normal and log-normal outcomes only.

    Attributes:
        optimiser: Minimiser of a fit; None takes ``BFGS()``, ``TrustRegion()`` for a model with a network, and
            ``LBFGS()`` above 150 parameters.
        mode_starts: Searches for each mode; None takes 4, 2 for an equation, and 6 for a model with a network.
        starts: Fits from different initial values, one after the other; the best is kept.
        spread: How far the further starts are jittered on the estimation scale.
        rescue: When a search from elsewhere is tried as well, see :class:`nlme.Rescue`; None never does. Models with a
            network are not rescued: see :func:`nlme.multistart`.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
        >>> round(fit.ofv, 3)
        116.803

    References:
        Wang (2007), Derivation of various NONMEM estimation methods. doi:10.1007/s10928-007-9060-6
    """

    def build(self, density: Density) -> Approximation:
        """Return the approximation for one model and its data."""
        return Linearised(density, "FOCEI")
