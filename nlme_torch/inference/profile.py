r"""Likelihood profiles: how the maximum of the likelihood falls when one parameter is held elsewhere.

.. math:: \Delta(c) = \min_{\theta : h(\theta) = c} O(\theta) - \min_\theta O(\theta), \qquad
          \text{interval } \{c : \Delta(c) \le \chi^2_1\text{'s quantile}\}

h is a scalar on the natural scale. One raw parameter, the pivot, is eliminated by solving h = c for it, so that what
remains is minimised without constraints; for most scalars the pivot is the parameter itself, for a covariance it is an
entry of a Cholesky factor.

References:
    Venzon and Moolgavkar (1988), A method for computing profile-likelihood-based confidence intervals.
    doi:10.2307/2347496
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from nlme_torch.errors import FitError
from nlme_torch.inference.fitted_method import fitted_method
from nlme_torch.inference.free_scalars import FreeScalars, slope_of
from nlme_torch.inference.information import hessian, positive
from nlme_torch.inference.marginal_methods import MarginalMethod
from nlme_torch.inference.marginal_objective import MarginalObjective
from nlme_torch.inference.optim import BFGS
from nlme_torch.inference.progress import Progress, progress_line
from nlme_torch.inference.uncertainty import normal_quantile
from nlme_torch.model.values import parameter_values

if TYPE_CHECKING:
    from nlme_torch.inference.result import Fit

TOLERANCE = 1e-3
"""Of the scaled gradient: -2LL is then right to its square."""

FARTHEST = 10.0
"""How many standard errors a search goes before it gives a limit up."""


@dataclass(frozen=True)
class Profile:
    """The likelihood profile of one parameter; it prints as a table.

    Attributes:
        name: The parameter.
        method: Name of the approximation of the likelihood.
        estimate: Its value at the maximum of that likelihood.
        lower: Lower confidence limit; the bound of the parameter where the likelihood does not fall far enough.
        upper: Upper confidence limit.
        level: Of the limits.
        table: One row per value: the value, the fall of -2LL (``difference``), and the other parameters re-estimated
            there, natural scale.
        warnings: Limits that do not exist, points that did not converge.
    """

    name: str
    method: str
    estimate: float
    lower: float
    upper: float
    level: float
    table: pd.DataFrame
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"profile of {self.name} by {self.method}: {self.estimate:.5g}, {100 * self.level:g} % confidence interval "
            f"{self.lower:.5g} to {self.upper:.5g}",
            self.table.to_string(index=False, float_format=lambda value: f"{value:.5g}"),
            *(f"warning: {message}" for message in self.warnings),
        ]
        return "\n".join(lines)

    __repr__ = __str__


def profile(
    fit: "Fit",
    name: str,
    method: MarginalMethod | None = None,
    *,
    level: float = 0.95,
    points: int = 2,
    progress: bool = True,
) -> Profile:
    """Profile the likelihood over one parameter and read its confidence interval off.

    The likelihood is first maximised from the estimates of the fit; from there the parameter is moved outward until the
    likelihood has fallen by the quantile of chi-square with one degree of freedom. With priors, it is the penalised
    objective that is profiled.

    Args:
        fit: The fit.
        name: Of a scalar on the natural scale as fits print it: ``cl``, ``sigma``, ``omega_cl``, ``omega_cl,v``.
        method: The approximation of the likelihood; None takes the one that the fit maximised, ``FOCEI()`` after SAEM.
        level: Of the interval.
        points: Further values on each side between the estimate and the limit, for the picture.
        progress: Whether to show a tqdm line.

    Returns:
        The interval and the profile.

    Raises:
        FitError: There is no such parameter, it was not estimated, or the likelihood has no value at the estimates.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
        >>> found = nlme.profile(fit, "cl", points=0, progress=False)
        >>> round(found.lower, 1), round(found.upper, 1)
        (2.3, 3.3)
    """
    chosen = method or fitted_method(fit)
    scalars = FreeScalars(fit.model, parameter_values(fit.model))
    if name not in scalars.names:
        raise FitError(
            f"{name!r} is no estimated scalar parameter of the model; profile one of {', '.join(scalars.names)}."
        )
    cut = normal_quantile(level) ** 2
    objective = MarginalObjective(chosen.approximation(fit.density), scalars.values, chosen.searches(fit.density))
    with progress_line(2 * (points + 4), f"profile of {name}", progress) as line:
        search = _Search(objective, scalars, name, line)
        sides = [search.limit(sign, cut) for sign in (-1, 1)]
        for limit in sides:
            for part in range(1, points + 1):
                search.at(limit.position * part / (points + 1))
        line.finish(f"profile of {name}", len(search.points))
    messages = [limit.message for limit in sides if limit.message] + search.messages
    return Profile(
        name=name,
        method=chosen.name,
        estimate=search.points[0].value,
        lower=sides[0].value,
        upper=sides[1].value,
        level=level,
        table=search.table(),
        warnings=tuple(messages),
    )


class _Point(NamedTuple):
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


class _Limit(NamedTuple):
    """An end of the interval, and why there is none if there is none."""

    position: float
    value: float
    message: str


class _Search:
    """Re-estimates at positions along one scalar, in standard errors of its mapped value, each from its neighbour."""

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
        variance = float(slope @ torch.linalg.pinv(self.metric) @ slope)
        self.origin = float(self.scale.inverse(self._value(vector)))
        value = self._value(vector)
        self.unit = math.sqrt(variance) * float(slope_of(self.scale.inverse, value))
        self.pivot = self._pivot(slope)
        self.points = [_Point(0.0, float(value), 0.0, vector, objective.centre)]
        line.advance(f"profile of {name}")

    def _metric(self) -> Tensor:
        """Half the Hessian of all free parameters, made positive definite; network weights count with the identity."""
        count = len(self.objective.initial)
        whole = torch.eye(count, dtype=torch.float64)
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

    def at(self, position: float) -> _Point:
        """Re-estimate with the scalar held at a position, from the nearest point known."""
        near = min(self.points, key=lambda point: abs(point.position - position))
        target = self.scale.forward(torch.tensor(self.origin + position * self.unit, dtype=torch.float64))
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
        assert vector is not None
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
        point = _Point(position, float(target), difference, vector, self.objective.centre)
        self.points.append(point)
        self.line.advance(f"profile of {self.name}", {self.name: float(target), "difference": difference})
        return point

    def _started(self, near: _Point, target: Tensor) -> Tensor:
        """The neighbour moved along the ridge of the quadratic approximation, or the neighbour itself."""
        slope = self._slope(near.vector)
        ridge = torch.linalg.pinv(self.metric) @ slope
        moved = near.vector + (target - self._value(near.vector)) / (slope @ ridge) * ridge
        for vector in (moved, near.vector):
            solved = self._solved(vector, target)
            if solved is not None and math.isfinite(self.objective(solved)[0]):
                return solved
        return near.vector

    def _reduced_factor(self, start: Tensor, others: Tensor) -> Tensor:
        """The scaling of what is left when the pivot follows the others."""
        slope = self._slope(start)
        follow = torch.eye(len(start), dtype=torch.float64)[:, others]
        follow[self.pivot] = -slope[others] / slope[self.pivot]
        return _factor(follow.mT @ self.metric @ follow)

    def limit(self, sign: int, cut: float) -> _Limit:
        """Walk outward until the likelihood has fallen by ``cut``, then find the place by secants of its root."""
        inside, position = self.points[0], sign * math.sqrt(cut)
        while True:
            outside = self.at(position)
            if outside.difference >= cut:
                break
            if abs(position) >= FARTHEST:
                bound = float(self.scale.forward(torch.tensor(sign * math.inf, dtype=torch.float64)))
                message = (
                    f"-2LL rises by {outside.difference:.3g} only until {self.name} = {outside.value:.3g}, "
                    f"{abs(position):.3g} standard errors away: there is no {'upper' if sign > 0 else 'lower'} limit"
                )
                return _Limit(position, bound, message)
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
        return _Limit(outside.position, outside.value, "")

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
    factor = torch.linalg.cholesky(2 * metric)
    identity = torch.eye(len(metric), dtype=metric.dtype)
    return torch.linalg.solve_triangular(factor, identity, upper=False).mT
