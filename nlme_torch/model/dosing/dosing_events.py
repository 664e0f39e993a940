"""The dosing of a batch at given parameters: what acts when, as records and events that any solver takes.

Bioavailability scales what enters, a lag moves a dose and an infusion has an end. Moved doses and infusion ends are
records of their own, sorted among the subject's rows; their times, amounts and rates carry exact gradients.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nlme_torch.data.dosing.doses import DoseKind
from nlme_torch.model.dosing.dose_plan import DosePlan, Extras
from nlme_torch.model.dosing.dosing import Dosing, dosing_value
from nlme_torch.solve import Events, Solution

Refusal = tuple[str, Tensor]

# infusions of a steady state that run at the same time; each has a record for its end
MOST_OVERLAPS = 100


@dataclass(frozen=True)
class GivenDoses:
    """The doses of a batch at given parameters, ``(record, chain, start, subject)`` with axes of length 1 allowed.

    Attributes:
        lag: From the row to the moment at which the dose acts [time]; None where no state has one.
        amount: What enters, F AMT [mass]; 0 where there is no dose.
        rate: Rate of an infusion [mass / time]; 0 where there is none.
        duration: Length of an infusion [time]; 0 where there is none.
        refusals: Reasons why a subject's doses cannot be given, each with the subjects ``(chain, start, subject)``.
    """

    lag: Tensor | None
    amount: Tensor
    rate: Tensor
    duration: Tensor
    refusals: tuple[Refusal, ...]


def given_doses(plan: DosePlan, dosing: Mapping[str, Dosing]) -> GivenDoses:
    """Join the table's doses with the model's ``dosing``.

    Args:
        plan: The dosing of the batch.
        dosing: What the model's ``dosing`` returned.

    Returns:
        Amounts, rates, durations and lags of all doses.
    """
    refusals: list[Refusal] = []

    def per_record(name: str, otherwise: float, needed: Tensor | None = None) -> Tensor | None:
        """An entry of dosing where a dose needs it, a constant elsewhere; None where no state has it."""
        found: Tensor | None = None
        for state in plan.used:
            if state not in dosing or getattr(dosing[state], name) is None:
                continue
            here = plan.enters[:, plan.states.index(state)] > 0
            here = here if needed is None else here & needed
            if not bool(here.any()):
                continue
            value = dosing_value(dosing, state, name, plan.times)
            smallest = 0.0 if needed is None else torch.finfo(value.dtype).tiny
            wrong = here & ~((value >= smallest) & torch.isfinite(value))
            kind = "negative" if needed is None else "not positive"
            refusals.append((f"the {name} of {state!r} that dosing gives is {kind} or not finite", wrong.any(0)))
            value = torch.where(wrong, otherwise, value)
            found = torch.where(here, value, otherwise if found is None else found)
        return found

    fraction = per_record("bioavailability", 1.0)
    amount = plan.amount if fraction is None else plan.amount * fraction
    rate, duration = plan.rate, plan.duration
    if DoseKind.RATE in plan.kinds:
        here = plan.kind == DoseKind.RATE
        duration = torch.where(here, amount / torch.where(here, plan.rate, 1.0), duration)
    if DoseKind.DURATION in plan.kinds:
        here = plan.kind == DoseKind.DURATION
        rate = torch.where(here, amount / torch.where(here, plan.duration, 1.0), rate)
    for kind, name in ((DoseKind.MODELLED_RATE, "rate"), (DoseKind.MODELLED_DURATION, "duration")):
        if kind in plan.kinds:
            here = plan.kind == kind
            modelled = per_record(name, 1.0, here)
            assert modelled is not None
            if name == "rate":
                rate, duration = torch.where(here, modelled, rate), torch.where(here, amount / modelled, duration)
            else:
                rate, duration = torch.where(here, amount / modelled, rate), torch.where(here, modelled, duration)
    return GivenDoses(per_record("lag", 0.0), amount, rate, duration, tuple(refusals))


@dataclass(frozen=True)
class Timeline:
    """When the system is stopped, and what happens there.

    Attributes:
        times: ``(stop, chain, start, subject)`` [time], records and extras in order.
        events: What happens at each stop; None for nothing.
        position: ``(record, chain, start, subject)``, the stop of each record; None where they are the same.
    """

    times: Tensor
    events: Events | None
    position: Tensor | None

    def last_records(self) -> Tensor:
        """The record that each stop follows or is, ``(stop, chain, start, subject)``."""
        stops = torch.arange(len(self.times), device=self.times.device).reshape(-1, 1, 1, 1)
        if self.position is None:
            return stops
        flags = torch.zeros(self.times.shape, dtype=torch.long, device=self.times.device)
        return (flags.scatter(0, self.position.expand(-1, *flags.shape[1:]), 1).cumsum(0) - 1).clamp(min=0)

    def at_records(self, solution: Solution) -> Solution:
        """The solution at the records alone."""
        if self.position is None:
            return solution
        states, batch = solution.states, solution.status.shape
        position = self.position.expand(-1, *batch)
        index = position[:, None].expand(-1, states.shape[1], *batch)
        reached = ((position <= solution.reached).sum(0) - 1).clamp(min=0)
        return replace(solution, states=states.gather(0, index), reached=reached)


def record_events(plan: DosePlan, given: GivenDoses) -> tuple[Tensor, Tensor | None]:
    """What happens at the records themselves, steady states aside.

    Args:
        plan: The dosing of the batch.
        given: The same at given parameters.

    Returns:
        ``(record, state, *batch)`` amounts, and changes of the rates or None where there are no infusions.
    """
    entering = torch.where(plan.bolus, given.amount, 0.0)
    if given.lag is not None:
        # a dose that does not move acts at its own row, so that rows before it in the file do not see it
        unmoved = plan.times + given.lag == plan.times
        entering = entering + torch.where(plan.later & unmoved, given.amount, 0.0)
    amounts = plan.enters * entering[:, None]
    if plan.extras is None or not bool((plan.extras.sign != 0).any()):
        return amounts, None
    beginning = torch.where(plan.infusion, given.rate, 0.0)
    running = _running(given, plan.interval, plan.tail)
    return amounts, plan.enters * (beginning + torch.where(running > 0, running * given.rate, 0.0))[:, None]


def _running(given: GivenDoses, interval: Tensor, tail: Tensor) -> Tensor:
    """How many infusions given before a steady-state dose still run at its row, ``(record, *batch)``.

    They are those that outlast their interval, and that of the cycle before while the dose itself lags; with a lag of
    the interval or more the row is the beginning of a cycle, as in NONMEM.
    """
    with torch.no_grad():
        length = torch.where(tail, interval, 1.0)
        lag = torch.zeros_like(length) if given.lag is None else torch.minimum(given.lag, length)
        running = torch.ceil((lag + given.duration) / length - 1e-12) - 1
        return torch.where(tail & (running <= MOST_OVERLAPS), running.clamp(min=0.0), 0.0)


def timeline(
    plan: DosePlan, given: GivenDoses, amounts: Tensor, changes: Tensor | None, refused: Tensor | None
) -> Timeline:
    """Sort lagged doses and the ends of infusions among the records.

    Args:
        plan: The dosing of the batch.
        given: The same at given parameters.
        amounts: ``(record, state, *batch)``, what enters at the records.
        changes: ``(record, state, *batch)``, by how much rates change at the records; None where they do not.
        refused: ``(chain, start, subject)``, True where nothing can be given; such subjects get times that no solver
            can start from.

    Returns:
        Stops and events.
    """
    extras, times, position = plan.extras, plan.times, None
    resets = plan.resets
    if extras is not None:
        entering, changing, when, enters = _at_extras(plan, extras, given)
        batch = _common_batch(amounts, times, when, entering, changing)
        times = torch.cat([_expand(when, batch), _expand(times, batch)])
        with torch.no_grad():
            # a moved dose comes before the rows of the same time, as the repeat of a dose does
            order = times.argsort(dim=0, stable=True)
            stops = torch.arange(len(order), device=order.device).reshape(-1, 1, 1, 1).expand_as(order)
            position = torch.empty_like(order).scatter(0, order, stops)[len(when) :]
        times = times.gather(0, order)
        amounts = _sorted(enters * entering[:, None], amounts, order, batch)
        if changes is not None:
            changes = _sorted(enters * changing[:, None], changes, order, batch)
        if resets is not None:
            flags = torch.cat([resets.new_zeros(len(when), *resets.shape[1:]), resets])
            resets = flags.expand(-1, *batch).gather(0, order)
    if refused is not None and bool(refused.any()):
        times = torch.where(refused, torch.nan, times)
        amounts = torch.where(refused, 0.0, amounts)
        changes = None if changes is None else torch.where(refused, 0.0, changes)
    rates = None if changes is None else changes.cumsum(0)
    return Timeline(times, Events(amounts, rates, resets), position)


def _at_extras(plan: DosePlan, extras: Extras, given: GivenDoses) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What enters at once, by how much the rate changes, when (``(extra, *batch)`` each), and into which states."""

    def of_dose(value: Tensor, origin: Tensor) -> Tensor:
        value = value.expand(len(plan.times), *value.shape[1:-1], plan.times.shape[-1])
        index = origin[:, None, None, :].expand(-1, *value.shape[1:])
        return value.gather(0, index)

    def states(origin: Tensor) -> Tensor:
        index = origin[:, None, None, None, :].expand(-1, plan.enters.shape[1], 1, 1, -1)
        return plan.enters.gather(0, index)

    origin = extras.origin
    start, duration, rate = of_dose(plan.times, origin), of_dose(given.duration, origin), of_dose(given.rate, origin)
    lag = torch.zeros_like(start) if given.lag is None else of_dose(given.lag, origin)
    when = start + lag + torch.where(extras.ends, duration, 0.0)
    changing = extras.sign * rate
    later: list[tuple[Tensor, Tensor, Tensor]] = []
    runs_on = extras.tail
    if bool(extras.tail.any()):
        interval, running = of_dose(plan.interval, origin), of_dose(_running(given, plan.interval, plan.tail), origin)
        ends, runs_on = when - interval, running >= 1
        when = torch.where(extras.tail, ends, when)
        changing = torch.where(extras.tail & ~runs_on, 0.0, changing)
        lines = extras.tail.flatten(1).any(1)
        for older in range(2, int(torch.where(extras.tail, running, 0.0).max()) + 1):
            runs = (extras.tail & (running >= older))[lines]
            end = torch.where(runs, (ends - (older - 1) * interval)[lines], extras.limit[lines])
            later.append((torch.where(runs, -rate[lines], 0.0), end, extras.limit[lines]))
    idle = (extras.sign == 0) & ~extras.bolus
    idle = idle | (extras.tail & ~runs_on)
    beyond = when > extras.limit
    when = torch.where(beyond | idle, extras.limit, when)
    entering = torch.where(extras.bolus & ~beyond & (start + lag != start), of_dose(given.amount, origin), 0.0)
    enters = states(origin)
    if later:
        batch = _common_batch(entering, changing, when)
        more = [(_expand(change, batch), _expand(torch.minimum(end, limit), batch)) for change, end, limit in later]
        changing = torch.cat([_expand(changing, batch), *(change for change, _ in more)])
        when = torch.cat([_expand(when, batch), *(end for _, end in more)])
        entering = torch.cat([_expand(entering, batch), *(torch.zeros_like(change) for change, _ in more)])
        enters = torch.cat([enters, *(states(origin[lines]) for _ in more)])
    return entering, changing, when, enters


def _common_batch(*values: Tensor) -> torch.Size:
    """The last three axes to which tensors broadcast, at a hundredth of the cost of ``torch.broadcast_shapes``."""
    sizes = zip(*(value.shape[-3:] for value in values), strict=True)
    return torch.Size(next((size for size in axis if size != 1), 1) for axis in sizes)


def _expand(value: Tensor, batch: torch.Size) -> Tensor:
    return value.expand(*value.shape[:-3], *batch)


def _sorted(extra: Tensor, record: Tensor, order: Tensor, batch: torch.Size) -> Tensor:
    carried = record.shape[1] - extra.shape[1]
    if carried:  # quantities that change at records alone
        extra = torch.cat([extra, extra.new_zeros(len(extra), carried, *extra.shape[2:])], 1)
    joined = torch.cat([_expand(extra, batch), _expand(record, batch)])
    return joined.gather(0, order[:, None].expand_as(joined))
