"""Outer searches by minimisers that are handed the objective as it is, watched while they go."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.marginal.objective import MarginalObjective
from nlme_torch.inference.optimise.bounds import furthest
from nlme_torch.inference.optimise.minimisers import Iterate, Minimum, Optimiser
from nlme_torch.inference.optimise.outer_search import Endless, merging, without_end
from nlme_torch.inference.optimise.trust_region import TrustRegion

ROUNDS = 4
"""Searches one after the other at most, each after better modes were found where the last one ended."""


class Walked(NamedTuple):
    """Where a search ended.

    Attributes:
        minimum: The end, with the counts of all rounds.
        outward: Which way parameters run without end, ``(parameter,)``; None where none does.
    """

    minimum: Minimum
    outward: Tensor | None


def walk(
    objective: MarginalObjective,
    optimiser: Optimiser,
    scaled: Callable[[Tensor], Tensor],
    report: Callable[[Iterate], None],
) -> Walked:
    """Minimise, as often as there are better modes where it ends.

    A search is left where a logarithm has gone as far as it may and the objective still falls, and where Laplace's
    approximation ends because two modes of a subject merge.

    Args:
        objective: Penalised -2 log-likelihood.
        optimiser: The minimiser.
        scaled: Returns T of coordinates in which the problem is about well scaled at a point.
        report: Called after every iteration.
    """
    bounds = furthest(objective.approximation, objective.initial)
    start, iterations, evaluations, done = objective.initial, 0, 0, 0

    def watched(point: Iterate) -> None:
        nonlocal done
        done += 1
        report(point)
        outward = bounds.outward(point.vector, point.gradient)
        if bool(outward.any()):
            raise Endless(point.vector, point.value, point.gradient, outward)

    for _ in range(ROUNDS):
        left = dataclasses.replace(optimiser, iterations=optimiser.iterations - iterations)  # type: ignore[type-var]
        done = 0
        try:
            minimum = left.minimise(objective, start, scaled(start), watched)
        except Endless as end:
            iterate = Iterate(end.vector, end.value, end.slope, float(end.slope.abs().max()))
            counts = iterations + done, evaluations + done
            return Walked(Minimum(iterate, *counts, Status.UNBOUNDED, without_end(bounds, end.outward)), end.outward)
        iterations, evaluations = iterations + minimum.iterations, evaluations + minimum.evaluations
        start = minimum.iterate.vector
        over = iterations >= optimiser.iterations or minimum.status is Status.INTERRUPTED
        if not isinstance(optimiser, TrustRegion) or over:
            break
        kept = objective.kept
        try:
            if not objective.search(start):
                break
        except KeyboardInterrupt:  # what was found stands
            objective.kept = kept
            minimum = minimum._replace(status=Status.INTERRUPTED, reason="interrupted")
            break
    if isinstance(optimiser, TrustRegion):
        objective.centre = objective.kept
        places = objective.blocked().nonzero()[:, 0].tolist()
        if minimum.status is Status.STALLED and places:
            minimum = minimum._replace(status=Status.SINGULAR, reason=merging(objective, places))
    return Walked(minimum._replace(iterations=iterations, evaluations=evaluations), None)
