"""FO: the model linearised in the effects at zero."""

from dataclasses import dataclass

from nlme_torch.inference.foce.marginal_method import MarginalMethod
from nlme_torch.inference.marginal.approximation import Approximation
from nlme_torch.inference.marginal.foce import Linearised
from nlme_torch.model.density.density import Density


@dataclass(frozen=True, kw_only=True)
class FO(MarginalMethod):
    r"""First-order: the model linearised in the effects at zero.

    .. math:: y_i \sim N\!\big(f(0),\; G \Omega G^\top + R(0)\big), \qquad G = \partial f / \partial \eta

    Quick and biased; of use for initial values. Normal and log-normal outcomes only.

    Attributes:
        optimiser: Minimiser of a fit; None takes ``BFGS()``, and ``LBFGS()`` above 150 parameters.
        mode_starts: Not used.
        starts: Fits from different initial values, one after the other; the best is kept.
        spread: How far the further starts are jittered on the estimation scale.
        rescue: When a search from elsewhere is tried as well, see :class:`nlme.Rescue`; None never does. Models with a
            network are not rescued: see :func:`nlme.multistart`.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> round(nlme.fit(model, data, nlme.FO(), progress=False).ofv, 3)
        103.869

    References:
        Beal and Sheiner (1982), Estimating population kinetics, Crit. Rev. Biomed. Eng. 8, 195-222.
    """

    def build(self, density: Density) -> Approximation:
        """Return the approximation for one model and its data."""
        return Linearised(density, "FO")
