r"""Newton's method for parameters and conditional modes at once, on the surface where the modes' equations hold.

.. math:: \min_{\theta, z} F(\theta, z) \quad \text{subject to} \quad c(\theta, z) = \nabla_z g = 0

Sequential quadratic programming in the null space of the equations: a step along the tangent of the surface minimises
a model of the Lagrangian within a ball, and returns to the surface by the smallest correction. Where a mode is nearly
flat, parameters alone are poor coordinates (a small step moves the mode far); the tangent then turns towards the mode.
The model is the Hessian of the Lagrangian, by differences of its gradient, with symmetric rank one updates in between.
The objective may rise for a few steps, for its valleys are curved. Where a mode ends (it meets a saddle, and beyond
both are gone) a better one lies downhill of g: a step over that edge is taken with it if the objective is lower there;
otherwise the better mode is taken where the search is, as soon as it is the better one there, whatever it costs.

References:
    Nocedal and Wright (2006), Numerical Optimization, chapter 18. doi:10.1007/978-0-387-40065-5
    Conn, Gould and Toint (2000), Trust-region methods, section 10.1. doi:10.1137/1.9780898719857
"""

import math
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from nlme_torch.inference.marginal.lagrangian import Slopes
from nlme_torch.inference.optimise.minimisers import Iterate
from nlme_torch.inference.optimise.trust_region_step import best_step

STEP = 1e-4
"""Of differences of exact gradients in scaled coordinates: half of a double's digits are left."""
RENEW_AFTER = 10
"""Steps after which the reduced Hessian is taken anew; in between secant updates follow it."""
MEMORY = 6
"""Points among which the highest is the reference of a fall, so that one hard step does not shrink the radius."""
CORRECTIONS = 12
"""Newton steps back to the surface of modes: from near it they square the distance."""
ON_SURFACE, NEAR_SURFACE = 1e-9, 1e-4
"""Norms of the equations of the modes: on the surface, and so near that the modes alone are corrected."""
COLUMNS = 5000
"""Subjects times copies in one call: a quarter of what others take, as its graph holds third derivatives."""
DOWNWARDS = 1e-3
"""Curvature of the reduced Hessian, in scaled coordinates of size one, that is no noise of differences."""
ASIDE, SAME = 0.1, 1e-5
"""Prior standard deviations: how far beside a fold another mode is looked for, and within which it is the same."""
SMALLEST, CROSSINGS = 1e-6, 4
"""Radius and changes of modes at which the walk ends: beyond them the ordinary search goes on."""


@runtime_checkable
class Surface(Protocol):
    """An objective F and the equations c of the modes: :class:`~nlme_torch.inference.marginal.lagrangian.FullSpace`."""

    def slopes(self, vectors: Tensor, effects: Tensor, multipliers: Tensor | None = None) -> Slopes:
        """Return F and its derivatives at ``(start, ...)`` points, or those of the Lagrangian."""
        ...

    def equations(self, vectors: Tensor, effects: Tensor) -> Tensor:
        """Return c at several points, ``(effect, start, subject)``."""
        ...

    def bends(self, vector: Tensor, effects: Tensor) -> tuple[Tensor, Tensor]:
        """Return c and its derivative in the effects at one point."""
        ...

    def minima(self, vector: Tensor, starts: Tensor) -> Tensor | None:
        """Return the lowest minima of g downhill from several starts."""
        ...


class Point(NamedTuple):
    """A point of the surface and the geometry there; coordinates are scaled parameters, then effects.

    Attributes:
        vector: ``(parameter,)``.
        effects: Modes, ``(effect, 1, subject)``.
        value: F.
        normals: Derivative of the equations, ``(equation, coordinate)``.
        tangent: Orthonormal, ``(coordinate, parameter)``.
        multipliers: Of the equations, ``(effect, 1, subject)``.
        slope: Gradient of the Lagrangian, ``(coordinate,)``.
    """

    vector: Tensor
    effects: Tensor
    value: float
    normals: Tensor
    tangent: Tensor
    multipliers: Tensor
    slope: Tensor

    @property
    def reduced(self) -> Tensor:
        """Gradient along the surface, ``(parameter,)``."""
        return self.tangent.mT @ self.slope

    @property
    def total(self) -> Tensor:
        """Gradient in the scaled parameters, the modes following, ``(parameter,)``."""
        count = self.multipliers.numel()
        by_parameters, by_effects = self.slope[:-count], self.slope[-count:]
        followed, _ = torch.linalg.solve_ex(self.normals[:, -count:], by_effects)
        return by_parameters - self.normals[:, :-count].mT @ followed


