"""Which approximation of the likelihood a fit has maximised, or was given its likelihood by."""

from nlme_torch.inference.estimates.estimation import FitMethod
from nlme_torch.inference.estimates.fitted import Fitted
from nlme_torch.inference.estimates.staged import Staged
from nlme_torch.inference.foce.focei import FOCEI
from nlme_torch.inference.foce.marginal_method import MarginalMethod


def maximised(method: FitMethod) -> MarginalMethod | None:
    """Return the approximation that a method maximises, with its settings; of stages, that of the last one.

    Args:
        method: How a model was fitted.

    Returns:
        The method; None where it maximises something else, as SAEM does.

    Example:
        >>> import nlme_torch as nlme
        >>> maximised(nlme.Staged(nlme.Pooled(), nlme.Quadrature(nodes=5))).nodes
        5
    """
    while isinstance(method, Staged):
        method = method.methods[-1]
    return method if isinstance(method, MarginalMethod) else None


def fitted_method(fit: Fitted) -> MarginalMethod:
    """Return the approximation that a fit maximised, or that gave its likelihood; ``FOCEI()`` where neither is one."""
    chosen = maximised(fit.method)
    if chosen is None and isinstance(fit.log_likelihood.settings, MarginalMethod):
        chosen = fit.log_likelihood.settings
    return chosen or FOCEI()
