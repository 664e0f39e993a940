"""Gradients of an adaptive solve: the accepted steps again, their relative sizes held constant."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from nlme_torch.solve.problem.problem import Problem
from nlme_torch.solve.problem.schedule import Schedule
from nlme_torch.solve.stepping.explicit import derivative, explicit_step
from nlme_torch.solve.stepping.implicit import implicit_step, linearise
from nlme_torch.solve.stepping.walk import Move
from nlme_torch.solve.tableau import Method


def inputs_of(problem: Problem) -> tuple[Tensor, ...]:
    """Every tensor of a problem that may carry a gradient."""
    optional = [value for value in (problem.amounts, problem.rates) if value is not None]
    return (problem.initial, problem.times, *problem.parameters, *optional)


def is_transformed() -> bool:
    """Whether forward-mode or a torch.func transform is at work."""
    return forward_ad._current_level >= 0 or torch._C._functorch.maybe_current_level() is not None


def is_differentiated(problem: Problem) -> bool:
    """Whether any derivative, backward or forward, will be asked of the solution."""
    if is_transformed():
        return True
    return torch.is_grad_enabled() and any(value.requires_grad for value in inputs_of(problem))


def replay(problem: Problem, schedule: Schedule, method: Method, tape: list[Move]) -> Tensor:
    """States on arrival at every stop, by plain differentiable operations.

    Args:
        problem: the problem.
        schedule: its stops.
        method: what took the steps.
        tape: the moves of the adaptive walk.

    Returns:
        (stop, state, *batch) states before the events of each stop.
    """
    state = schedule.leave(0, problem.initial, problem.initial)
    times_move = problem.times.requires_grad or not torch.is_grad_enabled()
    path = [problem.initial]
    rows = torch.zeros_like(schedule.times, dtype=torch.long)
    for row, move in enumerate(tape):
        time, step = _follow(schedule, move) if times_move else (move.time, move.step)
        state = _step(problem, method, move, time, step, state, schedule.ahead(move.stop)[1])
        path.append(state)
        rows.scatter_(0, schedule.bounded(move.stop).unsqueeze(0), row + 1)
        leaving = move.arrived & (move.stop < schedule.last)
        state = schedule.leave_where(leaving, move.stop, state, problem.initial)
    index = rows.unsqueeze(1).expand(-1, *problem.initial.shape)
    return torch.stack(path).gather(0, index)


def _step(
    problem: Problem,
    method: Method,
    move: Move,
    time: Tensor,
    step: Tensor,
    state: Tensor,
    rate: Tensor | None,
) -> Tensor:
    field, parameters = problem.vector_field, problem.parameters
    slope = derivative(field, time, state, parameters, rate)
    new = state
    implicit = move.stiff & (move.step > 0)
    if method.explicit is not None:
        size = step if method.implicit is None else torch.where(implicit, 0.0, step)
        new, _, _ = explicit_step(field, method.explicit, time, size, state, slope, parameters, rate)
    if method.implicit is not None and move.any_stiff:
        size = torch.where(implicit, step, 1.0)
        jacobian, slant = linearise(field, time, state, parameters)
        other, _ = implicit_step(field, method.implicit, time, size, state, slope, jacobian, slant, parameters, rate)
        new = torch.where(implicit, other, new)
    return new


def _follow(schedule: Schedule, move: Move) -> tuple[Tensor, Tensor]:
    """Time and step as constant fractions of the interval between two stops, so that they move with it."""
    begin = schedule.times.gather(0, (move.stop - 1).unsqueeze(0)).squeeze(0)
    length = schedule.ahead(move.stop)[0] - begin
    fixed = length.detach()
    fixed = torch.where(fixed > 0, fixed, 1.0)
    return begin + (move.time - begin.detach()) / fixed * length, move.step / fixed * length