class Trial(NamedTuple):
    """A point of the surface that may be taken: value, place, Hessians of g there, and whether a mode is another."""

    value: float
    vector: Tensor
    effects: Tensor
    bends: Tensor
    crossed: bool


class FullSpaceWalk:
    """A search on the surface.

    Args:
        space: The objective and the equations.
        vector: Where to begin, ``(parameter,)``.
        effects: The modes there, ``(effect, 1, subject)``.
        scale: T of parameters = T u, in whose u the problem is well scaled.
    """

    def __init__(self, space: Surface, vector: Tensor, effects: Tensor, scale: Tensor) -> None:
        self.space, self.scale = space, scale
        self.evaluations = self.since = self.rejected = self.exchanged = self.crossed = 0
        self.radius = 0.3
        _, bends = space.bends(vector, effects)
        self.here = self.best = self.place(vector, effects, bends)
        self.history = [(self.here.value, 0.0)]
        self.renew()

    def iterate(self) -> Iterate:
        """The current point, as a function of the parameters alone."""
        here, total = self.here, self.here.total
        gradient = torch.linalg.solve(self.scale.mT, total)
        return Iterate(here.vector, here.value, gradient, float(total.abs().max()))

    def attempt(self) -> bool:
        """One trial; whether it was taken."""
        here = self.here
        if self.since >= RENEW_AFTER or self.rejected >= 3:
            self.renew()
        model = here.tangent.mT @ self.hessian @ here.tangent
        step, promised = best_step(model, here.reduced, self.radius)
        length = float(step.norm())
        trial = self.evaluate(step)
        if trial is None:
            return self.refuse(0.3 * length)
        value, vector, effects, bends, crossed = trial
        ratio = self.ratio(value, promised)
        if ratio < 1e-4:
            return False if crossed and self.exchange(effects) else self.refuse(0.25 * length)
        self.here = self.place(vector, effects, bends)
        self.history = [*self.history, (value, promised)][-MEMORY:]
        self.since, self.rejected = (RENEW_AFTER if crossed else self.since + 1), 0
        self.crossed += crossed
        if value < self.best.value:
            self.best = self.here
        if ratio > 0.75 and length > 0.8 * self.radius:
            self.radius = 2 * self.radius
        elif ratio < 0.25:
            self.radius = 0.5 * length
        return True

    def evaluate(self, step: Tensor) -> "Trial | None":
        """Go along the tangent and back to the surface, evaluate and learn; None where there is no value."""
        here = self.here
        found = self.retract(here.tangent @ step)
        if found is None:
            return None
        vector, effects, bends = found
        crossed = not is_minimum(bends)
        if crossed:
            beyond = self.beyond(vector, effects, bends)
            if beyond is None:
                return None
            effects, bends = beyond
        trial = self.space.slopes(vector[None], effects, here.multipliers)
        self.evaluations += 1
        if not math.isfinite(float(trial.value)):
            return None
        if not crossed:
            slope = self.stacked(trial.by_parameters, trial.by_effects)
            moved = self.coordinates(vector - here.vector, effects - here.effects)
            self.learn(moved, slope - here.slope)
        return Trial(float(trial.value), vector, effects, bends, crossed)

    def beyond(self, vector: Tensor, effects: Tensor, bends: Tensor) -> tuple[Tensor, Tensor] | None:
        """The modes where some have ended, on either side of the saddles that are left; None where there are none."""
        values, directions = torch.linalg.eigh(bends.permute(2, 0, 1))
        aside = ASIDE * torch.where(values[:, :1] > 0, 0.0, directions[..., 0]).mT[:, None]
        found = self.space.minima(vector, torch.cat([effects + aside, effects - aside], 1))
        if found is None:
            return None
        _, bends = self.space.bends(vector, found)
        return (found, bends) if is_minimum(bends) else None

    @property
    def at_edge(self) -> bool:
        """Whether the search is caught at the edge of a mode: by vanishing steps, or to and fro between two modes."""
        return self.radius <= SMALLEST or self.crossed + self.exchanged >= CROSSINGS

    def bends_down(self) -> bool:
        """Whether the surface falls away to the second order: a saddle, whose gradient vanishes too."""
        self.renew()
        model = self.here.tangent.mT @ self.hessian @ self.here.tangent
        return float(torch.linalg.eigvalsh(model)[0]) < -DOWNWARDS

    def exchange(self, effects: Tensor) -> bool:
        """Take modes from beyond an edge for those of this point where they are better; whether some are."""
        here = self.here
        found = self.space.minima(here.vector, torch.cat([here.effects, effects], 1))
        if found is None or float((found - here.effects).abs().max()) < SAME:
            return False
        _, bends = self.space.bends(here.vector, found)
        if not is_minimum(bends):
            return False
        self.here = self.best = self.place(here.vector, found, bends)  # lower values belong to worse modes
        self.history = [(self.here.value, 0.0)]
        self.since, self.rejected, self.exchanged = RENEW_AFTER, 0, self.exchanged + 1
        return True

    def refuse(self, radius: float) -> bool:
        """Stay, and try a smaller step next."""
        self.radius, self.rejected = radius, self.rejected + 1
        return False

    def ratio(self, value: float, promised: float) -> float:
        """Fall over promise, since the last point or since the highest of the last few."""
        noise = 1e-10 * (1 + abs(value))
        highest = max(range(len(self.history)), key=lambda index: self.history[index][0])
        before = sum(promise for _, promise in self.history[highest + 1 :])
        since_highest = (self.history[highest][0] - value + noise) / (before + promised + noise)
        return max((self.here.value - value + noise) / (promised + noise), since_highest)

    def place(self, vector: Tensor, effects: Tensor, bends: Tensor) -> Point:
        """Everything that a step from this point needs."""
        found = self.space.slopes(vector[None], effects)
        normals = torch.cat([self.sensitivities(vector, effects), spread(bends)], 1)
        basis, upper = torch.linalg.qr(normals.mT, mode="complete")
        count = len(normals)
        along = basis[:, :count].mT @ self.stacked(found.by_parameters, found.by_effects)
        multipliers = torch.linalg.solve_triangular(upper[:count], along[:, None], upper=True).reshape(effects.shape)
        # exact, so that errors of the normals are multiplied by each other only
        exact = self.space.slopes(vector[None], effects, multipliers)
        self.evaluations += 2
        slope = self.stacked(exact.by_parameters, exact.by_effects)
        return Point(vector, effects, float(found.value), normals, basis[:, count:], multipliers, slope)

    def sensitivities(self, vector: Tensor, effects: Tensor) -> Tensor:
        """Derivative of the equations in the scaled parameters, ``(equation, parameter)``, by differences."""
        moved = torch.cat([torch.zeros_like(self.scale.mT[:1]), STEP * self.scale.mT])
        rows = []
        for part in (vector + moved).split(max(1, COLUMNS // effects.shape[-1])):
            found = self.space.equations(part, effects.expand(-1, len(part), -1).contiguous())
            rows.append(found.movedim(1, 0).flatten(1))
        slopes = torch.cat(rows)
        moves = (slopes[1:] - slopes[0]) / STEP
        return torch.where(torch.isfinite(moves), moves, 0.0).mT

    def renew(self) -> None:
        """Difference the gradient of the Lagrangian along the tangent."""
        here = self.here
        steps = torch.cat([torch.zeros_like(here.tangent.mT[:1]), STEP * here.tangent.mT])
        multipliers, count = here.multipliers, here.multipliers.numel()
        rows = []
        for part in steps.split(max(1, COLUMNS // count)):
            by_vector, by_effects = part[:, :-count], part[:, -count:].reshape(len(part), -1, multipliers.shape[-1])
            found = self.space.slopes(
                here.vector + by_vector @ self.scale.mT,
                (here.effects + by_effects.movedim(1, 0)).contiguous(),
                multipliers.expand(-1, len(part), -1).contiguous(),
            )
            rows.append(torch.cat([found.by_parameters @ self.scale, found.by_effects.movedim(1, 0).flatten(1)], 1))
        slopes = torch.cat(rows)
        bent = (slopes[1:] - slopes[0]) / STEP @ here.tangent
        good = torch.isfinite(bent).all(1)
        identity = torch.eye(len(bent), dtype=bent.dtype, device=bent.device)
        bent = torch.where(good[:, None] & good, 0.5 * (bent + bent.mT), identity)
        self.hessian = here.tangent @ bent @ here.tangent.mT
        self.evaluations += len(steps)
        self.since = self.rejected = 0

    def learn(self, moved: Tensor, turned: Tensor) -> None:
        """Update the model with the change of the Lagrangian's gradient along a step."""
        missed = turned - self.hessian @ moved
        below = float(missed @ moved)
        if abs(below) > 1e-6 * float(missed.norm() * moved.norm()):
            self.hessian = self.hessian + torch.outer(missed, missed) / below

    def retract(self, step: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return to the surface after a step along the tangent; None where that fails.

        The smallest correction by Newton's method, the modes' own part of its matrix renewed; close to the surface the
        parameters rest and the modes alone are corrected.
        """
        vector, effects = self.moved(self.here.vector, self.here.effects, step)
        count = self.here.multipliers.numel()
        norms: list[float] = []
        for _ in range(CORRECTIONS):
            equations, bends = self.space.bends(vector, effects)
            norms.append(float(equations.norm()))
            if norms[-1] < ON_SURFACE:
                return vector, effects, bends
            if not math.isfinite(norms[-1]) or (len(norms) > 2 and norms[-1] > norms[-3]):
                return None
            if norms[-1] < NEAR_SURFACE:
                own = torch.linalg.solve_ex(bends.permute(2, 0, 1), equations.mT[..., None])[0][..., 0].mT
                if float(own.norm()) < 1e-2:
                    effects = effects - own[:, None]
                    continue
            normals = torch.cat([self.here.normals[:, :-count], spread(bends)], 1)
            basis, upper = torch.linalg.qr(normals.mT)
            least = torch.linalg.solve_triangular(upper.mT, equations.reshape(-1, 1), upper=False)[:, 0]
            vector, effects = self.moved(vector, effects, -basis @ least)
        return None

    def moved(self, vector: Tensor, effects: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Add a step in coordinates."""
        count = len(vector)
        return vector + self.scale @ step[:count], effects + step[count:].reshape(effects.shape)

    def coordinates(self, vector: Tensor, effects: Tensor) -> Tensor:
        """Difference of two points in coordinates."""
        return torch.cat([torch.linalg.solve(self.scale, vector), effects.flatten()])

    def stacked(self, by_parameters: Tensor, by_effects: Tensor) -> Tensor:
        """Derivatives of one point in coordinates."""
        return torch.cat([self.scale.mT @ by_parameters[0], by_effects[:, 0].flatten()])


def spread(bends: Tensor) -> Tensor:
    """Put every subject's ``(effect, effect, subject)`` where it belongs in one matrix over effects and subjects."""
    effects, _, subjects = bends.shape
    matrix = bends.new_zeros(effects, subjects, effects, subjects)
    index = torch.arange(subjects, device=bends.device)
    matrix[:, index, :, index] = bends.permute(2, 0, 1)
    return matrix.reshape(effects * subjects, effects * subjects)


def is_minimum(bends: Tensor) -> bool:
    """Whether every subject's ``(effect, effect, subject)`` is positive definite."""
    return bool((torch.linalg.cholesky_ex(bends.permute(2, 0, 1))[1] == 0).all())
