"""Gradients of an adaptive solve: the accepted steps again, their relative sizes held constant."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from nlme_torch.solve.explicit import Move, derivative, explicit_step
from nlme_torch.solve.problem import Problem
from nlme_torch.solve.schedule import Schedule
from nlme_torch.solve.tableau import Tableau


def inputs_of(problem: Problem) -> tuple[Tensor, ...]:
    """Every tensor of a problem that may carry a gradient."""
    optional = (problem.amounts, problem.rates)
    return (
        problem.initial,
        problem.times,
        *problem.parameters,
        *(value for value in optional if value is not None),
    )


def is_transformed() -> bool:
    """Whether forward-mode or a torch.func transform is at work."""
    return forward_ad._current_level >= 0 or torch._C._functorch.maybe_current_level() is not None


def is_differentiated(problem: Problem) -> bool:
    """Whether any derivative, backward or forward, will be asked of the solution."""
    if is_transformed():
        return True
    return torch.is_grad_enabled() and any(value.requires_grad for value in inputs_of(problem))


def replay(problem: Problem, schedule: Schedule, tableau: Tableau, tape: list[Move]) -> Tensor:
    """States on arrival at every stop, by plain differentiable operations.

    Args:
        problem: the problem.
        schedule: its stops.
        tableau: the pair that took the steps.
        tape: the moves of the adaptive walk.

    Returns:
        (stop, state, *batch) states before the events of each stop.
    """
    state = schedule.leave(0, problem.initial, problem.initial)
    moving_times = problem.times.requires_grad or not torch.is_grad_enabled()
    path = [problem.initial]
    final = schedule.times.shape[0] - 1
    rows = torch.zeros_like(schedule.times, dtype=torch.long)
    for row, move in enumerate(tape):
        stop = move.stop.clamp(max=final)
        time, step = move.time, move.step
        if moving_times:
            time, step = _follow(schedule, move, stop)
        rate = None
        if schedule.rates is not None:
            rate = schedule.rates.gather(0, (move.stop - 1).expand(1, *state.shape)).squeeze(0)
        slope = derivative(problem.vector_field, time, state, problem.parameters, rate)
        state, _ = explicit_step(problem.vector_field, tableau, time, step, state, slope, problem.parameters, rate)
        path.append(state)
        rows.scatter_(0, stop.unsqueeze(0), row + 1)
        state = _leave_where(schedule, move.arrived, stop, state, problem.initial)
    index = rows.unsqueeze(1).expand(-1, *problem.initial.shape)
    return torch.stack(path).gather(0, index)


def _follow(schedule: Schedule, move: Move, stop: Tensor) -> tuple[Tensor, Tensor]:
    """Time and step as constant fractions of the interval between two stops, so that they move with it."""
    begin = schedule.times.gather(0, (move.stop - 1).unsqueeze(0)).squeeze(0)
    length = schedule.times.gather(0, stop.unsqueeze(0)).squeeze(0) - begin
    fixed = length.detach()
    fixed = torch.where(fixed > 0, fixed, 1.0)
    return begin + (move.time - begin.detach()) / fixed * length, move.step / fixed * length


def _leave_where(schedule: Schedule, arrived: Tensor, stop: Tensor, state: Tensor, initial: Tensor) -> Tensor:
    if schedule.resets is not None:
        reset = arrived & schedule.resets.gather(0, stop.unsqueeze(0)).squeeze(0)
        state = torch.where(reset, initial, state)
    if schedule.amounts is not None:
        amount = schedule.amounts.gather(0, stop.expand(1, *state.shape)).squeeze(0)
        state = state + torch.where(arrived, amount, 0.0)
    return state
