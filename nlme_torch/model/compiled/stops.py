"""When the equations of all subjects stop and what happens there, where that is the same for all draws."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nlme_torch.model.density.density import Conditional
from nlme_torch.model.dosing.dosing_events import Timeline
from nlme_torch.solve.kernel.reading import NotScalarError
from nlme_torch.solve.problem.problem import Problem, build_problem
from nlme_torch.solve.problem.schedule import build_schedule

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


def common_stops(conditional: Conditional) -> Stops:
    """Find the stops of all subjects.

    Args:
        conditional: Densities at some parameters.

    Raises:
        NotScalarError: They depend on effects or parameters, as those of lagged doses do, or on switches in time.
    """
    density = conditional.density
    line = _timeline(conditional, 0.0)
    generator = torch.Generator().manual_seed(0)
    moved = {
        name: value + MOVED * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in conditional.values.items()
    }
    if not _same(line, _timeline(density.at(moved), MOVED)):
        raise NotScalarError("doses depend on parameters or effects")
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
    return _of_one_draw(trajectory.timeline)


def _of_one_draw(line: Timeline) -> Timeline:
    """The stops without axes for chains and starts, which must not differ."""

    def one(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        first = value[..., :1, :1, :]
        if not torch.equal(first.expand_as(value), value):
            raise NotScalarError("doses differ between starts")
        return first

    events = line.events
    if events is not None:
        events = type(events)(one(events.amounts), one(events.rates), one(events.resets))
    times = one(line.times)
    assert times is not None
    return Timeline(times, events, one(line.position))


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
