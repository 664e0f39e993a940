"""A solve by compiled code, and what turns stops into records."""

import torch
from torch import Tensor

from nlme_torch.solve.kernel import BuildError, Kernel, Limits, Outcome, Solve, find_kernel
from nlme_torch.solve.problem.failures import mask_states
from nlme_torch.solve.problem.moving_times import drop_times, hold_times
from nlme_torch.solve.problem.problem import Problem
from nlme_torch.solve.problem.schedule import Schedule, build_schedule
from nlme_torch.solve.problem.solution import Solution, Statistics, Status
from nlme_torch.solve.stepping.discrete_adjoint import is_differentiated, is_transformed
from nlme_torch.solve.stepping.walk import Control
from nlme_torch.solve.tableau import Method


def solve_compiled(problem: Problem, method: Method, control: Control) -> Solution | None:
    """Solve by compiled code where that is possible.

    Args:
        problem: what to solve.
        method: what to step with.
        control: tolerances and limits.

    Returns:
        The solution; None off the CPU, without a C++ compiler, under forward-mode or torch.func transforms, for an
        empty batch, for a vector field that cannot be written out in scalars, and where the compiler fails.
    """
    if is_transformed() or 0 in problem.batch:
        return None
    differentiated = is_differentiated(problem)
    moving = differentiated and problem.times.requires_grad and not hasattr(problem.vector_field, "__self__")
    posed = hold_times(problem) if moving else problem
    kernel = find_kernel(posed, method, differentiated)
    if kernel is not None and differentiated:
        kernel = kernel.differentiating(posed.parameters)
        try:
            kernel.backwards  # noqa: B018  a compiler that fails is noticed while there is another way
        except BuildError:
            return None
    if kernel is None:
        return None
    solution = _by_kernel(posed, control, kernel)
    return drop_times(solution) if moving else solution


def finish(problem: Problem, schedule: Schedule, arrivals: Tensor, outcome: Outcome) -> Solution:
    """Turn states at stops into states at records.

    Args:
        problem: what was solved.
        schedule: its stops.
        arrivals: (stop, state, *batch) states on arriving at stops, before their events.
        outcome: how each subject ended.

    Returns:
        The solution, with NaN from the first record that a failed subject did not reach.
    """
    states = schedule.at_records(arrivals, problem.initial)
    status, stop = outcome.status, outcome.stop
    reached = torch.full_like(stop, problem.records - 1)
    if bool((status > 0).any()):
        stop = torch.where(status == int(Status.INVALID_START), 0, stop)
        reached = torch.where(status > 0, schedule.records_before(stop) - 1, reached)
        states = mask_states(states, reached)
    statistics = Statistics(outcome.accepted, outcome.rejected, outcome.evaluations, outcome.switches)
    return Solution(states=states, status=status, reached=reached.clamp(min=0), statistics=statistics)


def _by_kernel(problem: Problem, control: Control, kernel: Kernel) -> Solution:
    schedule = build_schedule(problem)
    batch, count = problem.batch, problem.batch.numel()
    initial = problem.initial.to(torch.float64)
    own, shared = kernel.layout.pack(problem.parameters, batch, initial)

    def flat(value: Tensor | None, leading: int) -> Tensor | None:
        if value is None:
            return None
        value = value.to(torch.float64) if value.is_floating_point() else value
        return value.reshape(*value.shape[:leading], count)

    atol, steps = float(control.atol), int(control.max_steps)
    limits = Limits(control.rtol, atol, steps, torch.get_num_threads(), control.to_scale)
    last = torch.where(torch.isfinite(schedule.times).all(0), schedule.last, 1).reshape(count)
    run = Solve(kernel, limits, last, flat(schedule.resets, 1), is_differentiated(problem))
    arrivals = run.arrivals(
        flat(initial, 1),
        flat(schedule.times, 1),
        own,
        shared,
        flat(schedule.amounts, 2),
        flat(schedule.rates, 2),
    )
    assert run.outcome is not None
    arrivals = arrivals.to(problem.initial.dtype).reshape(-1, *problem.initial.shape)
    return finish(problem, schedule, arrivals, Outcome(*(value.reshape(batch) for value in run.outcome)))
