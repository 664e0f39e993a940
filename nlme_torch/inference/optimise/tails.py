r"""Likelihoods that only level off: where a search found nothing more to gain, and yet there is no maximum.

Counts that are all zero, answers that are all alike, a category that is never seen: -2 log-likelihood falls for ever as
a parameter leaves, by less and less, so that its gradient vanishes as it does at a maximum. What tells the two apart is
what happens about half a standard error further out. At a maximum

.. math:: O(\theta \pm \tfrac12 s) - O(\theta) \approx \tfrac14, \qquad s^2 = 2\,(\nabla^2 O)^{-1}

on either side; in a tail the objective goes on falling on one side and rises without measure on the other. Where
several parameters leave together, going on as far as the search has come may show it. Where they leave along a curve,
one of them is held four of Newton's steps further out and the others follow: at a maximum that is too far, in a tail
more is gained than a quadratic promises.

References:
    Albert and Anderson (1984), On the existence of maximum likelihood estimates in logistic regression models.
    doi:10.1093/biomet/71.1.1
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Bool, Float
from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.free_scalars import FreeScalars, raw_labels
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.marginal.laplace import LaplaceApproximation
from nlme_torch.inference.marginal.objective import MarginalObjective
from nlme_torch.inference.numerics import linear_algebra
from nlme_torch.inference.optimise.minimisers import BFGS, Minimum
from nlme_torch.inference.optimise.optimality import Optimality, examine
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.values import ParameterValues, flatten_values, free_names, parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.residual_scale import only_scales
from nlme_torch.model.parameters.individual_parameters import IndividualParameter
from nlme_torch.model.parameters.parameters import PopulationParameter
from nlme_torch.model.parameters.transforms import Identity, Log, Logit, Transform

UNDETERMINED = 3.0
"""Standard error of a logarithm or logit from which it is asked whether its parameter runs away."""

LONGEST = 20.0
"""Longest step of a logarithm or logit, a factor of 5e8."""

LEVEL = 1e-3
"""-2 log-likelihood by which a search may end too early: a rise by less is none."""

QUADRATIC = (0.05, 1.25)
"""Rises half a standard error away between which a direction is one of a maximum; a quadratic rises by 0.25."""

FURTHER, FOLLOWED, BEYOND = 4.0, 50, 1.3
"""Newton's steps by which a parameter is moved along a curve, iterations in which the others follow, and how much more
is gained in a tail than a quadratic promises in all."""

STEEP = 1.0
"""Fall half a standard error away from which the likelihood does not level off but grows without bound."""

STATIONARY = 0.5
"""-2 log-likelihood that may be left where a number of any unit is said to run away."""

FAR = 10.0
"""Change of a logarithm or logit, a factor of 22,000, by which initial values are seldom wrong."""

RESOLVED = 1e-10
"""Falls that are more than rounding, in units of the objective."""


class Tail(NamedTuple):
    """What runs where without ever arriving.

    Attributes:
        running: Parameters whose likelihood has no maximum, as a clause; empty if there are none.
        vanished: Parts of a residual error that have fallen to nothing, a maximum at the end of their range.
        level: Whether the likelihood levels off, rather than grows without bound.
    """

    running: str = ""
    vanished: tuple[str, ...] = ()
    level: bool = True

    def explained(self) -> str:
        """Say why there is no maximum, and what to do."""
        if self.level:
            return (
                f"the likelihood has no maximum, it rises for ever and levels off as {self.running}: as where counts "
                "are all zero, answers all alike, or a category is never seen; fix what runs away, take fewer "
                "categories, or leave it out"
            )
        return (
            f"the likelihood has no maximum, it grows without bound as {self.running}: as where an error may vanish "
            "because the model meets an observation exactly; fix it, leave such records out, or begin elsewhere"
        )

    def fallen_to_nothing(self) -> list[str]:
        """Say which parts of a residual error are at the end of their range."""
        return [
            f"{name} has fallen to nothing: the likelihood is highest without that part of the residual error; drop it"
            for name in self.vanished
        ]


def tail(
    objective: MarginalObjective,
    vector: Float[Tensor, "parameter"],
    scale: Float[Tensor, "parameter parameter"],
) -> Tail:
    """Tell whether a point where a search ended is in a tail of the likelihood.

    Args:
        objective: What was minimised; its kept modes are those of the point.
        vector: The point.
        scale: T with T T' near the inverse Hessian there.

    Returns:
        What runs away. Asks nothing of the objective where every parameter is determined.
    """
    model, names = objective.approximation.density.model, objective.approximation.names
    transforms, initial = _transforms(model, names), flatten_values(parameter_values(model), names)[0]
    inverse = scale @ scale.mT
    errors = (2 * inverse.diagonal()).sqrt()
    judged = torch.tensor([transform is not None for transform in transforms], device=vector.device)
    real = torch.tensor([isinstance(transform, Identity) for transform in transforms], device=vector.device)
    least = torch.where(real, vector.abs().maximum((vector - initial).abs()), UNDETERMINED)
    places = (judged & (errors > least)).nonzero()[:, 0].tolist()
    if not places:
        return Tail()
    objective.centre = kept = objective.kept
    _, slope = objective(vector)
    if not 0.5 * float(slope @ inverse @ slope) <= STATIONARY:
        places = [place for place in places if not real[place]]  # short of a maximum a slope is no flight
        if not places:
            return Tail()
    outward, fall, straight = _along_lines(objective, vector, inverse, places, ~real & judged, initial)
    if not bool(outward.any()) and not straight:
        outward = _as_far_again(objective, vector, initial, places, ~real & judged)
    if not bool(outward.any()) and not straight:
        outward = _along_curve(objective, vector, inverse, places)
    objective.kept = objective.centre = kept
    labels, said, vanished = raw_labels(model, names), [], []
    for place in outward.nonzero()[:, 0].tolist():
        transform, sign = transforms[place], int(outward[place])
        assert transform is not None
        to_nothing = sign < 0 and isinstance(transform, Log) and fall < STEEP
        if to_nothing and only_scales(objective.approximation.density, labels[place]):
            vanished.append(labels[place])
        else:
            said.append(f"{labels[place]} runs to {_end(transform, sign)}")
    return Tail(" and ".join(said), tuple(vanished), fall < STEEP)


def judged(
    objective: MarginalObjective, minimum: Minimum, optimality: Optimality | None, most: int
) -> tuple[Minimum, Tail]:
    """Return the end of a search, UNBOUNDED where it is in a tail, and what runs away.

    Args:
        objective: What was minimised; its kept modes are those of the end.
        minimum: The end.
        optimality: What is known of it.
        most: Parameters above which nothing is asked, as of a model with a network.
    """
    vector = minimum.iterate.vector
    ended = minimum.status in (Status.CONVERGED, Status.STALLED, Status.COMPLETED)
    if not ended or objective.approximation.density.model.has_network or len(vector) > most:
        return minimum, Tail()
    objective.centre = objective.kept
    scale = inverse_root(objective.metric(vector)) if optimality is None else optimality.scale
    found = Tail() if scale is None else tail(objective, vector, scale)
    if found.running:
        minimum = minimum._replace(status=Status.UNBOUNDED, reason=found.explained(), levels_off=found.level)
    return minimum, found


def tail_of_estimates(density: Density, values: ParameterValues) -> Tail:
    """Tell the same of the end of a method that minimises nothing, by Laplace's approximation.

    Args:
        density: The model, joined to data and solver.
        values: Raw name to ``(1, *shape)``, the estimates.

    Returns:
        What runs away; nothing where the approximation has no value there.
    """
    try:
        objective = MarginalObjective(LaplaceApproximation(density), values)
    except FitError:
        return Tail()
    vector = objective.initial
    value, slope = objective(vector)
    objective.keep()
    scale = inverse_root(objective.metric(vector))
    if not math.isfinite(value) or scale is None:
        return Tail()
    return tail(objective, vector, examine(objective, vector, slope, scale).scale)


def inverse_root(information: Float[Tensor, "parameter parameter"]) -> Float[Tensor, "parameter parameter"] | None:
    """Return T with T T' the inverse of a positive definite matrix; None where it is not."""
    factor, failed = torch.linalg.cholesky_ex(information)
    if int(failed) or not bool(torch.isfinite(factor).all()):
        return None
    identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
    return torch.linalg.solve_triangular(factor, identity, upper=False).mT


