"""Functions of a straight line that can be compared with a number: where they reach it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Curve:
    """A function of one number, by its inverse.

    Attributes:
        inverse: Of a value, all the numbers that have it, up to the period.
        reaches: Of a value, whether there are any.
        inside: A value that is reached.
        period: How often they recur; None for those that do not.
    """

    inverse: Callable[[Tensor], tuple[Tensor, ...]]
    reaches: Callable[[Tensor], Tensor]
    inside: float
    period: float | None = None

    def crossings(self, value: Tensor, where: Tensor) -> list[Tensor]:
        """What is 0 (with a period: a whole number) where the curve has a value.

        Args:
            value: The value.
            where: What the curve is a function of.
        """
        reached = self.reaches(value)
        found = self.inverse(torch.where(reached, value, self.inside))
        lines = [where - one if self.period is None else (where - one) / self.period for one in found]
        return [torch.where(reached, line, torch.nan) for line in lines]


def _within_one(value: Tensor) -> Tensor:
    return value.abs() < 1


def _positive(value: Tensor) -> Tensor:
    return (value > 0) & (value < torch.inf)


_SQUARE = Curve(lambda c: (c.sqrt(), -c.sqrt()), _positive, 1.0)
_ABSOLUTE = Curve(lambda c: (c, -c), _positive, 1.0)

CURVES: dict[str, Curve] = {
    "sin": Curve(lambda c: (c.asin(), math.pi - c.asin()), _within_one, 0.0, 2 * math.pi),
    "cos": Curve(lambda c: (c.acos(), -c.acos()), _within_one, 0.0, 2 * math.pi),
    "tan": Curve(lambda c: (c.atan(), torch.full_like(c, math.pi / 2)), torch.isfinite, 0.0, math.pi),
    "abs": _ABSOLUTE,
    "absolute": _ABSOLUTE,
    "square": _SQUARE,
    "pow": _SQUARE,  # of a number squared
    "exp": Curve(lambda c: (c.log(),), _positive, 1.0),
    "log": Curve(lambda c: (c.exp(),), torch.isfinite, 0.0),
    "sqrt": Curve(lambda c: (c.square(),), _positive, 1.0),
    "sigmoid": Curve(lambda c: (torch.logit(c),), lambda c: (c > 0) & (c < 1), 0.5),
    "tanh": Curve(lambda c: (c.atanh(),), _within_one, 0.0),
}
"""By name, the curves that are known."""
