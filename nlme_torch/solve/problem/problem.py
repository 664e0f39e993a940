"""An initial-value problem with everything aligned to one batch shape and checked once."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from nlme_torch._typing import VectorField
from nlme_torch.errors import SolveError
from nlme_torch.solve.problem.events import Events
from nlme_torch.solve.problem.solution import Solution


@dataclass(frozen=True)
class Problem:
    """dy/dt = f(t, y, p) + rate between records, events at records; every tensor expanded to the batch.

    Attributes:
        vector_field: ``f(t: (*batch), y: (state, *batch), parameters) -> (state, *batch)``.
        initial: (state, *batch) state before the first record's event.
        times: (record, *batch) non-decreasing record times [time].
        parameters: tensors handed to the vector field as they are.
        amounts: (record, state, *batch) or None.
        rates: (record, state, *batch) or None.
        resets: (record, *batch) bool or None.
        passengers: number of last states that only ride along (quantities that change at records): they have no
            error of their own, and step sizes do not depend on them.
    """

    vector_field: VectorField
    initial: Tensor
    times: Tensor
    parameters: tuple[Tensor, ...]
    amounts: Tensor | None = None
    rates: Tensor | None = None
    resets: Tensor | None = None
    passengers: int = 0

    @property
    def batch(self) -> torch.Size:
        """The batch shape, subject last."""
        return self.initial.shape[1:]

    @property
    def records(self) -> int:
        """Number of records."""
        return self.times.shape[0]

    def arrive(self, record: int, state: Tensor) -> Tensor:
        """The state after the event of one record, given the state before it."""
        if self.resets is not None and record > 0:
            state = torch.where(self.resets[record], self.initial, state)
        if self.amounts is not None:
            state = state + self.amounts[record]
        return state


@runtime_checkable
class Solver(Protocol):
    """A strategy: how an initial-value problem is integrated."""

    def integrate(self, problem: Problem) -> Solution:
        """Solve one problem."""
        ...


def build_problem(
    vector_field: VectorField,
    initial: Tensor,
    times: Tensor,
    parameters: tuple[Tensor, ...],
    events: Events | None,
    passengers: int = 0,
) -> Problem:
    """Check and align the pieces of an initial-value problem.

    Args:
        vector_field: ``f(t: (*batch), y: (state, *batch), parameters) -> (state, *batch)``.
        initial: (state, *batch).
        times: (record, *batch-broadcastable) [time].
        parameters: tensors of any shape.
        events: doses, rates and resets, or None.
        passengers: number of last states that ride along.

    Returns:
        The problem, every tensor expanded to (…, *batch).

    Raises:
        SolveError: if a dtype, a shape or the order of the times is wrong.
    """
    if not initial.is_floating_point():
        raise SolveError(f"`initial` must be real floating point, got {initial.dtype}; convert it to torch.float64")
    if initial.ndim < 1 or initial.shape[0] == 0:
        raise SolveError(f"`initial` must be (state, *batch) with at least one state, got {tuple(initial.shape)}")
    if times.ndim < 1 or times.shape[0] == 0:
        raise SolveError(f"`times` must be (record, *batch) with at least one record, got {tuple(times.shape)}")
    batch = initial.shape[1:]
    times = _align("times", times.to(initial.dtype), (times.shape[0],), batch)
    if bool((times[1:] < times[:-1]).any()):
        place = torch.nonzero(times[1:] < times[:-1])[0].tolist()
        raise SolveError(
            f"`times` decrease after record {place[0]} of position {tuple(place[1:])}; sort the subject's records"
        )
    shape = (times.shape[0], initial.shape[0])
    events = Events() if events is None else events
    problem = Problem(
        vector_field=vector_field,
        initial=initial,
        times=times,
        parameters=tuple(parameters),
        amounts=None if events.amounts is None else _align("amounts", events.amounts.to(initial), shape, batch),
        rates=None if events.rates is None else _align("rates", events.rates.to(initial), shape, batch),
        resets=None if events.resets is None else _align("resets", events.resets.bool(), shape[:1], batch),
        passengers=passengers,
    )
    return problem


def check_derivative(derivative: object, state: Tensor) -> Tensor:
    """The derivative, or a SolveError that says what is wrong with it."""
    if not isinstance(derivative, Tensor):
        raise SolveError(f"the vector field must return one tensor (state, *batch), got {type(derivative).__name__}")
    if derivative.shape != state.shape:
        raise SolveError(
            f"the vector field returned shape {tuple(derivative.shape)} for states of shape "
            f"{tuple(state.shape)} (state, *batch); return one derivative for each state"
        )
    if derivative.dtype != state.dtype:
        raise SolveError(f"the vector field returned {derivative.dtype} for states of {state.dtype}; keep one dtype")
    return derivative


def _align(name: str, value: Tensor, leading: tuple[int, ...], batch: torch.Size) -> Tensor:
    trailing = value.shape[len(leading) :]
    if value.shape[: len(leading)] != leading or len(trailing) > len(batch):
        raise SolveError(
            f"`{name}` has shape {tuple(value.shape)}, expected {leading} followed by axes that broadcast to "
            f"{tuple(batch)}"
        )
    value = value.reshape(*leading, *(1,) * (len(batch) - len(trailing)), *trailing)
    try:
        return value.expand(*leading, *batch)
    except RuntimeError:
        raise SolveError(
            f"`{name}` has shape {tuple(value.shape)}, whose batch axes do not broadcast to {tuple(batch)}"
        ) from None
