r"""A trust region for objectives that are smooth on each of several branches and jump between them.

FOCE and Laplace expand at conditional modes. Where a mode ends (a fold, :math:`\det \nabla^2 g \to 0`) the objective
jumps to the branch of another mode, and its gradient grows without bound before it. A line search takes that for a
wall; a trust region shortens its step, and from there three things lead on: the other side may hold a better mode at
the current point already, a search from several starts may find one, or a leap crosses the edge.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.marginal.lagrangian import FullSpace
from nlme_torch.inference.optimise.minimisers import Iterate, Minimum, Objective
from nlme_torch.inference.optimise.null_space_sqp import SMALLEST, FullSpaceWalk, Point
from nlme_torch.inference.optimise.trust_region_step import best_step
from nlme_torch.settings import check_above, check_at_least, check_types

REFRESH = 40
"""Steps, or half the trials, after which the metric is of another place; it costs about as many evaluations."""
SLOW = 1.0  # of -2 log-likelihood in as many steps
NEAR, CLOSE = 10.0, 0.1
"""Scaled gradients between which curvature is learnt as positive: far away it is not, and close by it is measured."""


@runtime_checkable
class Branched(Protocol):
    """An objective that follows conditional modes, and so has a value for each choice of them.

    Attributes:
        kept: The modes from which others are followed.
    """

    kept: Tensor

    def trial(self, vector: Tensor) -> tuple[float, Tensor]:
        """Return value and gradient, following the modes that were kept; infinite where one cannot be followed."""
        ...

    def __call__(self, vector: Tensor) -> tuple[float, Tensor]:
        """Return value and gradient, searching for modes that cannot be followed."""
        ...

    def keep(self) -> None:
        """Keep the modes of the last evaluation: the next ones are followed from there."""
        ...

    def exchange(self, vector: Tensor) -> bool:
        """Return to the kept modes, or to those of the last trial where they are better; whether one was."""
        ...

    def search(self, vector: Tensor) -> bool:
        """Search the modes from several starts; whether a better one than the kept was found."""
        ...

    def metric(self, vector: Tensor) -> Tensor:
        """Return a positive definite approximation of the Hessian, ``(parameter, parameter)``."""
        ...

    def curvature(self, vector: Tensor, scale: Tensor) -> Tensor:
        """Return the Hessian in scaled coordinates."""
        ...


@runtime_checkable
class Simultaneous(Protocol):
    """A branched objective that can also be had as a function of parameters and modes at once."""

    def full_space(self) -> FullSpace | None:
        """Return it so, or None where that would be too large."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrustRegion:
    r"""Quasi-Newton steps within a region where the quadratic model is to be trusted: networks, rough terrain.

    .. math:: \min_u\; g^\top T u + \tfrac12 u^\top T^\top B\, T u, \quad |u| \le \Delta, \qquad (T T^\top)^{-1} = M

    solved exactly, by eigenvectors, also where B is not positive definite. M is the expected information plus the
    prior's curvature, renewed every 40 steps or 80 trials, when B begins anew: from M, and near the end (scaled
    gradient below 0.1) from differences of the gradient. In between B learns from all trials by symmetric rank one, and
    by damped BFGS while the scaled gradient is between 10 and 0.1. A trial that lies across a jump teaches nothing.
    Where steps become vanishingly small although the gradient does not, the lowest point of this branch lies on its
    edge, where no gradient need vanish: the modes are searched anew, and if there are no better ones a leap across the
    edge is taken, whatever it costs. Where these have lowered -2 log-likelihood by less than 1 without an end in sight,
    FOCE and FOCEI are searched with the modes as unknowns of their own (``null_space_sqp``): near a fold or a cusp of
    a mode they are smooth functions of both together, though not of the parameters. A search that has not converged
    returns the lowest point it has seen.

    Attributes:
        iterations: Largest number of trials.
        tolerance: Largest component that the scaled gradient may have when the search stops.
        gradient: Largest norm that the gradient may have when the search stops.
        leaps: Largest number of leaps.

    References:
        Conn, Gould and Toint (2000), Trust-region methods. doi:10.1137/1.9780898719857
        Nocedal and Wright (2006), Numerical Optimization, chapters 4 and 6. doi:10.1007/978-0-387-40065-5
    """

    iterations: int = 2000
    tolerance: float = 1e-3
    gradient: float = 1e-2
    leaps: int = 8

    def __post_init__(self) -> None:
        check_types(self, FitError)
        check_at_least(self, FitError, 0, "iterations", "leaps")
        check_above(self, FitError, 0, "tolerance", "gradient")

    def minimise(
        self, objective: Objective, start: Tensor, scale: Tensor, report: Callable[[Iterate], None]
    ) -> Minimum:
        """Minimise; see :class:`Optimiser`. An objective that is :class:`Branched` renews the scale itself."""
        walk = _Walk(self, objective, start, scale)
        try:
            status, reason = walk.go(report)
        except KeyboardInterrupt:
            status, reason = Status.INTERRUPTED, "interrupted"
        if not self.satisfied(walk.here()):
            walk.return_to_best()
        found = walk.here()
        return Minimum(found, walk.trials, walk.evaluations, status, reason)

    def satisfied(self, point: Iterate) -> bool:
        """Whether the gradient has vanished."""
        return point.scaled_gradient <= self.tolerance and float(point.gradient.norm()) <= self.gradient