def far_away(model: Model, values: ParameterValues) -> bool:
    """Whether a logarithm or logit is further from its initial value than a start is usually wrong by.

    Args:
        model: With its initial values.
        values: Raw name to ``(1, *shape)``, where a method ended.
    """
    names, before = free_names(model), parameter_values(model)
    moved = (flatten_values(values, names) - flatten_values(before, names))[0].tolist()
    return any(
        isinstance(transform, Log | Logit) and not abs(distance) <= FAR
        for transform, distance in zip(_transforms(model, names), moved, strict=True)
    )


def undetermined(scalars: FreeScalars, deviations: Float[Tensor, "kept"]) -> bool:
    """Whether a logarithm or logit is known so badly that its parameter may run away.

    Args:
        scalars: The parameters.
        deviations: Their standard errors on the estimation scale.
    """
    transforms = _transforms(scalars.model, scalars.free)
    return any(
        isinstance(transforms[place], Log | Logit) and not error <= UNDETERMINED
        for place, error in zip(scalars.kept.tolist(), deviations.tolist(), strict=True)
    )


def _along_lines(
    objective: MarginalObjective,
    vector: Tensor,
    inverse: Tensor,
    places: list[int],
    logs: Bool[Tensor, "parameter"],
    initial: Tensor,
) -> tuple[Tensor, float, bool]:
    """Where parameters run along straight lines, -1 or 1, the fall there, and whether all lines are of a maximum."""
    single = torch.eye(len(vector), dtype=vector.dtype, device=vector.device)[places]
    ridges = inverse[places] / inverse[places, places][:, None]
    lines = torch.stack([single, ridges], 1)  # (place, line, parameter), of length one for the parameter in question
    length = 0.5 * (2 * inverse[places, places]).sqrt()[:, None, None]
    most = torch.where(logs, (length * lines).abs(), 0.0).amax(-1, keepdim=True)
    length = length * (LONGEST / most.clamp_min(LONGEST))
    back = (initial - vector)[places][:, None, None].expand_as(length)
    steps = torch.stack([-length, length, back], 2) * lines[:, :, None]  # (place, line, step, parameter)
    values = objective.several(torch.cat([vector[None], vector + steps.flatten(0, 2)]))
    rises = (values[1:] - values[0]).reshape(steps.shape[:-1])
    sides, returned = rises[..., :2], rises[..., 2:]
    # level on one side only: the other one rises, or the way back to where the search began
    away = torch.stack([back[..., 0] > 0, back[..., 0] < 0], -1)
    left = (sides.flip(-1) > 10 * LEVEL) | (away & (returned > 10 * LEVEL))
    level = (sides <= LEVEL) & left
    outward, fall = torch.zeros_like(vector), 0.0
    for row, place in enumerate(places):
        line, side = level[row].nonzero().unbind(1)
        if len(line):
            step = steps[row, line[0], side[0]]
            fall = max(fall, -float(sides[row, line[0], side[0]]))
            # of a common direction, those parameters run that run as far
            runs = (step.abs() > 0.1 * step[place].abs()) & _among(vector, places)
            outward = torch.where(runs, step.sign(), outward)
    ridge = sides[:, 1]
    return outward, fall, bool(((ridge > QUADRATIC[0]) & (ridge < QUADRATIC[1])).all())


