"""What evaluated a likelihood by Laplace's approximation or quadrature, before the methods themselves did."""

from typing import Literal

from nlme_torch.inference.foce.laplace import Laplace
from nlme_torch.inference.foce.quadrature import Quadrature


def laplace_likelihood(starts: int = 4) -> Laplace:
    """Return what was ``LaplaceLikelihood``.

    Args:
        starts: Searches for each mode.
    """
    return Laplace(mode_starts=starts)


def quadrature_likelihood(nodes: int | Literal["auto"] = 9) -> Quadrature:
    """Return what was ``QuadratureLikelihood``, which began at the modes that a fit had found.

    Args:
        nodes: Per effect.
    """
    return Quadrature(nodes=nodes, mode_starts=1)
