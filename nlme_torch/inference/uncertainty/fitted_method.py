"""Which approximation of the likelihood a fit has maximised, or was given its likelihood by."""

import re

from nlme_torch.inference.estimates.fitted import Fitted
from nlme_torch.inference.foce.fo import FO
from nlme_torch.inference.foce.foce import FOCE
from nlme_torch.inference.foce.focei import FOCEI
from nlme_torch.inference.foce.laplace import Laplace
from nlme_torch.inference.foce.marginal_method import MarginalMethod
from nlme_torch.inference.foce.quadrature import Quadrature


def named_method(name: str) -> MarginalMethod | None:
    """Return the approximation of this name, such as ``Quadrature(nodes=9)``; None where there is none.

    Args:
        name: As a likelihood shows it.

    Example:
        >>> named_method("Quadrature(nodes=5)").nodes, named_method("SAEM()")
        (5, None)
    """
    nodes = re.fullmatch(r"Quadrature\(nodes=(\d+|auto)\)", name)
    if nodes is not None:
        return Quadrature(nodes="auto" if nodes[1] == "auto" else int(nodes[1]))
    kinds = {kind.__name__: kind for kind in (FO, FOCE, FOCEI, Laplace)}
    return kinds[name]() if name in kinds else None


def fitted_method(fit: Fitted) -> MarginalMethod:
    """Return the approximation that a fit maximised, or that gave its likelihood; ``FOCEI()`` where neither is one."""
    if isinstance(fit.method, MarginalMethod):
        return fit.method
    return named_method(fit.log_likelihood.method) or FOCEI()