class _Place(NamedTuple):
    """A point with everything that belongs to it."""

    vector: Tensor
    value: float
    slope: Tensor
    modes: Tensor | None


class _Walk:
    """Where the search is: point, value, gradient, model of the Hessian, radius."""

    def __init__(self, strategy: TrustRegion, objective: Objective, start: Tensor, scale: Tensor) -> None:
        self.strategy, self.objective, self.scale = strategy, objective, scale
        self.branched = objective if isinstance(objective, Branched) else None
        self.vector = start
        self.trials, self.evaluations, self.leaps = 0, 1, 0
        self.value, self.slope = objective(start)
        self.best: _Place | None = None
        self.arrive()
        self.radius = 1.0
        self.renew()
        self.see()

    def here(self) -> Iterate:
        """The current point."""
        scaled = self.scale.mT @ self.slope
        largest = float(scaled.abs().max()) if len(scaled) else 0.0
        return Iterate(self.vector, self.value, self.slope, largest)

    def arrive(self) -> None:
        """Keep the modes of the new point, and the point if it is the best."""
        if self.branched is not None:
            self.branched.keep()
        if self.best is None or self.value < self.best.value:
            modes = None if self.branched is None else self.branched.kept
            self.best = _Place(self.vector, self.value, self.slope, modes)

    def return_to_best(self) -> None:
        """Take up the lowest point that was seen."""
        assert self.best is not None
        self.vector, self.value, self.slope, modes = self.best
        if self.branched is not None and modes is not None:
            self.branched.kept = modes

    def rescale(self) -> None:
        """Measure steps by the information where the search is."""
        if self.branched is not None:
            factor, failed = torch.linalg.cholesky_ex(self.branched.metric(self.vector))
            if not int(failed):
                identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
                self.scale = torch.linalg.solve_triangular(factor, identity, upper=False).mT

    def renew(self) -> None:
        """Begin the model of the Hessian anew."""
        self.rescale()
        size = float((self.scale.mT @ self.slope).norm())
        self.hessian = torch.eye(len(self.vector), dtype=self.vector.dtype, device=self.vector.device)  # when scaled
        if size < CLOSE and self.branched is not None:
            self.hessian = self.branched.curvature(self.vector, self.scale)
            self.evaluations += len(self.vector)
        self.near = CLOSE <= size < NEAR
        self.since = 0

    def see(self) -> None:
        """Note the value: from here on progress is measured."""
        self.seen_at, self.seen = self.trials, self.value

    def go(self, report: Callable[[Iterate], None]) -> tuple[Status, str]:
        """Search until something stops it, and say what."""
        strategy = self.strategy
        while not strategy.satisfied(self.here()):
            if self.trials >= strategy.iterations:
                return Status.ITERATIONS_USED, "all iterations were used"
            due = self.since >= REFRESH or self.trials - self.seen_at >= 2 * REFRESH
            if due and self.branched is not None:
                slow = self.seen - self.value < SLOW
                if slow and self.search_full_space(report):
                    continue
                self.renew()
                self.see()
            if self.radius < SMALLEST and not self.escape():
                return Status.STALLED, "no step lowered the objective any more"
            self.attempt()
            report(self.here())
        return Status.CONVERGED, "the gradient vanished"

    def search_full_space(self, report: Callable[[Iterate], None]) -> bool:
        """Search parameters and modes at once for as long as that goes on; whether it could be begun."""
        space = self.objective.full_space() if isinstance(self.objective, Simultaneous) else None
        if space is None or self.branched is None:
            return False
        self.rescale()
        walk = FullSpaceWalk(space, self.vector, self.branched.kept, self.scale)
        self.branched.kept = walk.here.effects
        try:
            while self.trials < self.strategy.iterations and not walk.at_edge:
                taken = walk.attempt()
                self.trials += 1
                report(walk.iterate())
                if taken and self.strategy.satisfied(walk.iterate()) and not walk.bends_down():
                    break
        finally:
            self.evaluations += walk.evaluations
            if walk.exchanged:  # for better modes: lower values that were seen belong to worse ones
                self.best = None
            self.return_to(walk.here if self.strategy.satisfied(walk.iterate()) else walk.best)
        self.radius = 0.0  # where this ends without a vanishing gradient there is an edge, to be left by an escape
        self.since = 0
        self.see()
        return True

    def return_to(self, point: Point) -> None:
        """Take up a point of the search in parameters and modes."""
        assert self.branched is not None
        self.branched.kept = point.effects
        value, slope = self.evaluate(point.vector, search=False)
        if math.isfinite(value):
            self.vector, self.value, self.slope = point.vector, value, slope
            self.arrive()

    def attempt(self) -> None:
        """One trial."""
        slope = self.scale.mT @ self.slope
        step, promised = best_step(self.hessian, slope, self.radius)
        change = self.scale @ step
        value, gradient = self.evaluate(self.vector + change, search=False)
        self.trials += 1
        length, noise = float(step.norm()), 1e-9 * (1 + abs(self.value))
        if not math.isfinite(value):
            self.radius = 0.25 * length
            return
        fall = self.value - value
        # a smooth function falls by the mean of the slopes at both ends, nearly
        unexplained = abs(fall + 0.5 * float(change @ (self.slope + gradient)))
        smooth = unexplained < 0.5 * (abs(fall) + promised) + noise
        if smooth:
            self.learn(step, self.scale.mT @ gradient - slope)
        ratio = (fall + noise) / (promised + noise)
        if ratio > 1e-4:
            self.vector, self.value, self.slope = self.vector + change, value, gradient
            self.since += 1
            self.arrive()
        elif not smooth and self.exchange():
            return
        if ratio > 0.75 and length > 0.8 * self.radius:
            self.radius = min(2 * self.radius, 100.0)
        elif ratio < 0.1:
            self.radius = 0.25 * length
        elif ratio < 0.25:
            self.radius = 0.5 * length

    def evaluate(self, vector: Tensor, *, search: bool) -> tuple[float, Tensor]:
        """Value and gradient there."""
        self.evaluations += 1
        if self.branched is None or search:
            return self.objective(vector)
        return self.branched.trial(vector)

    def exchange(self) -> bool:
        """Whether the modes of the last trial are better ones at the current point, which then has another value."""
        return self.branched is not None and self.branched.exchange(self.vector) and self.settle(self.vector)

    def settle(self, vector: Tensor) -> bool:
        """Take a point as it is; whether it has a value."""
        value, slope = self.evaluate(vector, search=True)
        if not math.isfinite(value):
            return False
        if vector is self.vector:  # with better modes: lower values that were seen belong to worse ones
            self.best = None
        self.vector, self.value, self.slope = vector, value, slope
        self.arrive()
        return True

    def escape(self) -> bool:
        """Leave the edge of a branch: by better modes at this point, or by a leap in the direction that was tried."""
        self.radius = 0.1
        noise_only = float((self.scale.mT @ self.slope).norm()) < CLOSE
        if self.branched is None or noise_only or self.leaps >= self.strategy.leaps:
            return False
        self.leaps += 1
        if self.branched.search(self.vector) and self.settle(self.vector):
            self.renew()
            return True
        for length in (0.5 * self.leaps, 0.25 * self.leaps, 0.05 * self.leaps):
            step, _ = best_step(self.hessian, self.scale.mT @ self.slope, length)
            if self.settle(self.vector + self.scale @ step):
                self.renew()
                return True
        return False

    def learn(self, step: Tensor, turn: Tensor) -> None:
        """Update the model with the change of the gradient along a step."""
        model = self.hessian @ step
        if self.near:  # damped BFGS stays positive definite
            along, bent = float(step @ turn), float(step @ model)
            share = 1.0 if along >= 0.2 * bent else 0.8 * bent / (bent - along)
            mixed = share * turn + (1 - share) * model
            self.hessian = self.hessian - torch.outer(model, model) / bent + torch.outer(mixed, mixed) / (step @ mixed)
            return
        missed = turn - model
        below = float(missed @ step)
        if abs(below) > 1e-6 * float(missed.norm() * step.norm()):
            self.hessian = self.hessian + torch.outer(missed, missed) / below
