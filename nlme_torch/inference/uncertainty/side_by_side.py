r"""Many minimisations side by side on the start axis, one for every bootstrap data set.

Every start has its own quasi-Newton matrix and its own line search; what they share is the call of the objective. A
line search brackets a step at which the objective has fallen and its slope has flattened (Wolfe's conditions) by
doubling and halving, which needs nothing but one evaluation of all starts at a time.

References:
    Lewis and Overton (2013), Nonsmooth optimization via quasi-Newton methods. doi:10.1007/s10107-012-0514-2
    Nocedal and Wright (2006), Numerical Optimization, chapter 6. doi:10.1007/978-0-387-40065-5
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Bool, Float
from nlme_torch.inference.marginal.several_starts import SeveralValues
from nlme_torch.inference.numerics.bfgs import updated

Objectives = Callable[[Tensor, Tensor, Tensor], SeveralValues]
"""``(vectors (start, parameter), modes (effect, start, subject), which starts (start,)) -> values and gradients``."""

TRIALS = 30
"""Evaluations of one line search before the start is given up."""


class Minima(NamedTuple):
    """Where every search ended.

    Attributes:
        vectors: ``(start, parameter)``.
        values: Objective there, ``(start,)``; infinite where even the first point had no value.
        converged: Where the scaled gradient is as small as asked, ``(start,)``.
        evaluations: Calls of the objective.
        interrupted: Whether the user ended it; starts that had finished stand.
    """

    vectors: Float[Tensor, "start parameter"]
    values: Float[Tensor, "start"]
    converged: Bool[Tensor, "start"]
    evaluations: int
    interrupted: bool = False


class _State(NamedTuple):
    """One row per start: the point, its value, gradient and modes; the matrix; the direction and its bracket."""

    members: Tensor
    vector: Tensor
    value: Tensor
    gradient: Tensor
    centre: Tensor
    inverse: Tensor
    direction: Tensor
    length: Tensor
    low: Tensor
    high: Tensor
    trials: Tensor
    iterations: Tensor

    def take(self, index: Tensor) -> "_State":
        """Some of the starts; their axis is the first, and the second of the modes."""
        rows = {name: value[index] for name, value in self._asdict().items() if name != "centre"}
        return _State(**rows, centre=self.centre[:, index])


def minimise_side_by_side(
    objectives: Objectives,
    vectors: Float[Tensor, "start parameter"],
    centre: Float[Tensor, "effect start subject"],
    scale: Float[Tensor, "parameter parameter"],
    *,
    tolerance: float = 1e-3,
    iterations: int = 100,
    report: Callable[[int], None] = lambda finished: None,
) -> Minima:
    """Minimise from several starts at once by BFGS.

    Args:
        objectives: Values and gradients of some of the starts.
        vectors: Where each begins.
        centre: Modes of the subjects there.
        scale: T with T T' near the inverse Hessian of all of them.
        tolerance: Largest component of ``T' gradient`` at which a start has converged.
        iterations: Most iterations of a start.
        report: Called with the number of starts that finished.

    Returns:
        The minima; a start that did not converge shows its best point.
    """
    count = len(vectors)
    everyone = torch.arange(count, device=vectors.device)
    first = objectives(vectors, centre, everyone)
    assert first.gradient is not None
    result = Minima(vectors.clone(), first.value.clone(), torch.zeros_like(first.value, dtype=torch.bool), 1)
    inverse = (scale @ scale.mT).expand(count, -1, -1)
    ones = torch.ones_like(first.value)
    zeros = torch.zeros_like(everyone)
    state = _State(
        everyone, vectors, first.value, first.gradient, first.centre, inverse,
        _direction(inverse, first.gradient), ones, 0 * ones, ones + torch.inf, zeros, zeros,
    )  # fmt: skip
    evaluations = 1
    while True:
        small = (state.gradient @ scale).abs().amax(1) <= tolerance
        finite = torch.isfinite(state.value)
        stopped = (small & finite) | ~finite | (state.trials >= TRIALS) | (state.iterations >= iterations)
        if bool(stopped.any()):
            ended = state.take(stopped.nonzero()[:, 0])
            result.vectors[ended.members], result.values[ended.members] = ended.vector, ended.value
            result.converged[ended.members] = (small & finite)[stopped]
            report(len(ended.members))
            state = state.take((~stopped).nonzero()[:, 0])
        if not len(state.members):
            return result._replace(evaluations=evaluations)
        try:
            state = _step(objectives, state)
        except KeyboardInterrupt:
            return result._replace(evaluations=evaluations, interrupted=True)
        evaluations += 1


def _step(objectives: Objectives, state: _State) -> _State:
    """One evaluation of every start: a step is taken, or its bracket narrows."""
    move = state.length[:, None] * state.direction
    found = objectives(state.vector + move, state.centre, state.members)
    assert found.gradient is not None
    slope = (state.gradient * state.direction).sum(1)
    fallen = found.value <= state.value + 1e-4 * state.length * slope + 1e-10 * (1 + state.value.abs())
    flat = (found.gradient * state.direction).sum(1) >= 0.9 * slope
    taken = fallen & (flat | (state.trials >= TRIALS // 2))
    high = torch.where(fallen, state.high, state.length)
    low = torch.where(fallen, state.length, state.low)
    length = torch.where(torch.isinf(high), 2 * state.length, 0.5 * (low + high))
    vector = torch.where(taken[:, None], state.vector + move, state.vector)
    gradient = torch.where(taken[:, None], found.gradient, state.gradient)
    inverse = torch.where(
        taken[:, None, None], updated(state.inverse, move, found.gradient - state.gradient), state.inverse
    )
    return _State(
        members=state.members,
        vector=vector,
        value=torch.where(taken, found.value, state.value),
        gradient=gradient,
        centre=torch.where(taken[:, None], found.centre, state.centre),
        inverse=inverse,
        direction=torch.where(taken[:, None], _direction(inverse, gradient), state.direction),
        length=torch.where(taken, 1.0, length),
        low=torch.where(taken, 0.0, low),
        high=torch.where(taken, torch.inf, high),
        trials=torch.where(taken, 0, state.trials + 1),
        iterations=state.iterations + taken.long(),
    )


def _direction(inverse: Tensor, gradient: Tensor) -> Tensor:
    return -(inverse @ gradient[..., None])[..., 0]
