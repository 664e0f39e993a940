"""What moves the states of a model from record to record: one interface for every way of solving."""

from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from nlme_torch._typing import VectorField
from nlme_torch.model.dosing.dosing_events import Timeline
from nlme_torch.model.dosing.steady_state import Cycle, SteadyState, constant_state, periodic_state
from nlme_torch.model.switches.switch_events import at_switches
from nlme_torch.model.switches.switched_field import SwitchedVectorField
from nlme_torch.solve import Events, Solution, Solver, solve
from nlme_torch.solve.methods.refine import sharpen


class System(Protocol):
    """A model's equations at given parameters."""

    def advance(self, initial: Tensor, line: Timeline) -> Solution:
        """Move the states through all stops."""
        ...

    def select(self, columns: Tensor, records: Tensor, subjects: int) -> "System":
        """The equations of some of the subjects, as they hold from one record of each."""
        ...

    def steady_state(self, initial: Tensor, cycle: Cycle) -> SteadyState:
        """The states that a dose repeated for ever has led to, and where there are none."""
        ...


@dataclass(frozen=True)
class DifferentialSystem:
    """A differential equation and its solver.

    Attributes:
        field: ``f(t, y, parameters)``.
        parameters: Tensors that broadcast to ``(chain, start, subject)``.
        solver: How it is solved.
        passengers: Number of last states that only carry what changes at records.
        switched: The same equation with its switches in time apart; None where it has none.
    """

    field: VectorField
    parameters: tuple[Tensor, ...]
    solver: Solver
    passengers: int = 0
    switched: SwitchedVectorField | None = None

    def advance(self, initial: Tensor, line: Timeline) -> Solution:
        """Solve from the first stop to the last.

        Args:
            initial: ``(state, chain, start, subject)``.
            line: When to stop and what happens there.
        """
        return self._solve(initial, line.times, line.events)

    def _solve(self, initial: Tensor, times: Tensor, events: Events | None) -> Solution:
        field, switched, passengers = self.field, self.switched, self.passengers
        if switched is None:
            return solve(
                field, initial, times, self.parameters, solver=self.solver, events=events, passengers=passengers
            )
        begin, line = self.posed(initial, Timeline(times, events, None))
        passengers += len(begin) - len(initial)
        solution = solve(
            switched, begin, line.times, self.parameters, solver=self.solver, events=line.events, passengers=passengers
        )
        solution = line.at_records(solution)
        return replace(solution, states=solution.states[:, : len(initial)])

    def posed(self, initial: Tensor, line: Timeline) -> tuple[Tensor, Timeline]:
        """Initial states and stops of the equation with its switches apart.

        Args:
            initial: ``(state, chain, start, subject)``.
            line: When to stop anyway.
        """
        if self.switched is None:
            return initial, line
        return at_switches(self.switched.found, initial, line, self.parameters, self.passengers)

    def select(self, columns: Tensor, records: Tensor, subjects: int) -> "DifferentialSystem":
        """The equations of some of the subjects.

        Args:
            columns: ``(column,)``, their positions.
            records: ``(column,)``, a record of each; what changes between records stands among the states.
            subjects: Number of subjects before.
        """
        return replace(self, parameters=tuple(take_columns(p, columns, subjects) for p in self.parameters))

    def steady_state(self, initial: Tensor, cycle: Cycle) -> SteadyState:
        """Find the states that the dose leads to, by a solver a thousand times more exact.

        Args:
            initial: ``(state, chain, start, subject)``.
            cycle: The dose and its interval.

        Returns:
            The states just before the dose's row.
        """
        # under a constant infusion time has no meaning
        exact = replace(self, solver=sharpen(self.solver), switched=None if cycle.constant else self.switched)
        held = replace(exact, parameters=tuple(parameter.detach() for parameter in self.parameters))
        states = len(initial) - self.passengers
        if not cycle.constant:
            return periodic_state(exact._solve, held._solve, initial, cycle, states)
        return constant_state(held._solve, self._slope, held._slope, initial, cycle, states)

    def _slope(self, time: Tensor, state: Tensor) -> Tensor:
        return self.field(time, state, self.parameters)


def take_columns(value: Tensor, columns: Tensor, subjects: int) -> Tensor:
    """Entries of some subjects along the last axis of a tensor that may be common to all."""
    return value[..., columns] if value.dim() and value.shape[-1] == subjects else value
