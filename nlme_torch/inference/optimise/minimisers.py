"""Minimisers of a smooth objective with exact gradients: what stands outside FOCE, Laplace and quadrature."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.numerics import adam
from nlme_torch.inference.numerics.bfgs import updated
from nlme_torch.inference.optimise.line_search import search_line
from nlme_torch.settings import check_above, check_at_least, check_types

LABORIOUS, PATIENCE = 5, 3
"""Trials from which a line search has been hard, and how many hard or useless ones in a row are borne."""

WINDOW, CREEPING, HARD = 60, 0.5, 3
"""A search creeps where so many evaluations, with so many hard line searches among them, lower -2LL by less."""

FAR = 2.0
"""Besides its own size, how far a parameter may go in one line search: a factor of seven, for a logarithm."""
FALL, LITTLE = 2.02, 1.0
"""A first trial is that at which a parabola with the slope here would fall by as much as the last step did, or by so
little of -2LL."""
NOTHING = 1e-10
"""Falls that are rounding, in units of the objective."""

Objective = Callable[[Tensor], tuple[float, Tensor]]
"""``(parameter,) -> value, gradient``; an infinite value where there is none."""


class Iterate(NamedTuple):
    """A point that was evaluated.

    Attributes:
        vector: ``(parameter,)`` on the estimation scale.
        value: Objective there.
        gradient: ``(parameter,)``.
        scaled_gradient: Largest component of the gradient in units of the scaling, which is what stops a search.
    """

    vector: Tensor
    value: float
    gradient: Tensor
    scaled_gradient: float


class Minimum(NamedTuple):
    """Where a search ended, and why.

    Attributes:
        iterate: The best point.
        iterations: Iterations done.
        evaluations: Calls of the objective.
        status: How the search ended; converged where the gradient is as small as asked.
        reason: The same as a clause.
        creeping: Whether it was stopped because jumps or kinks blocked its steps.
        levels_off: Whether it stands in a tail, where the objective falls for ever but not below some value.
    """

    iterate: Iterate
    iterations: int
    evaluations: int
    status: Status
    reason: str
    creeping: bool = False
    levels_off: bool = False

    @property
    def converged(self) -> bool:
        """Whether the gradient is as small as asked."""
        return self.status is Status.CONVERGED


@runtime_checkable
class Optimiser(Protocol):
    """A minimiser: a frozen dataclass with one method."""

    @property
    def iterations(self) -> int:
        """Largest number of iterations."""
        ...

    def minimise(
        self, objective: Objective, start: Tensor, scale: Tensor, report: Callable[[Iterate], None]
    ) -> Minimum:
        """Minimise.

        Args:
            objective: Value and gradient.
            start: ``(parameter,)``.
            scale: ``(parameter, parameter)``, T of x = start + T u, in whose u the problem is well scaled.
            report: Called after every iteration.

        Returns:
            The best point that was evaluated; also after Ctrl-C. Where none has a value: the start, STALLED.
        """
        ...


NOWHERE = "the objective has no value at the first point"


class _Scaled:
    """The objective in scaled coordinates; remembers the best point."""

    def __init__(self, objective: Objective, start: Tensor, scale: Tensor) -> None:
        self.objective, self.start, self.scale = objective, start, scale
        self.best: Iterate | None = None
        self.last: Iterate | None = None
        self.evaluations = 0

    def __call__(self, scaled: Tensor) -> tuple[float, Tensor]:
        vector = self.start + self.scale @ scaled
        value, gradient = self.objective(vector)
        self.evaluations += 1
        slope = self.scale.mT @ gradient
        if math.isfinite(value):
            self.last = Iterate(vector, value, gradient, float(slope.abs().max()) if len(slope) else 0.0)
            if self.best is None or value < self.best.value:
                self.best = self.last
        return value, slope

    @property
    def lowest(self) -> Iterate:
        """The best point; the start, with an infinite value, where none had a value."""
        return self.best or Iterate(self.start, math.inf, torch.zeros_like(self.start), math.inf)


class _Walled(_Scaled):
    """The same for minimisers that can bear no infinite value."""

    def __init__(self, objective: Objective, start: Tensor, scale: Tensor) -> None:
        super().__init__(objective, start, scale)
        self._seen: list[float] = []

    def numbers(self, scaled: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient as arrays."""
        value, slope = self(torch.as_tensor(scaled).to(self.start))
        if not math.isfinite(value):
            # a line search takes this for a wall a little way ahead and comes back
            return (max(self._seen[-5:]) if self._seen else 0.0) + 10.0, slope.numpy(force=True)
        self._seen.append(value)
        return value, slope.numpy(force=True)


