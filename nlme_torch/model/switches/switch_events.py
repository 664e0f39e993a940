r"""When equations switch in time, at given parameters: stops of the solver, with exact gradients.

Between two stops the operands of a switch move in straight lines, so that it happens where their difference

.. math:: g(t) = g_0 + (g_1 - g_0) (t - t_0) / (t_1 - t_0)

is zero. The moment carries the gradient of that formula. What the operation gives between two stops is held by a
passenger, which jumps at the stop as a covariate jumps at a record.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nlme_torch.model.dosing.dosing_events import Timeline
from nlme_torch.model.switches.switch_moments import Moments, together, whole_moments, zero_moments
from nlme_torch.model.switches.switch_trace import Switches
from nlme_torch.model.switches.time_jumps import ABOVE
from nlme_torch.model.switches.time_tape import Switch, Tape, chosen
from nlme_torch.solve import Events


@dataclass(frozen=True)
class Stops:
    """When subjects are stopped, and what happens there; every tensor expanded to the batch.

    Attributes:
        times: ``(stop, *batch)`` [time].
        amounts: ``(stop, state, *batch)`` or None.
        rates: ``(stop, state, *batch)`` or None.
        resets: ``(stop, *batch)`` or None.
        position: ``(record, *batch)``, the stop of each stop there was at first; None where they are the same.
    """

    times: Tensor
    amounts: Tensor | None
    rates: Tensor | None
    resets: Tensor | None
    position: Tensor | None


def at_switches(
    switches: Switches, initial: Tensor, line: Timeline, parameters: tuple[Tensor, ...], passengers: int
) -> tuple[Tensor, Timeline]:
    """Add stops where equations switch, and what is held between them.

    Args:
        switches: The switches of the equations.
        initial: ``(state, *batch)``, what changes from record to record last.
        line: When the system is stopped anyway.
        parameters: What the equations read, right-aligned with the batch.
        passengers: Number of last states that change from record to record.

    Returns:
        Initial states, and stops with events, both with one more state for each switch; positions are those of the
        stops given. Subjects that switch more than ten thousand times get times that no solver can start from.
    """
    stops, states = _expanded(line, initial), len(initial) - passengers
    events, tape = switches.switches, switches.tape
    held: dict[int, Tensor] = {}
    if len(stops.times) == 1:
        values = tape.evaluate((stops.times, *_changing(initial, stops, states)[0], *parameters), {})
        held = {n: event.jump.held(*chosen(event.operands, values)) for n, event in enumerate(events)}
    for level in range(1 + max(event.level for event in events) if not held else 0):
        after, until = _changing(initial, stops, states)
        times, known = stops.times.detach(), dict(held)
        sides = ((times[:-1], *after, *parameters), (times[1:], *until, *parameters))
        now = [(number, event) for number, event in enumerate(events) if event.level == level]
        causes: dict[Any, Cause] = {}
        for _, event in now:
            if _key(event) not in causes:
                causes[_key(event)] = _cause(len(causes), event, tape, sides, known)
        moments = together([one for cause in causes.values() for one in cause.moments(times)], times)
        following, order = _inserted(stops, moments)
        source = torch.cat([_numbers(times).expand_as(times), moments.interval]).gather(0, order)
        source = source.clamp(max=len(times) - 2)[:-1]
        with torch.no_grad():
            for number, event in now:
                when = _within(causes[_key(event)], times, moments, order, source)
                part = (when - times.gather(0, source)) / _positive(times[1:] - times[:-1]).gather(0, source)
                moved = (
                    a.gather(0, source) + part * (b - a).gather(0, source) for a, b in zip(after, until, strict=True)
                )
                same = {index: value.gather(0, source) for index, value in known.items()}
                values = tape.evaluate((when, *moved, *parameters), same)
                held[number] = event.jump.held(*chosen(event.operands, values)).to(times.dtype).expand(when.shape)
            held |= {index: value.gather(0, source) for index, value in known.items()}
        stops = following
    rows = [
        held[number].to(initial.dtype).expand(-1, *initial.shape[1:]).nan_to_num(0.0) for number in range(len(events))
    ]
    return _with_passengers(initial, stops, torch.stack(rows, 1))


@dataclass(frozen=True)
class Cause:
    """What moves in straight lines and makes switches.

    Attributes:
        number: Its number among those of a level.
        moves: Whether the lines may depend on parameters.
        whole: Whether it is at whole numbers, or at 0, that something jumps.
        lines: Values ``(interval, *batch)`` at the beginning of every interval, and at the end.
    """

    number: int
    moves: bool
    whole: bool
    lines: tuple[tuple[Tensor, Tensor], ...]

    def moments(self, times: Tensor) -> list[Moments]:
        """When something jumps, for ``(stop, *batch)`` times at the ends of the intervals."""
        find = whole_moments if self.whole else zero_moments
        return [find(begin, end, times, self.moves, self.number) for begin, end in self.lines]

    def turns(self) -> Tensor:
        """At least how many times it happens in each interval, and 1."""
        counts = [(end - begin).abs().nan_to_num(0.0) for begin, end in self.lines]
        return torch.stack(counts).amax(0).clamp(min=1.0) if self.whole else torch.ones_like(counts[0])


def _cause(
    number: int, event: Switch, tape: Tape, sides: tuple[tuple[Tensor, ...], ...], held: dict[int, Tensor]
) -> Cause:
    """What makes a switch, from the inputs of its operands at both sides of every interval."""
    like = sides[0][0]
    if event.bend is None:
        line = [event.jump.level(*chosen(event.operands, tape.evaluate(side, held))) for side in sides]
        ends = [value.to(like.dtype).expand(like.shape) for value in line]
        return Cause(number, event.moves, event.jump.whole, ((ends[0], ends[1]),))
    curve, place, line_place = event.bend.curve, event.bend.value.index, event.bend.line.index
    low, high = (
        event.jump.level(*chosen(event.operands, tape.evaluate(sides[0], held, {place: torch.full_like(like, value)})))
        for value in (0.0, 1.0)
    )
    steep = high != low
    level = torch.where(steep, -low / torch.where(steep, high - low, 1.0), torch.nan).expand(like.shape)
    rows = [curve.crossings(level, tape.evaluate(side, held)[line_place].expand(like.shape)) for side in sides]
    return Cause(number, event.moves, curve.period is not None, tuple(zip(*rows, strict=True)))


def _key(event: Switch) -> Any:
    """What is equal for switches that happen at the same time."""
    return frozenset(map(repr, event.operands)) if event.jump is ABOVE else (id(event.jump.level), event.operands)


def _within(cause: Cause, times: Tensor, moments: Moments, order: Tensor, source: Tensor) -> Tensor:
    """For every interval between new stops a time, between the same two jumps of a line, at which to look.

    A jump may be at the very time of a stop: the time then lies outside the interval, where the same lines go on.
    """
    own = torch.cat([torch.zeros_like(times, dtype=torch.bool), moments.there & (moments.owner == cause.number)])
    base = _numbers(order).expand_as(order) < len(times)
    base, own = (value.gather(0, order) for value in (base, own))
    row, last = _numbers(order).expand_as(order), len(order) - 1
    before = torch.where(base | own, row, 0).cummax(0).values[:-1]
    after = torch.where(base | own, row, last).flip(0).cummin(0).values.flip(0)[1:]
    actual = torch.cat([times, torch.where(moments.there, moments.times, times[-1:])]).gather(0, order)
    low, high = actual.gather(0, before), actual.gather(0, after)
    jumps_low, jumps_high = own.gather(0, before), own.gather(0, after)
    length = (times[1:] - times[:-1]).gather(0, source)
    aside = length / (1000 * cause.turns().gather(0, source))
    met = high - low < 1e-9 * length
    when = torch.where(met & jumps_high & ~jumps_low, high - aside, (low + high) / 2)
    return torch.where(met & jumps_low & ~jumps_high, low + aside, when)


def _positive(length: Tensor) -> Tensor:
    return torch.where(length > 0, length, 1.0)


def _numbers(values: Tensor) -> Tensor:
    """The numbers of the rows, ``(row, 1, ...)``."""
    return torch.arange(len(values), device=values.device).reshape(-1, *(1,) * (values.ndim - 1))


def _expanded(line: Timeline, initial: Tensor) -> Stops:
    batch, events = initial.shape[1:], line.events or Events()

    def states(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.expand(*value.shape[:2], *batch)

    resets = None if events.resets is None else events.resets.expand(-1, *batch)
    times = line.times.to(initial.dtype).expand(-1, *batch)
    return Stops(times, states(events.amounts), states(events.rates), resets, line.position)


def _changing(initial: Tensor, stops: Stops, states: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What changes from record to record, just after every stop but the last and just before the next."""
    first = initial[states:]
    if not len(first):
        return (), ()
    times = stops.times.detach()
    now, after, until = first, [], []
    for stop in range(max(len(times) - 1, 1)):
        if stops.resets is not None and stop > 0:
            now = torch.where(stops.resets[stop], first, now)
        now = now if stops.amounts is None else now + stops.amounts[stop, states:]
        after.append(now)
        if stops.rates is not None and len(times) > 1:
            now = now + stops.rates[stop, states:] * (times[stop + 1] - times[stop])
        until.append(now)
    return tuple(torch.stack(after, 1).unbind(0)), tuple(torch.stack(until, 1).unbind(0))


