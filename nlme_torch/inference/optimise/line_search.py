r"""A line search for objectives that may have walls, kinks and a little noise: bracketing, by Wolfe's weak conditions.

.. math:: f(t) \le f(0) + 10^{-4}\, t f'(0), \qquad f'(t) \ge 0.9\, f'(0)

A step that breaks the first is too long, one that breaks the second too short. Nothing is asked of a step at which
there is no value but to be shorter. The bracket is narrowed by a parabola, and by halves where that says nothing; what
lies at its far end may be a jump, so a step that meets the first condition and is half as long is enough.

References:
    Lewis and Overton (2013), Nonsmooth optimization via quasi-Newton methods. doi:10.1007/s10107-012-0514-2
    Nocedal and Wright (2006), Numerical Optimization, chapter 3. doi:10.1007/978-0-387-40065-5
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from nlme_torch._typing import Float

TRIALS = 40
"""Of one line: that many halvings leave 1e-12 of it."""
ROUNDING = 1e-11
"""Of the objective's own size, that its sum over subjects may be off by."""
SHORTEST = 1e-12
"""Share of the way, at least of one, below which an interval is not divided any more."""


class Step(NamedTuple):
    """A point along a direction.

    Attributes:
        length: How far.
        value: Objective there.
        gradient: ``(parameter,)``.
        slope: Derivative along the direction.
        trials: Evaluations that it took to find it.
    """

    length: float
    value: float
    gradient: Float[Tensor, "parameter"]
    slope: float
    trials: int = 0


def search_line(
    objective: Callable[[Tensor], tuple[float, Tensor]],
    point: Float[Tensor, "parameter"],
    value: float,
    gradient: Float[Tensor, "parameter"],
    direction: Float[Tensor, "parameter"],
    length: float,
    longest: float = math.inf,
) -> Step | None:
    """Find a step that lowers the objective.

    Args:
        objective: Value and gradient; an infinite value where there is none.
        point: Where to begin.
        value: Objective there.
        gradient: Gradient there.
        direction: A direction of descent.
        length: First length to try.
        longest: Largest length; there the second condition is not asked for.

    Returns:
        A step that meets both conditions, or the longest that meets the first; None where there is none.
    """
    slope, length = float(gradient @ direction), min(length, longest)
    low = Step(0.0, value, gradient, slope)
    high, high_value = math.inf, math.inf
    for trial in range(1, TRIALS + 1):
        found, turned = objective(point + length * direction)
        there = Step(length, found, turned, float(turned @ direction), trial)
        fallen = found <= value + 1e-4 * length * slope + ROUNDING * (1 + abs(value))
        if not fallen:
            high, high_value = length, found
        elif there.slope < 0.9 * slope and length < longest:
            low, before = there, low
            if math.isinf(high):
                length = min(_farther(before, there), longest)
                continue
        else:
            return there
        width = high - low.length
        if width <= max(low.length, SHORTEST * max(1.0, high)):  # beyond what has been reached there may be a jump
            break
        length = low.length + width * _part(low, high_value, width)
    return low._replace(trials=trial) if low.length > 0 else None


def _farther(before: Step, here: Step) -> float:
    """A longer step: where the slope would vanish by the two last ones, within limits."""
    turn = here.slope - before.slope
    guess = here.length - here.slope * (here.length - before.length) / turn if turn > 0 else math.inf
    return min(max(guess, 2 * here.length), 5 * here.length)


def _part(low: Step, high_value: float, width: float) -> float:
    """Where in the bracket to look: the minimum of a parabola through value and slope below and the value above."""
    if not math.isfinite(high_value):
        return 0.2 if low.length == 0 else 0.5
    bend = 2 * (high_value - low.value - low.slope * width)
    if bend <= 0:
        return 0.5
    return min(max(-low.slope * width / bend, 0.1 if low.length == 0 else 0.3), 0.6)
