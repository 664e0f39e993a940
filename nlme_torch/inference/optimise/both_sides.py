r"""Whether a point is lowest to both sides of every direction, and whether the objective has a kink there.

.. math:: \frac{f(x + h d) + f(x - h d) - 2 f(x)}{h^2} \approx d^\top H d = 1, \qquad |d^\top \nabla f\,| \ll h

Lags, durations and switches move events across observations: there a derivative jumps, and the gradient of one side
proves nothing. Values alone are trusted here.

References:
    Kolda, Lewis and Torczon (2003), Optimization by direct search: new perspectives on some classical and modern
    methods. doi:10.1137/S003614450242889
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Float

Values = Callable[[Tensor], Tensor]
"""``(start, parameter) -> (start,)``."""

WIDTH = 0.03
"""Step to either side, in units in which the expected second derivative is one."""

SHARP = 4.0
"""Second differences above this are those of a kink."""

WIDEST, NARROWEST = 0.5, 1e-3
"""First and last step without derivatives, in scaled coordinates, whose own size is one."""
STEPS = 60
"""Of such steps in all; nine halvings lie between the widest and the narrowest."""


class Sides(NamedTuple):
    """What lies next to a point.

    Attributes:
        fall: By how much the lowest neighbour lies lower; negative where none does.
        lowest: That neighbour, ``(parameter,)``.
        bends: Second differences, ``(direction,)``.
    """

    fall: float
    lowest: Float[Tensor, "parameter"]
    bends: Float[Tensor, "direction"]

    @property
    def kinked(self) -> bool:
        """Whether a derivative jumps at the point."""
        return bool((self.bends > SHARP).any()) or not bool(torch.isfinite(self.bends).all())


def both_sides(
    values: Values, vector: Float[Tensor, "parameter"], scale: Float[Tensor, "parameter direction"]
) -> Sides:
    r"""Look to both sides of every direction.

    Args:
        values: The objective at several points.
        vector: The point.
        scale: Directions as columns, T with :math:`T T^\\top` near the inverse Hessian.
    """
    steps = WIDTH * scale.mT
    points = torch.cat([vector[None], vector + steps, vector - steps])
    found = values(points)
    here, ahead, behind = found[0], *found[1:].chunk(2)
    index = int(found[1:].argmin()) + 1
    return Sides(float(here - found[index]), points[index], (ahead + behind - 2 * here) / WIDTH**2)


def search_by_values(
    values: Values, vector: Float[Tensor, "parameter"], scale: Float[Tensor, "parameter direction"]
) -> tuple[Float[Tensor, "parameter"], float]:
    """Go down without derivatives: to the lowest neighbour, or to neighbours half as far.

    Args:
        values: The objective at several points.
        vector: Where to begin.
        scale: Directions as columns.

    Returns:
        The lowest point and its value.
    """
    lowest, length = math.inf, WIDEST
    for _ in range(STEPS):
        steps = length * scale.mT
        points = torch.cat([vector[None], vector + steps, vector - steps])
        found = values(points)
        index = int(found.argmin())
        lowest = float(found[index])
        if index:
            vector = points[index]
            continue
        length = 0.5 * length
        if length < NARROWEST:
            break
    return vector, lowest
