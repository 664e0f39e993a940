r"""How noisy an objective and its gradient are where a search stands: a solver's steps change with everything.

.. math:: \sigma^2 = \frac{(k!)^2}{(2k)!}\, \overline{(\Delta^k f)^2}, \qquad k = 3

at points so close together that a smooth function's third differences vanish.

References:
    More and Wild (2011), Estimating computational noise. doi:10.1137/100786125
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from nlme_torch._typing import Float

APART = 1e-6
"""Distance in scaled coordinates, so small that the objective itself has no third difference."""
POINTS = 8
"""On a line: five third differences, which no parabola has."""
SHARE = 1 / 20
"""The square of a third difference of independent errors is 1 + 9 + 9 + 1 = 20 times that of one error."""


@runtime_checkable
class Several(Protocol):
    """An objective that can be had at several points at once."""

    def several(self, vectors: Tensor) -> Tensor:
        """Return values, ``(start,)``."""
        ...

    def slopes(self, vectors: Tensor) -> Tensor:
        """Return gradients, ``(start, parameter)``."""
        ...


class Noise(NamedTuple):
    """Standard deviations of what rounding and an adaptive solver add.

    Attributes:
        value: Of the objective.
        gain: What a gradient of nothing but noise would seem to promise, half the sum of its squared components.
    """

    value: float
    gain: float


def noise(objective: Several, vector: Float[Tensor, "parameter"], scale: Float[Tensor, "parameter direction"]) -> Noise:
    """Measure it by points in a row.

    Args:
        objective: Values and gradients.
        vector: Where.
        scale: Directions as columns, in whose units the expected second derivative is one.
    """
    direction = scale.mean(1) * scale.shape[1] ** 0.5
    steps = torch.arange(POINTS, dtype=vector.dtype, device=vector.device) - POINTS // 2
    points = vector + APART * steps[:, None] * direction
    values, slopes = objective.several(points), objective.slopes(points) @ scale
    turns = torch.diff(slopes, n=3, dim=0)
    return Noise(
        float((SHARE * torch.diff(values, n=3).square().mean()).sqrt()),
        float(0.5 * (SHARE * turns.square().mean(0)).sum()),
    )