def _as_far_again(
    objective: MarginalObjective, vector: Tensor, initial: Tensor, places: list[int], logs: Bool[Tensor, "parameter"]
) -> Tensor:
    """Where parameters run, -1 or 1, if going on as far as they have come is level and all the way back is not."""
    objective.centre = objective.kept
    step = torch.where(_among(vector, places), vector - initial, 0.0)
    most = torch.where(logs, step.abs(), 0.0).amax().clamp_min(LONGEST)
    values = objective.several(torch.stack([vector, vector + step * (LONGEST / most), vector - step]))
    further, back = (values[1:] - values[0]).tolist()
    runs = step.abs() > 0.1 * step.abs().amax()
    return torch.where(runs, step.sign(), 0.0) if further <= LEVEL and back > 10 * LEVEL else torch.zeros_like(vector)


def _along_curve(objective: MarginalObjective, vector: Tensor, inverse: Tensor, places: list[int]) -> Tensor:
    """Where the parameter that Newton moves most runs, -1 or 1; zero where it gains no more than at a maximum."""
    objective.centre = objective.kept
    value, slope = objective(vector)
    newton = -inverse @ slope
    promised = -0.5 * float(slope @ newton)
    outward = torch.zeros_like(vector)
    if not promised > RESOLVED * (1 + abs(value)):
        return outward
    place = max(places, key=lambda one: float(newton[one].square() / inverse[one, one]))
    others = torch.arange(len(vector), device=vector.device) != place
    far = vector + FURTHER * newton

    def held(part: Tensor) -> tuple[float, Tensor]:
        there = far.clone()
        there[others] = part
        found, gradient = objective(there)
        return found, gradient[others]

    scale = inverse_root(linear_algebra.inverse(inverse)[others][:, others])
    if scale is None:
        return outward
    found = BFGS(iterations=FOLLOWED).minimise(held, far[others], scale, lambda _: None).iterate
    if value - found.value < BEYOND * promised:
        return outward
    end = far.clone()
    end[others] = found.vector
    moved = end - vector
    runs = (moved.abs() > newton.abs()) & _among(vector, places)
    return torch.where(runs, moved.sign(), outward)


def _among(vector: Tensor, places: list[int]) -> Bool[Tensor, "parameter"]:
    mask = torch.zeros_like(vector, dtype=torch.bool)
    mask[places] = True
    return mask


def _transforms(model: Model, names: tuple[str, ...]) -> list[Transform | None]:
    """How every entry of a vector is read; None for variances and weights, which are not judged."""
    found: list[Transform | None] = []
    for name in names:
        owner, _, part = name.rpartition(".")
        component = model.components.get(owner)
        transform: Transform | None = None
        if isinstance(component, IndividualParameter | PopulationParameter) and part in ("typical", "unconstrained"):
            transform = component.transform
        elif part == "beta" and ".covariates." in name:
            transform = Identity()
        found += [transform] * model.get_parameter(name).numel()
    return found


def _end(transform: Transform, sign: int) -> str:
    """The end of a range."""
    if isinstance(transform, Logit):
        return f"{transform.upper if sign > 0 else transform.lower:g}"
    if sign > 0:
        return "infinity"
    return "0" if isinstance(transform, Log) else "-infinity"
