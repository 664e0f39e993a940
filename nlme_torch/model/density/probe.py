"""One evaluation of user code before any long work, to find mistakes and say where they are."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, LogNormal, Normal, StudentT

from nlme_torch.data.records.batch import Batch
from nlme_torch.errors import ModelError, SolveError
from nlme_torch.model.declare.model import Model
from nlme_torch.model.density.conditional import Conditional
from nlme_torch.model.density.joined import Joined
from nlme_torch.model.density.observed import ObservedRecords
from nlme_torch.model.density.time_zero import check_hazard
from nlme_torch.model.individual.individual import Individual, at_records, flatten
from nlme_torch.model.observation import Censored, Correlated, Truncated


def probe(conditional: Conditional) -> None:
    """Evaluate a model at zero effects.

    Args:
        conditional: The model with its data, at the model's own parameters.

    Raises:
        ModelError: User code returns the wrong number or shape of things, an outcome is missing on one side, a
            distribution has an invalid parameter, or an observation lies outside the support of its distribution.
    """
    density = conditional.density
    model, batch = density.model, density.batch
    eta = conditional.mean.new_zeros(model.n_effects, 1, 1, batch.n_subjects)
    individual = conditional.individual(eta)
    if model.has_dynamics:
        flat = flatten(vars(individual))
        initial = conditional.trajectory(individual, eta).initial
        if not model.has_compartments:
            density.fields.of(flat.specification)(density._times[0].expand_as(initial[0]), initial, flat.leaves)
            # once with the covariates themselves, which refuse what their bare numbers would take
            first = Individual(at_records(vars(individual), lambda value: value[0]))
            model.dynamics(density._times[0], model.state_tuple()(*initial[: len(model.states)]), first)
    observations, _ = conditional.as_written(eta)
    for group, observed in observations:
        if not isinstance(observed, dict):
            raise ModelError(
                f"observe must return a dict of outcome name to distribution, got {type(observed).__name__}; write "
                f"return {{{next(iter(batch.outcomes), 'DV')!r}: dist.Normal(prediction, p.sigma)}}.",
                method="observe",
            )
        for name in observed:
            if name not in batch.outcomes:
                raise ModelError(
                    f"observe returns outcome {name!r}, which the data lack; they have {_names(batch.outcomes)}. "
                    "Rename it, or name the data's column in Dataset(..., outputs=...).",
                    method="observe",
                )
        missing = set(batch.outcomes) - set(observed)
        if missing:
            raise ModelError(
                f"the data have outcomes that observe does not return: {_names(missing)}. Add them to observe, or "
                "leave them out of the data set's outputs.",
                method="observe",
            )
        completed = group.complete(observed)
        for name in group.values:
            _check_outcome(density, name, completed[name], group, observed[name])
            check_hazard(density, name, observed[name], group)


def why_not_finite(conditional: Conditional, eta: Tensor, start: int, subject: int) -> str:
    """Say in a clause why the log joint of one subject is not finite.

    Args:
        conditional: Densities at the parameters in question.
        eta: ``(effect, 1, start, subject)``.
        start: Which start.
        subject: Position of the subject.

    Returns:
        The reason and what to do about it.
    """
    density = conditional.density
    with torch.no_grad():
        individual = conditional.individual(eta)
        for name, value in vars(individual).items():
            if isinstance(value, Tensor) and not bool(torch.isfinite(_entry(value, start, subject)).all()):
                return f"its parameter {name!r} is not finite; check initial values, covariates and individual()."
        if density.model.has_dynamics:
            trajectory = conditional.trajectory(individual, eta)
            for reason, where in trajectory.refusals:
                if bool(_entry(where, start, subject)):
                    return f"{reason}; check dosing(p), the initial values and the subject's dosing rows."
            solution = trajectory.solve()
            here = torch.zeros_like(solution.status)
            here[..., start, subject] = solution.status[..., start, subject]
            try:
                type(solution)(solution.states, here, solution.reached, solution.statistics).raise_for_status(
                    density.batch.subjects, density._times
                )
            except SolveError as error:
                return f"its equation could not be solved: {error}."
    return "check the initial values, and that its observations are possible under them."


def _check_outcome(density: Joined, name: str, distribution: Any, group: ObservedRecords, as_written: Any) -> None:
    if not isinstance(distribution, Distribution):
        raise ModelError(
            f"outcome {name!r} must be a distribution, got {type(distribution).__name__}; write {name!r}: "
            "dist.Normal(prediction, p.sigma), or one of nlme.observation.",
            method="observe",
        )
    kind = type(distribution).__name__
    if distribution.event_shape:
        raise ModelError(
            f"outcome {name!r} is a {kind} over vectors of shape {tuple(distribution.event_shape)}; return one "
            "univariate distribution per outcome.",
            method="observe",
        )
    shape = density._times.shape
    try:
        whole = torch.broadcast_shapes(distribution.batch_shape, shape)
    except RuntimeError:
        whole = ()
    if whole != shape:
        raise ModelError(
            f"outcome {name!r} is a {kind} of shape {tuple(distribution.batch_shape)}, which is not one number "
            f"per record and subject {tuple(shape)}; write plain arithmetic on scalars.",
            method="observe",
        )
    _check_spread(density, name, as_written, group)
    for argument, constraint in distribution.arg_constraints.items():
        value = getattr(distribution, argument)
        place = _first_bad(constraint, value, group)
        if place is not None:
            raise ModelError(
                f"outcome {name!r}: {argument} of {kind} is {_at(value, place, shape)} {_where(density, place)}, but "
                "must satisfy "
                f"{constraint}; check observe and the initial values.{_row(density, place)}"
            )
    observed = group.values[name][:, None, None, :]
    place = _first_bad(distribution.support, observed, group)
    if place is not None:
        raise ModelError(
            f"outcome {name!r} is {_at(observed, place, shape)} {_where(density, place)}, which a {kind} excludes "
            f"({distribution.support}); remove the observation or choose another distribution.{_row(density, place)}"
        )


def _check_spread(density: Joined, name: str, distribution: Distribution, group: ObservedRecords) -> None:
    """Refuse spreads without a remedy by rounding, and say what NONMEM's users write as ``IF (W.EQ.0) W=1``."""
    distribution = distribution.base if isinstance(distribution, Truncated | Censored | Correlated) else distribution
    if not isinstance(distribution, Normal | LogNormal | StudentT):
        return
    shape, kind = density._times.shape, type(distribution).__name__
    scale, location = distribution.scale.detach().expand(shape), distribution.loc.detach().expand(shape)
    seen = group.mask[:, None, None, :]
    largest = torch.where(seen, scale, 0.0).abs().max()
    # a prediction's rounding is nobody's fault, and a spread in proportion to it has its sign
    place = _first(group, (scale < -1e-8 * largest) & (location >= 0))
    if place is not None:
        raise ModelError(
            f"outcome {name!r}: scale of {kind} is {_at(scale, place, shape)} {_where(density, place)}, but must "
            "satisfy GreaterThan(lower_bound=0.0); check observe and the initial values. An error in proportion to "
            f"something that changes its sign is observation.Proportional(prediction, b).{_row(density, place)}"
        )
    instead = "observation.Combined2(prediction, a, b), a of the size of the smallest values that can be measured"
    otherwise = (
        "or leave the record out (MDV=1 in its row) where nothing but zero can be predicted, as before the first dose; "
        "or check the initial values."
    )
    place = _first(group, scale == 0)
    if place is not None:
        raise ModelError(
            f"outcome {name!r}: scale of {kind} is 0 {_where(density, place)}: the prediction is "
            f"{_at(location, place, shape)}, {group.values[name][place].item():g} was observed, and an error in "
            f"proportion to a prediction of zero leaves nothing else possible. Give the error an additive part: "
            f"{instead}; {otherwise}{_row(density, place)}"
        )
    place = _first(group, ~torch.isfinite(location)) if isinstance(distribution, LogNormal) else None
    if place is not None:
        raise ModelError(
            f"outcome {name!r}: loc of {kind}, the logarithm of the prediction, is {_at(location, place, shape)} "
            f"{_where(density, place)}, where {group.values[name][place].item():g} was observed: an exponential error "
            f"needs a prediction above zero. Use {instead}; {otherwise}{_row(density, place)}"
        )


