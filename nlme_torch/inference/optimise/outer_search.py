"""The outer search: rounds of a minimiser, each scaled by the curvature where the last ended, until that is a maximum.

A search in coordinates that were scaled where it began may stop anywhere else: its tolerance is then in a wrong unit.
So every end is judged where it is (``optimality``), and a search goes on from there, in the unit of that place, until
there is nothing left to gain, or two rounds have gained nothing.
"""

import dataclasses
import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.marginal.foce import Linearised
from nlme_torch.inference.marginal.objective import MarginalObjective
from nlme_torch.inference.optimise.both_sides import Sides, both_sides, search_by_values
from nlme_torch.inference.optimise.bounds import MARGIN, Furthest, furthest
from nlme_torch.inference.optimise.minimisers import BFGS, LBFGS, Iterate, Minimum
from nlme_torch.inference.optimise.noise import noise
from nlme_torch.inference.optimise.optimality import Optimality, examine, expect
from nlme_torch.model.declare.model import Model
from nlme_torch.model.density.kinked_predictions import predictions_kink
from nlme_torch.model.density.moving_doses import dose_times_move

ROUNDS = 8
"""Searches one after the other at most, each scaled by what the last one found."""
MANY = 20
"""Parameters above which differences of the gradient cost too much."""

NOISY, MOST_NOISE = 4.0, 0.05
"""How many standard deviations of noise are borne, and how much of -2LL that may be at most."""

GAIN = 1e-3
"""-2 log-likelihood that may be left where a search is said to have converged."""

LATELY, VALUELESS = 20, 6
"""How many of the last steps met no value, from which that is said of a search that ends there."""

REFUSALS = 5
"""Steps over the edge of where the approximation is defined, from next to it, after which a search ends there."""


class Ended(NamedTuple):
    """Where an outer search ended.

    Attributes:
        minimum: The lowest point, with the counts of all rounds.
        optimality: What is known of it; None where it was not asked for.
        outward: Which way parameters run without end, ``(parameter,)``; None where none does.
    """

    minimum: Minimum
    optimality: Optimality | None
    outward: Tensor | None = None


class Endless(Exception):
    """The search stands as far away as it may go, and the objective still falls.

    Args:
        vector: Where, within the bounds.
        value: Objective there.
        slope: Gradient there.
        outward: Which way parameters run, ``(parameter,)``.
    """

    def __init__(self, vector: Tensor, value: float, slope: Tensor, outward: Tensor) -> None:
        super().__init__("the objective falls without end")
        self.vector, self.value, self.slope, self.outward = vector, value, slope, outward


class Edge(Exception):
    """The search stands where the approximation ends: the objective falls beyond, and means nothing there.

    Args:
        subjects: Positions of those whose Hessian is nearly singular.
    """

    def __init__(self, subjects: list[int]) -> None:
        super().__init__("the approximation is not defined beyond this point")
        self.subjects = subjects


