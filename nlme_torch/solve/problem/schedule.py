"""The distinct times at which each subject stops, and what happens there."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nlme_torch.solve.problem.problem import Problem


@dataclass(frozen=True)
class Schedule:
    """Records of equal time merged into stops, so that a solver only meets intervals of positive length.

    The state on leaving a stop is ``base + amount`` where the stop holds a reset and ``state + amount``
    elsewhere.

    Attributes:
        times: (stop, *batch) increasing up to each subject's last stop, constant after it [time].
        last: (*batch) index of each subject's last stop.
        amounts: (stop, state, *batch) total added on leaving the stop, or None.
        resets: (stop, *batch) True where the state starts again from the initial one, or None.
        rates: (stop, state, *batch) rate until the next stop, or None.
        record_stop: (record, *batch) the stop of each record, or None where stops and records coincide.
        record_amounts: (record, state, *batch) what was added at the stop up to and including this record, or
            None.
        record_resets: (record, *batch) whether a reset happened at the stop up to and including this record,
            or None.
    """

    times: Tensor
    last: Tensor
    amounts: Tensor | None
    resets: Tensor | None
    rates: Tensor | None
    record_stop: Tensor | None
    record_amounts: Tensor | None
    record_resets: Tensor | None

    def leave(self, stop: int, state: Tensor, initial: Tensor) -> Tensor:
        """The state of every subject on leaving a stop."""
        if self.resets is not None and stop > 0:
            state = torch.where(self.resets[stop], initial, state)
        return state if self.amounts is None else state + self.amounts[stop]

    def bounded(self, stop: Tensor) -> Tensor:
        """Indices of stops, those past the end set to the last one."""
        return stop.clamp(max=self.times.shape[0] - 1)

    def ahead(self, stop: Tensor) -> tuple[Tensor, Tensor | None]:
        """What lies before each subject.

        Args:
            stop: (*batch) index of the stop that each subject heads for.

        Returns:
            (*batch) its time, and (state, *batch) the rate on the way or None.
        """
        target = self.times.gather(0, self.bounded(stop).unsqueeze(0)).squeeze(0)
        if self.rates is None:
            return target, None
        index = (stop - 1).expand(1, *self.rates.shape[1:])
        return target, self.rates.gather(0, index).squeeze(0)

    def leave_where(self, arrived: Tensor, stop: Tensor, state: Tensor, initial: Tensor) -> Tensor:
        """States after the events of the stops at which some subjects arrived.

        Args:
            arrived: (*batch) who arrived.
            stop: (*batch) index of the stop.
            state: (state, *batch) before the event.
            initial: (state, *batch) the state a reset restores.

        Returns:
            (state, *batch).
        """
        stop = self.bounded(stop)
        if self.resets is not None:
            reset = arrived & self.resets.gather(0, stop.unsqueeze(0)).squeeze(0)
            state = torch.where(reset, initial, state)
        if self.amounts is not None:
            amount = self.amounts.gather(0, stop.expand(1, *state.shape)).squeeze(0)
            state = state + torch.where(arrived, amount, 0.0)
        return state

    def records_before(self, stop: Tensor) -> Tensor:
        """(*batch) number of records before a stop."""
        if self.record_stop is None:
            return self.bounded(stop)
        return (self.record_stop < stop).sum(0)

    def at_records(self, arrivals: Tensor, initial: Tensor) -> Tensor:
        """States at records, events applied.

        Args:
            arrivals: (stop, state, *batch) states on arriving at stops, before their events.
            initial: (state, *batch) the state a reset restores.

        Returns:
            (record, state, *batch).
        """
        states = arrivals
        if self.record_stop is not None:
            index = self.record_stop.unsqueeze(1).expand(-1, *arrivals.shape[1:])
            states = arrivals.gather(0, index)
        if self.record_resets is not None:
            states = torch.where(self.record_resets.unsqueeze(1), initial, states)
        return states if self.record_amounts is None else states + self.record_amounts


def build_schedule(problem: Problem) -> Schedule:
    """Merge records of equal time.

    Args:
        problem: the problem with aligned tensors.

    Returns:
        The stops of every subject.
    """
    times = problem.times
    with torch.no_grad():
        later = times[1:] > times[:-1]
        last = later.sum(0)
        distinct = bool(later.all())
    if distinct:
        return Schedule(
            times=times,
            last=last,
            amounts=problem.amounts,
            resets=_without_first(problem.resets),
            rates=problem.rates,
            record_stop=None,
            record_amounts=problem.amounts,
            record_resets=_without_first(problem.resets),
        )
    begins = torch.cat([torch.ones_like(later[:1]), later])
    record_stop = begins.long().cumsum(0) - 1
    record = torch.arange(problem.records, device=times.device).reshape(-1, *(1,) * (times.ndim - 1))
    record = record.expand_as(record_stop)
    final = torch.zeros_like(record_stop).scatter_reduce(0, record_stop, record, "amax")
    beyond = record > last
    final = torch.where(beyond, problem.records - 1, final)
    amounts, resets = _accumulate(problem, begins)
    return Schedule(
        times=times.gather(0, final),
        last=last,
        amounts=None if amounts is None else _pick(amounts, final),
        resets=None if resets is None else resets.gather(0, final),
        rates=None if problem.rates is None else _pick(problem.rates, final),
        record_stop=record_stop,
        record_amounts=amounts,
        record_resets=resets,
    )


def _accumulate(problem: Problem, begins: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Amounts and resets from the beginning of each record's stop up to the record itself."""
    resets = _without_first(problem.resets)
    if problem.amounts is None and resets is None:
        return None, None
    amounts = None if problem.amounts is None else list(problem.amounts.unbind(0))
    flags = None if resets is None else list(resets.unbind(0))
    for record in range(1, problem.records):
        if not bool((~begins[record]).any()):
            continue
        if amounts is not None:
            fresh = begins[record] if resets is None else begins[record] | resets[record]
            amounts[record] = amounts[record] + torch.where(fresh, 0.0, amounts[record - 1])
        if flags is not None:
            flags[record] = flags[record] | (~begins[record] & flags[record - 1])
    return (
        None if amounts is None else torch.stack(amounts),
        None if flags is None else torch.stack(flags),
    )


def _pick(values: Tensor, record: Tensor) -> Tensor:
    return values.gather(0, record.unsqueeze(1).expand(-1, *values.shape[1:]))


def _without_first(resets: Tensor | None) -> Tensor | None:
    """A reset at the first record has nothing to restore."""
    if resets is None:
        return None
    return torch.cat([torch.zeros_like(resets[:1]), resets[1:]])