class _QuasiNewton:
    """Where a BFGS search is: point, value, gradient, inverse Hessian."""

    def __init__(self, search: _Scaled, strategy: "BFGS") -> None:
        self.search, self.strategy = search, strategy
        self.iterations = 0
        self.creeping = False
        self.course: list[tuple[int, float, bool]] = []  # evaluations, value, whether the line search was hard

    def longest(self, point: Tensor, direction: Tensor) -> float:
        """How far one line search may go: no parameter changes by more than two and its own size.

        Most are logarithms. Whole regions far away are flat, where predictions are zero and nothing leads back.
        """
        search = self.search
        here, change = search.start + search.scale @ point, (search.scale @ direction).abs()
        return float(((FAR + here.abs()) / change.clamp_min(1e-300)).min())

    def creeps(self) -> bool:
        """Whether it goes on and on along a jump or a kink, where curvature teaches nothing and lines are short."""
        now, value, _ = self.course[-1]
        before = [earlier for evaluations, earlier, _ in self.course if evaluations <= now - WINDOW]
        hard = sum(was for evaluations, _, was in self.course if evaluations > now - WINDOW)
        return bool(before) and hard >= HARD and before[-1] - value < CREEPING

    def go(self, report: Callable[[Iterate], None]) -> tuple[Status, str]:
        """Search until something stops it, and say what."""
        strategy, search = self.strategy, self.search
        point = torch.zeros_like(search.scale[0])
        value, gradient = search(point)
        identity = torch.eye(len(point), dtype=point.dtype, device=point.device)
        inverse, fresh, restarts, laborious, idle, fall = identity, True, 0, 0, 0, math.inf
        while True:
            if not math.isfinite(value):
                return Status.STALLED, NOWHERE
            if not len(point) or float(gradient.abs().max()) <= strategy.tolerance:
                return Status.CONVERGED, "the gradient vanished"
            if self.iterations >= strategy.iterations:
                return Status.ITERATIONS_USED, "all iterations were used"
            direction = -inverse @ gradient
            # without a memory a step of one unit is tried: scores far from a maximum overstate how near it is
            # with one, no step that promises more than the last one brought: from far away full steps lead far beyond
            slope = float(gradient @ direction)
            first = min(1.0, 1.0 / float(gradient.norm())) if fresh else min(1.0, FALL * fall / max(-slope, 1e-300))
            step = search_line(search, point, value, gradient, direction, first, self.longest(point, direction))
            laborious = 0 if step is None or step.trials < LABORIOUS else laborious + 1
            useless = step is None or value - step.value <= NOTHING * (1 + abs(value))
            idle = idle + 1 if useless else 0
            if step is None or max(laborious, idle) > PATIENCE:  # what was learnt of the objective is wrong here
                if (step is None and fresh) or restarts >= strategy.restarts:
                    return Status.STALLED, "no step along the search direction lowered the objective any more"
                inverse, fresh, restarts = identity, True, restarts + 1
                laborious = idle = 0
                continue
            move = step.length * direction
            inverse = updated(inverse, move, step.gradient - gradient)
            fall = max(value - step.value, LITTLE)
            point, value, gradient, fresh = point + move, step.value, step.gradient, False
            self.iterations += 1
            assert search.best is not None
            report(search.best)
            self.course.append((search.evaluations, value, step.trials >= LABORIOUS))
            self.creeping = self.creeps()
            if self.creeping:
                return Status.STALLED, "steps are blocked by jumps or kinks and lead on by next to nothing"


@dataclass(frozen=True, kw_only=True)
class BFGS:
    """Quasi-Newton with a dense inverse Hessian and a bracketing line search: up to a few hundred parameters.

    Attributes:
        iterations: Largest number of iterations.
        tolerance: The search stops when no component of the scaled gradient exceeds this.
        restarts: How often a search whose line search found no further descent begins again without its memory.

    References:
        Nocedal and Wright (2006), Numerical Optimization, chapters 3.5 and 6. doi:10.1007/978-0-387-40065-5
        Lewis and Overton (2013), Nonsmooth optimization via quasi-Newton methods. doi:10.1007/s10107-012-0514-2
    """

    iterations: int = 500
    tolerance: float = 1e-4
    restarts: int = 2

    def __post_init__(self) -> None:
        check_types(self, FitError)
        check_at_least(self, FitError, 0, "iterations", "restarts")
        check_above(self, FitError, 0, "tolerance")

    def minimise(
        self, objective: Objective, start: Tensor, scale: Tensor, report: Callable[[Iterate], None]
    ) -> Minimum:
        """Minimise; see :class:`Optimiser`."""
        search = _Scaled(objective, start, scale)
        walk = _QuasiNewton(search, self)
        try:
            status, reason = walk.go(report)
        except KeyboardInterrupt:
            if search.best is None:
                raise
            status, reason = Status.INTERRUPTED, "interrupted"
        return Minimum(search.lowest, walk.iterations, search.evaluations, status, reason, walk.creeping)