class OuterSearch:
    """Rounds of a line search.

    Args:
        objective: Penalised -2 log-likelihood.
        strategy: The minimiser.
        scaled: Returns T of coordinates in which the problem is about well scaled at a point.
        report: Called after every iteration.
        before_values: Called before a search by values alone, which takes long, and may end all by an exception.
    """

    def __init__(
        self,
        objective: MarginalObjective,
        strategy: BFGS | LBFGS,
        scaled: Callable[[Tensor], Tensor],
        report: Callable[[Iterate], None],
        before_values: Callable[[Iterate], None],
    ) -> None:
        self.objective, self.strategy, self.scaled = objective, strategy, scaled
        self.before_values = before_values
        self.furthest = furthest(objective.approximation, objective.initial)
        self.shown = report
        self.iterations = self.evaluations = self.reported = self.called = self.refusals = 0
        self.lowest = math.inf
        self.lowest_at = objective.initial, torch.zeros_like(objective.initial)  # with the gradient there
        self.valueless: deque[bool] = deque(maxlen=LATELY)  # whether the last steps met no value
        self.towards = torch.zeros_like(objective.initial)
        # where the model moves doses, or switches in time, derivatives jump as one of them meets an observation
        density = objective.approximation.density
        moves = type(density.model).dosing is not Model.dosing or dose_times_move(density)
        self.timed = moves or predictions_kink(density)

    def evaluate(self, vector: Tensor) -> tuple[float, Tensor]:
        """Value and gradient, the modes followed from those of the lowest point.

        Beyond the furthest that a logarithm may go the objective is taken to be what it is there.
        """
        objective, inside = self.objective, self.furthest.inside(vector)
        objective.centre = objective.kept
        value, slope = objective.step(inside) if math.isfinite(self.lowest) else objective(inside)
        self.called += 1
        self.valueless.append(math.isinf(value))
        if value < self.lowest:
            self.lowest, self.lowest_at = value, (inside, slope)
            objective.keep()
            outward = self.furthest.outward(inside, slope)
            if bool(outward.any()):
                raise Endless(inside, value, slope, outward)
        elif math.isinf(value):
            self.refuse(objective.blocking())
            self.towards = inside - self.lowest_at[0]
        return value, torch.where(inside == vector, slope, 0.0)

    def refuse(self, blocking: Tensor) -> None:
        """Count steps over the edge of where the approximation is defined; after some, the search ends there.

        Args:
            blocking: Subjects for whom it is not defined beyond, ``(subject,)``.
        """
        self.refusals += int(blocking.any())
        if self.refusals >= REFUSALS and bool(blocking.any()):
            raise Edge(blocking.nonzero()[:, 0].tolist())

    def report(self, point: Iterate) -> None:
        """Show an iteration."""
        self.reported += 1
        self.shown(point._replace(vector=self.furthest.inside(point.vector)))

    def go(self, start: Tensor) -> Ended:
        """Search from a point until nothing is left to gain; after Ctrl-C, what stands."""
        self.stands: Minimum | None = None
        try:
            return self.rounds(start)
        except KeyboardInterrupt:
            if self.stands is None:
                raise
            return Ended(self.stands._replace(status=Status.INTERRUPTED, reason="interrupted"), None)
        except Endless as end:
            return Ended(self.unbounded(end), None, end.outward)
        except Edge as end:
            return Ended(self.at_edge(end.subjects), None)

    def rounds(self, start: Tensor) -> Ended:
        """Search round by round, each judged where it ends."""
        vector, scale, idle, creeping = start, self.scaled(start), 0, 0
        before = math.inf
        optimality: Optimality | None = None
        for _ in range(ROUNDS):
            found = self.round(vector, scale)
            if not math.isfinite(found.iterate.value):
                return self.lost(found, optimality)
            self.stands, vector = found, found.iterate.vector
            if found.status in (Status.INTERRUPTED, Status.ITERATIONS_USED):
                return Ended(found, optimality)
            outward = self.furthest.outward(vector, found.iterate.gradient, MARGIN)
            if found.status is Status.STALLED and bool(outward.any()):
                end = Endless(vector, found.iterate.value, found.iterate.gradient, outward)
                return Ended(self.unbounded(end, found), optimality, outward)
            optimality = self.examine(vector, found.iterate.gradient)
            unsure = self.unsure(found, optimality)
            flat = optimality.gain <= max(GAIN, unsure) and not optimality.saddle
            if flat and not self.timed:
                return Ended(converged(found, optimality, unsure), optimality)
            idle = idle + 1 if before - found.iterate.value < 0.1 * GAIN else 0
            before, scale = found.iterate.value, optimality.scale
            if self.timed:
                sides = both_sides(self.objective.several, vector, scale)
                if flat and sides.fall <= GAIN and not sides.kinked:
                    return Ended(converged(found, optimality, unsure), optimality)
                if sides.kinked or idle >= 1:
                    return Ended(self.kinked(found, scale, sides), optimality)
                vector = sides.lowest if sides.fall > 0 else vector
            elif optimality.saddle:
                vector = self.down(vector, optimality)
            creeping = creeping + 1 if found.creeping else 0
            if max(idle, creeping) >= 2:
                break
        return Ended(failed(found, optimality, self.beyond()), optimality)

    def beyond(self) -> str:
        """What to say where many of the last steps met no value at all: which parameter alone leads there."""
        if sum(self.valueless) < VALUELESS:
            return ""
        values = self.objective.several(self.lowest_at[0] + torch.diag(2 * self.towards))
        named = [label for label, value in zip(self.furthest.labels, values, strict=True) if not math.isfinite(value)]
        place = f"this value of {' and of '.join(named)}" if named else "this point"
        return (
            f"; just beyond {place} the model has no value (an equation that cannot be solved, a number that is not "
            "finite): check what it does there"
        )

    def lost(self, found: Minimum, optimality: Optimality | None) -> Ended:
        """What stands where a round could not even begin, because a subject's mode was not found again."""
        if self.stands is None:
            return Ended(found, None)
        reason = "the objective has no value where the search was to go on"
        return Ended(self.stands._replace(status=Status.STALLED, reason=reason), optimality)

    def kinked(self, found: Minimum, scale: Tensor, sides: Sides) -> Minimum:
        """The lowest point nearby by values alone, which is no proof of a maximum."""
        self.before_values(found.iterate)
        vector, value = search_by_values(self.objective.several, found.iterate.vector, scale)
        if value < found.iterate.value:
            self.lowest = math.inf
            value, slope = self.evaluate(vector)
            if value < found.iterate.value:
                largest = float((scale.mT @ slope).abs().max())
                found = found._replace(iterate=Iterate(vector, value, slope, largest))
                self.report(found.iterate)
        reason = "the lowest value nearby was found by values alone"
        if sides.kinked:
            reason = (
                "the objective has a kink here, where a lag, a duration or a switch meets an observation: a gradient "
                "proves nothing, " + reason
            )
        return found._replace(status=Status.STALLED, reason=reason, evaluations=self.evaluations)

    def unbounded(self, end: Endless, found: Minimum | None = None) -> Minimum:
        """The point at which a search without end was left, during a round or where one ended, and why."""
        reason = without_end(self.furthest, end.outward)
        self.objective.centre = self.objective.kept
        if found is not None:
            return found._replace(status=Status.UNBOUNDED, reason=reason)
        iterate = Iterate(end.vector, end.value, end.slope, float(end.slope.abs().max()))
        iterations, evaluations = self.iterations + self.reported, self.evaluations + self.called
        return Minimum(iterate, iterations, evaluations, Status.UNBOUNDED, reason)

    def at_edge(self, places: list[int]) -> Minimum:
        """The lowest point of a search that was stopped where the approximation ends."""
        objective, (vector, slope) = self.objective, self.lowest_at
        objective.centre = objective.kept
        reason = merging(objective, places)
        iterate = Iterate(vector, self.lowest, slope, float(slope.abs().max()))
        iterations, evaluations = self.iterations + self.reported, self.evaluations + self.called
        return Minimum(iterate, iterations, evaluations, Status.SINGULAR, reason)

    def examine(self, vector: Tensor, slope: Tensor) -> Optimality:
        """Judge a point: by the Hessian, or with many parameters by the expected information where there is one."""
        objective = self.objective
        if len(vector) > MANY and isinstance(objective.approximation, Linearised):
            expected = expect(objective.metric(vector), slope)
            if expected is not None:
                return expected
        return examine(objective, vector, slope, self.scaled(vector))

    def unsure(self, found: Minimum, optimality: Optimality) -> float:
        """How much gain the solver's noise alone may promise, where a search could go no further."""
        dynamic = self.objective.approximation.density.model.has_dynamics
        if found.status is not Status.STALLED or not dynamic or not math.isfinite(optimality.gain):
            return 0.0
        measured = noise(self.objective, found.iterate.vector, optimality.scale)
        promised = NOISY * max(measured.gain, measured.value)
        return promised if promised < MOST_NOISE else 0.0

    def round(self, vector: Tensor, scale: Tensor) -> Minimum:
        """One minimisation; the modes kept afterwards are those of its lowest point."""
        left = dataclasses.replace(self.strategy, iterations=max(self.strategy.iterations - self.iterations, 0))
        self.lowest, self.reported, self.called, self.refusals = math.inf, 0, 0, 0
        found = left.minimise(self.evaluate, vector, scale, self.report)
        iterate = found.iterate._replace(vector=self.furthest.inside(found.iterate.vector))
        self.objective.centre = self.objective.kept
        self.iterations, self.evaluations = self.iterations + found.iterations, self.evaluations + found.evaluations
        return found._replace(iterate=iterate, iterations=self.iterations, evaluations=self.evaluations)

    def down(self, vector: Tensor, optimality: Optimality) -> Tensor:
        """The lowest point to either side of a saddle."""
        here = vector, self.evaluate(vector)[0]
        for length in (0.5, -0.5, 2.0, -2.0):
            there = vector + length * optimality.downward
            value, _ = self.evaluate(there)
            self.evaluations += 1
            if value < here[1]:
                here = there, value
        return here[0]