def _inserted(stops: Stops, moments: Moments) -> tuple[Stops, Tensor]:
    """Sort moments among the stops; also the row of each new stop in stops and moments, one after the other."""
    times = torch.where(moments.endless, torch.nan, stops.times) if bool(moments.endless.any()) else stops.times
    count, last = len(times), times[-1:]
    joined = torch.cat([times, torch.where(moments.there, moments.acts, last)])
    interval = torch.where(moments.there, moments.interval, count - 1)
    with torch.no_grad():
        order = joined.argsort(dim=0, stable=True)
        rank = _numbers(order).expand_as(order)
        position = torch.empty_like(order).scatter(0, order, rank)[:count]

    def states(value: Tensor | None, added: Callable[[Tensor], Tensor]) -> Tensor | None:
        if value is None:
            return None
        value = torch.cat([value, added(value)])
        return value.gather(0, order[:, None].expand_as(value))

    resets = stops.resets
    if resets is not None:
        resets = torch.cat([resets, torch.zeros_like(moments.there)]).gather(0, order)
    sorted_stops = Stops(
        times=joined.gather(0, order),
        amounts=states(stops.amounts, lambda value: value.new_zeros(len(interval), *value.shape[1:])),
        rates=states(stops.rates, lambda value: value.gather(0, interval[:, None].expand(-1, *value.shape[1:]))),
        resets=resets,
        position=position if stops.position is None else position.gather(0, stops.position),
    )
    return sorted_stops, order


def _with_passengers(initial: Tensor, stops: Stops, held: Tensor) -> tuple[Tensor, Timeline]:
    """Let what is held ride along with the states."""
    after = torch.cat([held, held[-1:]]) if len(held) < len(stops.times) else held
    jumps = torch.cat([torch.zeros_like(after[:1]), after[1:] - after[:-1]])
    if stops.resets is not None:
        jumps = torch.where(stops.resets[:, None], after - after[:1], jumps)
    nothing = initial.new_zeros(len(after), *initial.shape)
    amounts = torch.cat([nothing if stops.amounts is None else stops.amounts, jumps], 1)
    rates = None if stops.rates is None else torch.cat([stops.rates, torch.zeros_like(jumps)], 1)
    return torch.cat([initial, after[0]]), Timeline(stops.times, Events(amounts, rates, stops.resets), stops.position)