@dataclass(frozen=True, kw_only=True)
class LBFGS:
    """Quasi-Newton with limited memory (scipy's L-BFGS-B): many parameters.

    Attributes:
        iterations: Largest number of iterations.
        tolerance: The search stops when no component of the scaled gradient exceeds this.
        memory: Pairs of steps and gradient changes that are kept.
        restarts: How often a search whose line search found no further descent begins again without its memory.

    References:
        Byrd, Lu, Nocedal and Zhu (1995), A limited memory algorithm for bound constrained optimization.
        doi:10.1137/0916069
    """

    iterations: int = 2000
    tolerance: float = 1e-4
    memory: int = 30
    restarts: int = 2

    def __post_init__(self) -> None:
        check_types(self, FitError)
        check_at_least(self, FitError, 0, "iterations", "restarts")
        check_at_least(self, FitError, 1, "memory")
        check_above(self, FitError, 0, "tolerance")

    def minimise(
        self, objective: Objective, start: Tensor, scale: Tensor, report: Callable[[Iterate], None]
    ) -> Minimum:
        """Minimise; see :class:`Optimiser`."""
        options = {"gtol": self.tolerance, "ftol": 1e-14, "maxcor": self.memory, "maxfun": 10**9, "maxls": 40}
        return _scipy("L-BFGS-B", options, self, objective, start, scale, report)


@dataclass(frozen=True)
class Adam:
    """Adam with a step that falls along a cosine: a rough terrain of very many weights.

    Attributes:
        iterations: Steps.
        learning_rate: First step in scaled coordinates; it falls to a hundredth.

    References:
        Kingma and Ba (2015), Adam: a method for stochastic optimization, ICLR.
    """

    iterations: int = 1000
    learning_rate: float = 0.02

    def __post_init__(self) -> None:
        check_types(self, FitError)
        check_at_least(self, FitError, 0, "iterations")
        check_above(self, FitError, 0, "learning_rate")

    def minimise(
        self, objective: Objective, start: Tensor, scale: Tensor, report: Callable[[Iterate], None]
    ) -> Minimum:
        """Minimise; see :class:`Optimiser`."""
        search = _Scaled(objective, start, scale)
        point = start.new_zeros(scale.shape[1])
        moments = adam.init(point)
        step, status, reason = 0, Status.COMPLETED, f"all {self.iterations} steps of Adam were taken"
        try:
            for step in range(1, self.iterations + 1):
                value, slope = search(point)
                if search.last is not None and search.last.value == value:
                    report(search.last)
                rate = self.learning_rate * (0.505 + 0.495 * math.cos(math.pi * step / self.iterations))
                direction, moments = adam.step(moments, slope)
                point = point - rate * direction
        except KeyboardInterrupt:
            status, reason = Status.INTERRUPTED, "interrupted"
        return Minimum(search.lowest, step, search.evaluations, status, reason)


def _scipy(
    name: str,
    options: dict[str, float | int],
    strategy: LBFGS,
    objective: Objective,
    start: Tensor,
    scale: Tensor,
    report: Callable[[Iterate], None],
) -> Minimum:
    search = _Walled(objective, start, scale)
    done = 0

    def callback(_: np.ndarray) -> None:
        nonlocal done
        done += 1
        if search.best is not None:
            report(search.best)

    def finish(status: Status, reason: str) -> Minimum:
        return Minimum(search.lowest, done, search.evaluations, status, reason)

    point, before = np.zeros(scale.shape[1]), math.inf
    try:
        for _ in range(strategy.restarts + 1):
            left = {"maxiter": max(strategy.iterations - done, 1), **options}
            scipy.optimize.minimize(search.numbers, point, jac=True, method=name, callback=callback, options=left)
            if search.best is None:
                return finish(Status.STALLED, NOWHERE)
            if search.best.scaled_gradient <= strategy.tolerance:
                return finish(Status.CONVERGED, "the gradient vanished")
            if done >= strategy.iterations:
                return finish(Status.ITERATIONS_USED, "all iterations were used")
            if before - search.best.value < 1e-9 * (1 + abs(search.best.value)):
                break
            before = search.best.value
            point = torch.linalg.lstsq(scale, (search.best.vector - start)[:, None]).solution[:, 0].numpy(force=True)
    except KeyboardInterrupt:
        if search.best is None:
            raise
        return finish(Status.INTERRUPTED, "interrupted")
    return finish(Status.STALLED, "no step along the search direction lowered the objective any more")
