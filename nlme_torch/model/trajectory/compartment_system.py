"""Linear compartments as a model's equations, solved in closed form."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nlme_torch.errors import ModelError
from nlme_torch.model.dosing.dosing_events import Timeline
from nlme_torch.model.dosing.steady_state import Cycle, SteadyState
from nlme_torch.model.individual.individual import is_changing
from nlme_torch.model.trajectory.system import take_columns
from nlme_torch.solve import Solution
from nlme_torch.solve.linear import Linear, LinearSystem, solve_linear, steady_state


@dataclass(frozen=True)
class IntervalwiseLinear(Linear):
    """A linear system whose parameters are constant between stops and differ from one interval to the next.

    Attributes:
        linear: The system with parameters ``(interval, chain, start, subject)``.
    """

    linear: Linear

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the compartments."""
        return self.linear.states

    def matrix(self) -> Tensor:
        """The matrices of all intervals added up, ``(state, state, *batch)``: its shape, and whether it is finite."""
        return self.linear.matrix().sum(2)

    def exponential(self, elapsed: Tensor) -> Tensor:
        """Return exp(A t), ``(state, state, interval, *batch)``, for ``elapsed`` ``(interval, *batch)``."""
        return self.linear.exponential(elapsed)

    def integral(self, elapsed: Tensor) -> Tensor:
        """Return the integral of exp(A s) from 0 to t, ``(state, state, interval, *batch)``."""
        return self.linear.integral(elapsed)

    def batch(self) -> torch.Size:
        """The shape of one interval's parameters."""
        return self.linear.batch()[1:]

    def without(self, failed: Tensor) -> "IntervalwiseLinear":
        """Return the same system with harmless parameters for some subjects."""
        return IntervalwiseLinear(self.linear.without(failed))


@dataclass(frozen=True)
class CompartmentSystem:
    """A linear system at the parameters of all subjects.

    Attributes:
        linear: What the model's ``compartments`` returned; a parameter that changes from record to record has the
            shape ``(record, chain, start, subject)``.
    """

    linear: Linear

    def advance(self, initial: Tensor, line: Timeline) -> Solution:
        """Move the states through all stops in closed form.

        Args:
            initial: ``(state, chain, start, subject)``.
            line: When to stop and what happens there.
        """
        changing = {name: value for name, value in self.linear.parameters().items() if self._changes(value)}
        if not changing:
            return solve_linear(self.linear, initial, line.times, line.events)
        last = line.last_records()[:-1]

        def of_interval(value: Tensor) -> Tensor:
            batch = torch.broadcast_shapes(last.shape[1:], value.shape[1:])
            return value.expand(-1, *batch).gather(0, last.expand(-1, *batch))

        intervals = self._with({name: of_interval(value) for name, value in changing.items()})
        return solve_linear(IntervalwiseLinear(intervals), initial, line.times, line.events)

    def select(self, columns: Tensor, records: Tensor, subjects: int) -> "CompartmentSystem":
        """The compartments of some of the subjects.

        Args:
            columns: ``(column,)``, their positions.
            records: ``(column,)``, the record of each from which they hold.
            subjects: Number of subjects before.
        """

        def chosen(value: Tensor) -> Tensor:
            if not self._changes(value):
                return take_columns(value, columns, subjects)
            return value.expand(*value.shape[:-1], subjects)[records, ..., columns].movedim(0, -1)

        return CompartmentSystem(self._with({name: chosen(v) for name, v in self.linear.parameters().items()}))

    def _changes(self, value: Tensor) -> bool:
        """Whether a parameter has a record axis; a matrix has axes of its own before those of the batch."""
        return is_changing(value) and not isinstance(self.linear, LinearSystem)

    def _with(self, parameters: dict[str, Any]) -> Linear:
        return replace(self.linear, **parameters)  # type: ignore[type-var]

    def steady_state(self, initial: Tensor, cycle: Cycle) -> SteadyState:
        r"""Return the state at a repeated dose's row in closed form.

        .. math:: x = e^{A (P - m)} \big( e^{A m} (x_0 + a) + \int_0^m e^{A s} ds\, r \big), \quad P = II - \text{lag},
                  \quad m = \min(D, P)

        with :math:`x_0` the steady state just before a repeat. What infusions that outlast the interval give at any
        time is a constant rate, added to r.

        Args:
            initial: ``(state, chain, start, subject)``, for the shape; a linear system forgets it.
            cycle: The dose and its interval.

        Returns:
            The states just before the dose's row.
        """
        linear, base = self.linear, None
        if cycle.constant:
            assert cycle.rate is not None
            state = steady_state(linear, rates=cycle.rate)
        else:
            state = steady_state(linear, cycle.interval, amounts=cycle.amount)
            if cycle.rate is not None:
                state = state + steady_state(linear, cycle.interval, rates=cycle.rate, duration=cycle.duration)
                base = cycle.overlaps * cycle.rate
                if bool((cycle.overlaps > 0).any()):
                    state = state + steady_state(linear, cycle.interval, rates=base, duration=cycle.interval)
            if bool((cycle.lag > 0).any()):
                whole = cycle.interval - cycle.lag
                infused = torch.minimum(cycle.duration, whole)
                pulse = None if base is None or cycle.rate is None else base + cycle.rate
                state = linear.amounts(whole - infused, linear.amounts(infused, state + cycle.amount, pulse), base)
        state = state.expand(torch.broadcast_shapes(state.shape, initial.shape))
        return SteadyState(state, torch.isfinite(state).all(0), torch.zeros_like(state, dtype=torch.bool))


def check_compartments(linear: Any, states: tuple[str, ...]) -> None:
    """Raise a ModelError unless this is a linear system of the model's states, in their order."""
    if not isinstance(linear, Linear):
        raise ModelError(
            f"compartments must return one of nlme.compartments, such as OneCompartment(...), got "
            f"{type(linear).__name__}.",
            method="compartments",
        )
    own = linear.states
    if len(own) != len(states) or (set(own) == set(states) and own != states):
        raise ModelError(
            f"compartments returns a {type(linear).__name__} of the states {', '.join(own)}, but the model declares "
            f"states = {states}; declare as many, in that order.",
            method="compartments",
        )
