"""The states of all subjects at all records: equations, doses, steady states and changing quantities put together."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nlme_torch.data.dosing.doses import DoseKind
from nlme_torch.errors import ModelError
from nlme_torch.model.declare.model import Model
from nlme_torch.model.dosing.dose_plan import DosePlan, SteadyDoses
from nlme_torch.model.dosing.dosing_events import (
    MOST_OVERLAPS,
    GivenDoses,
    Refusal,
    Timeline,
    given_doses,
    record_events,
    timeline,
)
from nlme_torch.model.dosing.steady_state import Cycle
from nlme_torch.model.individual.individual import ChangingIndividual, Individual, at_records, flatten, stack_states
from nlme_torch.model.trajectory.compartment_system import CompartmentSystem, check_compartments
from nlme_torch.model.trajectory.system import DifferentialSystem, System
from nlme_torch.model.trajectory.vector_field import VectorFields
from nlme_torch.solve import Events, Solution, Solver


class Trajectory:
    """The equations of all subjects at given parameters, with what happens at their records.

    Args:
        model: The model.
        individual: Parameters of the subjects.
        like: ``(chain, start, subject)``, for the batch shape.
        times: ``(record, 1, 1, subject)`` [time].
        plan: The dosing of the batch, or None.
        solver: How a differential equation is solved.
        fields: The model's vector fields.

    Attributes:
        initial: ``(state, chain, start, subject)``, the model's states and then what changes from record to record.
        refusals: Reasons why a subject's doses cannot be given, each with the subjects ``(chain, start, subject)``.
    """

    def __init__(
        self,
        model: Model,
        individual: Individual,
        like: Tensor,
        times: Tensor,
        plan: DosePlan | None,
        solver: Solver,
        fields: VectorFields,
    ) -> None:
        self.states, self.names, self.plan = len(model.states), model.states, plan
        flat = flatten(vars(individual))
        # a solver tells a subject's own values from shared ones by their batch axes: give every tensor all three
        leaves = tuple(
            leaf.reshape((1,) * (3 - leaf.dim()) + leaf.shape) if leaf.dim() < 3 else leaf for leaf in flat.leaves
        )
        self.system: System
        self._standing: System  # as it holds at the records themselves
        if model.has_compartments:
            held = individual
            if isinstance(individual, ChangingIndividual):
                held = Individual(individual._after)
                if individual._until is not individual._after:
                    raise ModelError(
                        "compartments are solved in closed form with parameters that stay the same between records, "
                        "but a covariate moves in straight lines; write dynamics, or read it as 'locf' or 'nocb'."
                    )
            linear = model.compartments(held)
            check_compartments(linear, model.states)
            self.system = self._standing = CompartmentSystem(linear)
            if held is not individual and plan is not None and plan.steady:
                self._standing = CompartmentSystem(model.compartments(Individual(vars(individual))))
        else:
            self.system = DifferentialSystem(
                fields.of(flat.specification), leaves, solver, passengers=len(flat.changing)
            )
        first = Individual(at_records(vars(individual), lambda value: value[0]))
        self.initial = stack_states(model.initial(first), model.states, like, "initial")
        self._restart: Tensor | None = None
        if flat.changing and plan is not None and plan.resets is not None:
            # at a reset the states start from the initial values of that record's parameters and covariates
            wide = like.expand(len(times), *like.shape)
            self._restart = stack_states(model.initial(individual), model.states, wide, "initial").movedim(1, 0)
        amounts = changes = resets = given = None
        refusals: list[Refusal] = []
        after = until = there = None
        if flat.changing and not model.has_compartments:
            there, after, until = _carried(individual, flat.changing, like)
            self.initial = torch.cat([self.initial, after[0]])
        if isinstance(self.system, DifferentialSystem):
            interpolated = until is not after
            self.system = replace(
                self.system, switched=fields.switched(flat.specification, self.initial, leaves, interpolated)
            )
            self._standing = self.system
        if plan is not None:
            given = given_doses(plan, model.dosing(individual))
            amounts, changes = record_events(plan, given)
            resets = plan.resets
            refusals += given.refusals
            if self._restart is not None and plan.restarts is not None:
                amounts = amounts + torch.where(
                    plan.restarts[:, None], self._restart - self.initial[: self.states], 0.0
                )
            for group in plan.steady:
                delta, refusal = self._steady_state(group, given, there)
                amounts, refusals = amounts + delta, refusals + refusal
        if after is not None:
            jumps, slopes = _jumps(after, until, times, resets)
            amounts = _append(amounts, jumps, self.states)
            if slopes is not None or changes is not None:
                changes = _append(changes, torch.zeros_like(jumps) if slopes is None else slopes, self.states)
        self.refusals = tuple(refusals)
        if plan is None or given is None or amounts is None:
            rates = None if changes is None else changes.cumsum(0)
            quiet = amounts is None and rates is None
            self.timeline = Timeline(times, None if quiet else Events(amounts, rates), None)
        else:
            refused = None
            for _, where in refusals:
                refused = where if refused is None else refused | where
            self.timeline = timeline(plan, given, amounts, changes, refused)

    def solve(self) -> Solution:
        """States at the records, ``(record, state, chain, start, subject)``, and a status for each subject."""
        solution = self.timeline.at_records(self.system.advance(self.initial, self.timeline))
        if len(self.initial) == self.states:
            return solution
        return Solution(solution.states[:, : self.states], solution.status, solution.reached, solution.statistics)

    def _steady_state(
        self, group: SteadyDoses, given: GivenDoses, there: Tensor | None
    ) -> tuple[Tensor, list[Refusal]]:
        """What steady states add to the states at their records, ``(record, state, chain, start, subject)``.

        They are those of the covariates and occasions at the dose's own record, whichever way these are carried on.
        """
        plan, columns, records = self.plan, group.columns, group.records
        assert plan is not None
        length, subjects = plan.times.shape[0], plan.times.shape[-1]

        def of_dose(value: Tensor) -> Tensor:
            """From ``(record, ..., subject)`` to ``(..., column)``."""
            value = value.expand(length, *value.shape[1:-1], subjects)
            return value[records, ..., columns].movedim(0, -1)

        def everywhere(value: Tensor) -> Tensor:
            return value.new_zeros(*value.shape[:-1], subjects).index_copy(-1, columns, value)

        initial = self.initial[: self.states, ..., columns]
        enters, interval, duration = of_dose(plan.enters), of_dose(plan.interval), of_dose(given.duration)
        lag = torch.zeros_like(interval) if given.lag is None or group.constant else of_dose(given.lag)
        # with a lag of a whole interval or more the row has the state just after a dose, as in NONMEM
        lag = torch.minimum(lag, interval)
        overlaps = torch.zeros_like(duration)
        if not group.constant:
            overlaps = torch.floor((duration / interval).detach() + 1e-12)
        long = ~(overlaps <= MOST_OVERLAPS)
        overlaps = torch.where(long, 0.0, overlaps)
        rest = torch.minimum((duration - overlaps * interval).clamp(min=0.0), interval)
        bolus = of_dose(plan.kind) == DoseKind.BOLUS
        amount = enters * torch.where(bolus, of_dose(given.amount), 0.0)
        rate = enters * torch.where(bolus, 0.0, of_dose(given.rate))
        # what a reset, and a steady state that replaces the state, restore is the first record's
        first, initial = initial, initial if self._restart is None else of_dose(self._restart)
        start = initial
        if there is not None:
            held = of_dose(there)
            start = torch.cat([initial, held])
            amount, rate = (torch.cat([v.expand(-1, *held.shape[1:]), torch.zeros_like(held)]) for v in (amount, rate))
        cycle = Cycle(
            time=of_dose(plan.times),
            interval=interval,
            lag=lag,
            amount=amount,
            rate=None if bool(bolus.all()) else rate,
            duration=rest,
            overlaps=overlaps,
            constant=group.constant,
        )
        state, settled, keeps = self._standing.select(columns, records, subjects).steady_state(start, cycle)
        restored = torch.where(group.replaces, first, initial)
        delta = everywhere(torch.where(settled, state[: self.states] - restored, 0.0))
        here = torch.zeros_like(plan.times)
        here[records, 0, 0, columns] = 1.0
        never = "a steady-state dose reaches no steady state, however often it is repeated"
        reasons = [(f"a steady-state infusion lasts longer than {MOST_OVERLAPS} intervals of the doses", long)]
        for name, growing in zip(self.names, keeps.expand(-1, *settled.shape), strict=True):
            if bool(growing.any()):
                reasons.append((f"{never}: {name!r} keeps all that is given", growing))
        reasons.append((never, ~settled))
        return here[:, None] * delta, [(text, everywhere(mask)) for text, mask in reasons]


def _carried(individual: Individual, values: tuple[Tensor, ...], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What changes, ``(record, changing, chain, start, subject)``: at each record, just after it, before the next."""

    def stacked(tensors: tuple[Tensor, ...]) -> Tensor:
        return torch.stack([value.to(like.dtype).expand(-1, *like.shape) for value in tensors], 1)

    there = stacked(values)
    if not isinstance(individual, ChangingIndividual):
        return there, there, there
    after: Any = individual._after
    until: Any = individual._until
    held = stacked(flatten(after).changing)
    return there, held, held if until is after else stacked(flatten(until).changing)


def _jumps(after: Tensor, until: Tensor | None, times: Tensor, resets: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """By how much changing quantities jump at records, and by how much their slopes change there."""
    arrival, slopes = after[:-1], None
    if until is not None and until is not after:
        length = (times[1:] - times[:-1])[:, None]
        moving = length > 0
        slope = torch.where(moving, (until[:-1] - after[:-1]) / torch.where(moving, length, 1.0), 0.0)
        arrival = torch.where(moving, until[:-1], after[:-1])
        slopes = torch.cat([slope[:1], slope[1:] - slope[:-1], -slope[-1:]]) if len(slope) else None
    jumps = torch.cat([torch.zeros_like(after[:1]), after[1:] - arrival])
    if resets is not None:
        jumps = torch.where(resets[:, None], after - after[:1], jumps)
    return jumps, slopes


def _append(states: Tensor | None, changing: Tensor, count: int) -> Tensor:
    """Join what happens to the model's states, nothing if None, with what happens to changing quantities."""
    if states is None:
        states = changing.new_zeros(len(changing), count, *changing.shape[2:])
    batch = torch.broadcast_shapes(states.shape[2:], changing.shape[2:])
    return torch.cat([part.expand(*part.shape[:2], *batch) for part in (states, changing)], 1)
