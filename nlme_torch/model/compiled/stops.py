"""When the equations of all subjects stop and what happens there, where that is the same for all draws."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nlme_torch.data.dosing.doses import DoseKind
from nlme_torch.model.density.density import Conditional
from nlme_torch.model.dosing.dosing_events import Timeline
from nlme_torch.solve.kernel.reading import NotScalarError
from nlme_torch.solve.problem.problem import Problem, build_problem
from nlme_torch.solve.problem.schedule import build_schedule

KINDS = (DoseKind.BOLUS, DoseKind.RATE, DoseKind.DURATION, DoseKind.MODELLED_RATE, DoseKind.MODELLED_DURATION)
"""In the order in which compiled code knows them."""
MOVED = 0.1
"""By how much parameters move, on the estimation scale, when it is tried whether stops depend on them."""


@dataclass(frozen=True)
class Stops:
    """Stops of every subject.

    Attributes:
        times: ``(stop, subject)`` [time].
        last: ``(subject,)``, index of the last stop.
        amounts: ``(stop, state, subject)``, what is added on leaving a stop, or None.
        rates: ``(stop, state, subject)``, constant inputs until the next stop, or None.
        resets: ``(stop, subject)``, True where states begin anew, or None.
        stop_of: ``(record, subject)``, the stop of each record.
        added: ``(record, state, subject)``, what was added up to and including the record at its stop, or None.
        restarted: ``(record, subject)``, True where the states began anew at the stop, or None.
    """

    times: Tensor
    last: Tensor
    amounts: Tensor | None
    rates: Tensor | None
    resets: Tensor | None
    stop_of: Tensor
    added: Tensor | None
    restarted: Tensor | None

    @property
    def infusions(self) -> bool:
        """Whether anything is infused."""
        return self.rates is not None


@dataclass(frozen=True)
class MovedDoses:
    """The rows and doses of every subject, where parameters move or change doses.

    Attributes:
        record_times: ``(record, subject)`` [time].
        record_resets: ``(record, subject)``, True where states begin anew, or None.
        dose_record: ``(dose, subject)``, the row of each dose, -1 where a subject has no more.
        dose_kind: ``(dose, subject)``, position among ``KINDS``.
        dose_state: ``(dose, subject)``, the state that it enters.
        dose_lagged: ``(dose, subject)``, 1 where that state has a lag.
        dose_time: ``(dose, subject)`` [time].
        dose_amount: ``(dose, subject)``.
        dose_rate: ``(dose, subject)``.
        dose_duration: ``(dose, subject)`` [time].
        dose_limit: ``(dose, subject)`` [time], the next reset or the last record: nothing acts later.
    """

    record_times: Tensor
    record_resets: Tensor | None
    dose_record: Tensor
    dose_kind: Tensor
    dose_state: Tensor
    dose_lagged: Tensor
    dose_time: Tensor
    dose_amount: Tensor
    dose_rate: Tensor
    dose_duration: Tensor
    dose_limit: Tensor

    @property
    def infusions(self) -> bool:
        """Whether anything is infused."""
        return bool((self.dose_kind > 0).any())


def moved_doses(conditional: Conditional) -> MovedDoses:
    """Collect the rows and doses of a batch.

    Args:
        conditional: Densities at some parameters.

    Raises:
        NotScalarError: There are steady states, switches in time, or quantities that change from record to record.
    """
    density, plan = conditional.density, conditional.density._plan
    if plan is None or plan.steady:
        raise NotScalarError("doses at steady state depend on parameters or effects")
    _timeline(conditional, 0.0)  # refuses what cannot be written out
    eta = conditional.mean.new_zeros(density.model.n_effects, 1, 1, density.batch.n_subjects)
    dosing = density.model.dosing(conditional.individual(eta))
    enters = plan.enters[:, :, 0, 0] > 0  # (record, state, subject)
    given = enters.any(1)
    most = max(int(given.sum(0).max()), 1)
    # the rows of a subject's doses first, in order
    order = torch.argsort((~given).to(torch.int8), dim=0, stable=True)[:most]
    real = given.gather(0, order)

    def of_dose(value: Tensor) -> Tensor:
        return value[:, 0, 0].expand(given.shape).gather(0, order)

    state = enters.to(torch.int8).argmax(1).gather(0, order)
    lags = torch.tensor([name in dosing and dosing[name].lag is not None for name in density.model.states])
    kind = torch.zeros_like(order)
    for position, which in enumerate(KINDS):
        kind = torch.where(of_dose(plan.kind) == which, position, kind)
    resets = None if plan.resets is None else plan.resets[:, 0, 0]
    times = plan.times[:, 0, 0]
    horizon = times[-1:].expand_as(times)
    if resets is not None:
        beyond = torch.where(resets, times, torch.inf)
        beyond = torch.cat([beyond[1:], torch.full_like(beyond[:1], torch.inf)])
        horizon = beyond.flip(0).cummin(0).values.flip(0).minimum(horizon)
    return MovedDoses(
        record_times=times,
        record_resets=resets,
        dose_record=torch.where(real, order, -1),
        dose_kind=kind,
        dose_state=state.long(),
        dose_lagged=lags.long()[state],
        dose_time=of_dose(plan.times),
        dose_amount=of_dose(plan.amount),
        dose_rate=of_dose(plan.rate),
        dose_duration=of_dose(plan.duration),
        dose_limit=horizon.gather(0, order),
    )


def common_stops(conditional: Conditional) -> Stops | None:
    """Find the stops of all subjects; None where they depend on effects or parameters, as those of lagged doses do.

    Args:
        conditional: Densities at some parameters.

    Raises:
        NotScalarError: There are switches in time, or quantities that change from record to record.
    """
    density = conditional.density
    line = _of_one_draw(_timeline(conditional, 0.0))
    generator = torch.Generator().manual_seed(0)
    moved = {
        name: value + MOVED * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in conditional.values.items()
    }
    other = _of_one_draw(_timeline(Conditional(density, moved), MOVED))
    if line is None or other is None or not _same(line, other):
        return None
    count, states = density.batch.n_subjects, len(density.model.states)
    initial = line.times.new_zeros(states, count)
    events = line.events
    problem = build_problem(_nothing, initial[:, None, None], line.times, (), events)
    return _stops(problem, line)


def _timeline(conditional: Conditional, effect: float) -> Timeline:
    density = conditional.density
    eta = conditional.mean.new_full((density.model.n_effects, 1, conditional.starts, density.batch.n_subjects), effect)
    trajectory = conditional.trajectory(conditional.individual(eta), eta)
    if any(bool(where.any()) for _, where in trajectory.refusals):
        raise NotScalarError("doses are refused for some values of parameters or effects")
    if getattr(trajectory.system, "switched", None) is not None:
        raise NotScalarError("the equations switch in time")
    if len(trajectory.initial) != len(density.model.states):
        raise NotScalarError("the equations carry what changes from record to record")
    return trajectory.timeline


def _of_one_draw(line: Timeline) -> Timeline | None:
    """The stops without axes for chains and starts; None where these differ."""
    alike = True

    def one(value: Tensor | None) -> Tensor | None:
        nonlocal alike
        if value is None:
            return None
        first = value[..., :1, :1, :]
        alike = alike and torch.equal(first.expand_as(value), value)
        return first

    events = line.events
    if events is not None:
        events = type(events)(one(events.amounts), one(events.rates), one(events.resets))
    times = one(line.times)
    assert times is not None
    found = Timeline(times, events, one(line.position))
    return found if alike else None


def _same(one: Timeline, other: Timeline) -> bool:
    def equal(first: Tensor | None, second: Tensor | None) -> bool:
        if first is None or second is None:
            return first is second
        return first.shape == second.shape and torch.equal(first, second)

    pairs = [(one.times, other.times), (one.position, other.position)]
    if one.events is None or other.events is None:
        return one.events is other.events and all(equal(*pair) for pair in pairs)
    pairs += [(getattr(one.events, name), getattr(other.events, name)) for name in ("amounts", "rates", "resets")]
    return all(equal(*pair) for pair in pairs)


def _stops(problem: Problem, line: Timeline) -> Stops:
    schedule = build_schedule(problem)
    records = torch.arange(len(line.times))[:, None].expand(-1, problem.batch.numel())
    position = records if line.position is None else line.position[:, 0, 0].expand(-1, problem.batch.numel())

    def flat(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.reshape(*value.shape[:-3], value.shape[-1])

    def of_record(value: Tensor | None) -> Tensor | None:
        found = flat(value)
        if found is None:
            return None
        index = position if found.ndim == 2 else position[:, None].expand(-1, found.shape[1], -1)
        return found.gather(0, index)

    stop = schedule.record_stop
    times = flat(schedule.times)
    stop_of = position if stop is None else of_record(stop)
    last = torch.where(torch.isfinite(schedule.times).all(0), schedule.last, 1).reshape(-1)
    assert times is not None and stop_of is not None
    return Stops(
        times,
        last,
        flat(schedule.amounts),
        flat(schedule.rates),
        flat(schedule.resets),
        stop_of,
        of_record(schedule.record_amounts),
        of_record(schedule.record_resets),
    )


def _nothing(t: Tensor, y: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
    return torch.zeros_like(y)
