"""The re-estimations behind a likelihood profile: one scalar is held, the rest follows, each from its neighbour."""

import math
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.free_scalars import FreeScalars, slope_of
from nlme_torch.inference.information.observed import hessian, positive
from nlme_torch.inference.marginal.objective import MarginalObjective
from nlme_torch.inference.numerics import linear_algebra
from nlme_torch.inference.numerics.positive_definite import factor_or, root_of_diagonal
from nlme_torch.inference.optimise.minimisers import BFGS
from nlme_torch.inference.progress import Progress

TOLERANCE = 1e-3
"""Of the scaled gradient: -2LL is then right to its square."""

FARTHEST = 10.0
"""How many standard errors a search goes before it gives a limit up."""


class Point(NamedTuple):
    """A re-estimation with the parameter held: where, its natural value, the fall of -2LL, vector and modes."""

    position: float
    value: float
    difference: float
    vector: Tensor
    centre: Tensor

    @property
    def height(self) -> float:
        """The root of the difference, which is nearly a straight line."""
        return math.sqrt(max(self.difference, 0.0))


class Limit(NamedTuple):
    """An end of the interval, and why there is none if there is none."""

    position: float
    value: float
    message: str


class ProfileSearch:
    """Re-estimates at positions along one scalar, in standard errors of its mapped value, each from its neighbour.

    Args:
        objective: The penalised objective.
        scalars: The parameters; they are brought to the maximum of the objective first.
        name: Of the scalar.
        line: What shows progress.

    Attributes:
        points: What was found so far; the first is the maximum.
        messages: What the reader must know.
    """

    def __init__(self, objective: MarginalObjective, scalars: FreeScalars, name: str, line: Progress) -> None:
        self.objective, self.scalars, self.name, self.line = objective, scalars, name, line
        self.index = scalars.names.index(name)
        self.scale = scalars.scales[self.index]
        self.messages: list[str] = []
        begin = objective.initial
        metric = self._metric()
        best = BFGS(tolerance=TOLERANCE).minimise(objective, begin, _factor(metric), lambda _: None)
        if not best.converged:
            self.messages.append(f"the maximum itself was not found: {best.reason}")
        self.minimum, vector = best.iterate.value, best.iterate.vector
        objective.initial, scalars.whole = vector, vector.detach()
        objective(vector)
        self.metric = self._metric()
        slope = self._slope(vector)
        variance = float(slope @ linear_algebra.solve(self.metric, slope[:, None])[:, 0])
        self.origin = float(self.scale.inverse(self._value(vector)))
        value = self._value(vector)
        self.unit = math.sqrt(variance) * float(slope_of(self.scale.inverse, value))
        self.pivot = self._pivot(slope)
        self.points = [Point(0.0, float(value), 0.0, vector, objective.centre)]
        line.advance(f"profile of {name}")

    def _metric(self) -> Tensor:
        """Half the Hessian of all free parameters, made positive definite; network weights count with the identity."""
        count = len(self.objective.initial)
        whole = torch.eye(count).to(self.objective.initial)
        kept = self.scalars.kept
        whole[kept[:, None], kept] = positive(hessian(self.objective, kept))
        return whole

    def _natural(self, vector: Tensor) -> Tensor:
        return self.scalars.natural(vector[self.scalars.kept][None])[0, self.index]

    def _value(self, vector: Tensor) -> Tensor:
        with torch.no_grad():
            return self._natural(vector)

    def _slope(self, vector: Tensor) -> Tensor:
        return slope_of(self._natural, vector)

    def _pivot(self, slope: Tensor) -> int:
        """The raw parameter that is eliminated: the last one that the scalar depends on."""
        return int((slope != 0).nonzero()[-1])

    def _solved(self, vector: Tensor, target: Tensor) -> Tensor | None:
        """The vector whose pivot is moved until the scalar has its value, by Newton steps; None where it cannot."""
        vector = vector.detach().clone()
        for _ in range(50):
            slope = float(self._slope(vector)[self.pivot])
            gap = float(target - self._value(vector))
            if abs(gap) <= 1e-12 * (1 + abs(float(target))):
                return vector
            if slope == 0 or not math.isfinite(gap / slope):
                return None
            vector[self.pivot] += max(-1.0, min(1.0, gap / slope))
        return None

    def at(self, position: float) -> Point:
        """Re-estimate with the scalar held at a position, from the nearest point known."""
        near = min(self.points, key=lambda point: abs(point.position - position))
        target = self.scale.forward(near.vector.new_tensor(self.origin + position * self.unit))
        others = torch.arange(len(near.vector)) != self.pivot
        self.objective.centre = near.centre

        def reduced(part: Tensor) -> tuple[float, Tensor]:
            vector = near.vector.clone()
            vector[others] = part
            whole = self._solved(vector, target)
            if whole is None:
                return math.inf, torch.zeros_like(part)
            value, gradient = self.objective(whole)
            slope = self._slope(whole)
            return value, (gradient - gradient[self.pivot] / slope[self.pivot] * slope)[others]

        start = self._started(near, target)
        factor = self._reduced_factor(start, others)
        found = BFGS(tolerance=TOLERANCE).minimise(reduced, start[others], factor, lambda _: None)
        whole = start.clone()
        whole[others] = found.iterate.vector
        vector = self._solved(whole, target)
        if vector is None:
            raise FitError(f"profile: {self.name} cannot be held at {float(target):.5g}.")
        self.objective(vector)
        there = f"{self.name} = {float(target):.5g}"
        if not found.converged:
            self.messages.append(f"the re-estimation at {there} stopped early: {found.reason}")
        difference = found.iterate.value - self.minimum
        if difference < -1e-2:
            self.messages.append(
                f"-2LL is {-difference:.3g} lower at {there} than at the estimates: they are a local maximum only; fit "
                "again from there"
            )
        point = Point(position, float(target), difference, vector, self.objective.centre)
        self.points.append(point)
        self.line.advance(f"profile of {self.name}", {self.name: float(target), "difference": difference})
        return point

    def _started(self, near: Point, target: Tensor) -> Tensor:
        """The neighbour moved along the ridge of the quadratic approximation, or the neighbour itself."""
        slope = self._slope(near.vector)
        ridge = linear_algebra.solve(self.metric, slope[:, None])[:, 0]
        moved = near.vector + (target - self._value(near.vector)) / (slope @ ridge) * ridge
        for vector in (moved, near.vector):
            solved = self._solved(vector, target)
            if solved is not None and math.isfinite(self.objective(solved)[0]):
                return solved
        raise FitError(
            f"profile: the likelihood has no value where {self.name} = {float(target):.5g} is held; the data say too "
            "little of it, or the estimates are no maximum: see the fit's warnings."
        )

    def _reduced_factor(self, start: Tensor, others: Tensor) -> Tensor:
        """The scaling of what is left when the pivot follows the others."""
        slope = self._slope(start)
        follow = torch.eye(len(start)).to(start)[:, others]
        follow[self.pivot] = -slope[others] / slope[self.pivot]
        return _factor(follow.mT @ self.metric @ follow)

    def limit(self, sign: int, cut: float) -> Limit:
        """Walk outward until the likelihood has fallen by ``cut``, then find the place by secants of its root."""
        inside, position = self.points[0], sign * math.sqrt(cut)
        while True:
            outside = self.at(position)
            if outside.difference >= cut:
                break
            if abs(position) >= FARTHEST:
                bound = float(self.scale.forward(outside.vector.new_tensor(sign * math.inf)))
                message = (
                    f"-2LL rises by {outside.difference:.3g} only until {self.name} = {outside.value:.3g}, "
                    f"{abs(position):.3g} standard errors away: there is no {'upper' if sign > 0 else 'lower'} limit"
                )
                return Limit(position, bound, message)
            rise = (outside.height - inside.height) / (outside.position - inside.position)
            step = 1.1 * (math.sqrt(cut) - outside.height) / (rise or math.nan)
            reach = abs(position) + abs(step) if sign * step > 0 else math.inf
            inside, position = outside, sign * min(reach, 2 * abs(position), FARTHEST)
        for _ in range(30):
            if abs(outside.difference - cut) < 1e-3 * cut:
                break
            share = (math.sqrt(cut) - inside.height) / (outside.height - inside.height)
            share = min(max(share, 0.02), 0.98)
            point = self.at(inside.position + share * (outside.position - inside.position))
            if abs(point.difference - cut) < 1e-3 * cut:
                outside = point
                break
            inside, outside = (inside, point) if point.difference > cut else (point, outside)
        return Limit(outside.position, outside.value, "")

    def table(self) -> pd.DataFrame:
        """The points in order of the value."""
        rows = []
        for point in sorted(self.points, key=lambda point: point.position):
            natural = self.scalars.natural(point.vector[self.scalars.kept][None])[0].detach().tolist()
            others = {name: value for name, value in zip(self.scalars.names, natural, strict=True) if name != self.name}
            rows.append({self.name: point.value, "difference": point.difference, **others})
        return pd.DataFrame(rows)


def _factor(metric: Tensor) -> Tensor:
    """T with T T' the inverse Hessian of the objective, whose metric is half its Hessian."""
    factor = factor_or(2 * metric, root_of_diagonal(2 * metric))
    identity = torch.eye(len(metric)).to(metric)
    return torch.linalg.solve_triangular(factor, identity, upper=False).mT