def _first(group: ObservedRecords, bad: Tensor) -> tuple[int, int] | None:
    """Record and subject of the first observed entry that is marked."""
    places = (bad[:, 0, 0] & group.mask).nonzero()
    return (int(places[0, 0]), int(places[0, 1])) if len(places) else None


def _first_bad(constraint: Any, value: Tensor, group: ObservedRecords) -> tuple[int, int] | None:
    """Record and subject of the first observed entry that breaks a constraint."""
    if getattr(constraint, "event_dim", 0) or getattr(constraint, "is_dependent", False):
        return None
    records, subjects = group.mask.shape
    valid = constraint.check(value).expand(records, 1, 1, subjects)[:, 0, 0]
    return _first(group, ~valid[:, None, None])


def _where(density: Joined, place: tuple[int, int]) -> str:
    record, subject = place
    batch = density.batch
    time = batch.times[record, subject] - (0.0 if batch.time_shift is None else batch.time_shift[record, subject])
    return f"for subject {batch.subjects[subject]!r} at time {time.item():g}"


def _row(density: Joined, place: tuple[int, int]) -> str:
    row = int(density.batch.rows[place])
    names = density.batch.row_names
    return f" This is {names.name(row)} ({names.said})." if row >= 0 else ""


def _at(value: Tensor, place: tuple[int, int], shape: torch.Size) -> str:
    return f"{value.expand(shape)[place[0], 0, 0, place[1]].item():g}"


def _entry(value: Tensor, start: int, subject: int) -> Tensor:
    """The value of one start and subject, whichever axes the value has."""
    if value.dim() and value.shape[-1] > 1:
        value = value[..., subject]
    elif value.dim():
        value = value[..., 0]
    if value.dim():
        value = value[..., start if value.shape[-1] > 1 else 0]
    return value


def _names(names: Any) -> str:
    return ", ".join(repr(name) for name in sorted(names)) or "none"


def refuse_unread(batch: Batch, model: Model) -> None:
    """Never fit a table whose doses would be read as if they were not there."""
    if batch.doses is not None and not model.has_dynamics:
        raise ModelError(
            "the data have dosing events, which predict does not see; write the model with dynamics, or give the dose "
            "as a covariate and leave the dosing rows out."
        )