def converged(found: Minimum, optimality: Optimality, unsure: float) -> Minimum:
    """The minimum with the proof of it."""
    reason = f"by the curvature there {optimality.gain:.1g} of -2LL are left"
    if unsure:
        reason += f", and the solver's noise is worth {unsure:.1g}"
    return found._replace(status=Status.CONVERGED, reason=reason)


def failed(found: Minimum, optimality: Optimality | None, beyond: str) -> Minimum:
    """The minimum with what is wrong with it, and what lies beyond."""
    assert optimality is not None
    if optimality.saddle:
        reason = "the objective bends down in a direction, but no step along it lowered it"
    elif not math.isfinite(optimality.gain):
        reason = "the objective has no derivatives next to this point"
    else:
        reason = f"no step lowered the objective, though by its curvature {optimality.gain:.2g} of -2LL are left"
    return found._replace(status=Status.STALLED, reason=reason + beyond)


def without_end(bounds: Furthest, outward: Tensor) -> str:
    """Say why a search that ran as far as it may has no end.

    Args:
        bounds: How far it may go.
        outward: Which way parameters run, ``(parameter,)``.
    """
    return (
        f"the likelihood has no maximum, it grows without bound as {bounds.described(outward)}: as it does where an "
        "error may vanish because the model meets an observation exactly, such as a zero before any drug is there"
    )


def merging(objective: MarginalObjective, places: list[int]) -> str:
    """Say why Laplace's approximation ends where a search stands.

    Args:
        objective: What is searched.
        places: Positions of the subjects whose Hessian is nearly singular.
    """
    subjects = objective.approximation.density.batch.subjects
    named = ", ".join(str(subjects[place]) for place in places)
    return (
        f"Laplace's approximation falls without bound from here on, because the Hessian of subject {named} becomes "
        f"singular (smallest eigenvalue {float(objective.kept_least[places].min()):.2g} in units of the prior's) where "
        "two conditional modes merge: fit by nlme.Quadrature, nlme.SAEM or nlme.FOCEI instead"
    )
