"""Adam's step as a function of a state, so that fits can be resumed; torch's own moves what it is given."""

from typing import NamedTuple

import torch
from torch import Tensor

FIRST = 0.1
"""What a new gradient counts for in the mean of all; Kingma and Ba's own."""
SECOND = 0.01
"""Likewise in the mean square: ten times Kingma and Ba's, as a fit takes hundreds of steps, not a hundred thousand."""


class AdamState(NamedTuple):
    """Moving moments of the gradient.

    Attributes:
        first: Mean, of the shape of the gradient.
        second: Uncentred variance, likewise.
        steps: Steps taken.
    """

    first: Tensor
    second: Tensor
    steps: int


def init(like: Tensor) -> AdamState:
    """Return moments of zero.

    Args:
        like: A tensor of the shape of the gradient.
    """
    return AdamState(torch.zeros_like(like), torch.zeros_like(like), 0)


def step(state: AdamState, gradient: Tensor) -> tuple[Tensor, AdamState]:
    """Return the direction to go along, each entry about one in size, and the new moments.

    Args:
        state: The moments so far.
        gradient: Here.

    Example:
        >>> import torch
        >>> slope = torch.tensor([3.0, -0.01], dtype=torch.float64)
        >>> direction, state = step(init(slope), slope)
        >>> direction.round(decimals=3).tolist()
        [1.0, -1.0]

    References:
        Kingma and Ba (2015), Adam: a method for stochastic optimization, ICLR.
    """
    count = state.steps + 1
    first = (1 - FIRST) * state.first + FIRST * gradient
    second = (1 - SECOND) * state.second + SECOND * gradient.square()
    mean, size = first / (1 - (1 - FIRST) ** count), (second / (1 - (1 - SECOND) ** count)).sqrt()
    return mean / (size + 1e-8), AdamState(first, second, count)
