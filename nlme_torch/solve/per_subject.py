"""The adaptive solve in which every subject has its own step size, compiled or by tensor operations."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nlme_torch.errors import SolveError
from nlme_torch.solve.explicit import derivative
from nlme_torch.solve.isolate import find_bad_starts, mask_states
from nlme_torch.solve.kernel import Kernel, Limits, Outcome, Solve, find_kernel
from nlme_torch.solve.moving_times import drop_times, hold_times
from nlme_torch.solve.problem import Problem
from nlme_torch.solve.replay import is_differentiated, is_transformed, replay
from nlme_torch.solve.schedule import Schedule, build_schedule
from nlme_torch.solve.solution import Solution, Statistics, Status
from nlme_torch.solve.tableau import Method
from nlme_torch.solve.walk import Control, Move, Walk, attempt, first_step


@dataclass(frozen=True)
class PerSubjectSolver:
    """What the solvers with a step size per subject share; subclasses say what they step with.

    Attributes:
        rtol: relative tolerance of the local error of each subject.
        atol: absolute tolerance [state].
        max_steps: attempted steps of a subject between two records before it is given up.
        compile: run the whole walk as compiled code where that is possible (CPU, a C++ compiler, a vector
            field of elementary operations); the first solve of a new vector field then takes seconds, once
            per machine.
    """

    method: ClassVar[Method]

    rtol: float = 1e-6
    atol: float = 1e-8
    max_steps: int = 10_000
    compile: bool = True

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0 and self.max_steps > 0):
            raise SolveError("rtol, atol and max_steps must be positive")

    def integrate(self, problem: Problem) -> Solution:
        """Walk every subject from its first record to its last; see ``nlme_torch.solve.solve``."""
        control = Control(self.rtol, self.atol, self.max_steps, problem.passengers)
        if self.compile and not is_transformed() and 0 not in problem.batch:
            differentiated = is_differentiated(problem)
            moving = differentiated and problem.times.requires_grad and not hasattr(problem.vector_field, "__self__")
            posed = hold_times(problem) if moving else problem
            kernel = find_kernel(posed, self.method, differentiated)
            if kernel is not None:
                solution = _by_kernel(posed, control, kernel)
                return drop_times(solution) if moving else solution
        return _by_operations(problem, self.method, control)


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

    limits = Limits(control.rtol, control.atol, control.max_steps, torch.get_num_threads())
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
    return _finish(problem, schedule, arrivals, Outcome(*(value.reshape(batch) for value in run.outcome)))


def _by_operations(problem: Problem, method: Method, control: Control) -> Solution:
    problem, bad, _ = find_bad_starts(problem)
    schedule = build_schedule(problem)
    tape: list[Move] | None = [] if is_differentiated(problem) else None
    with torch.no_grad():
        walk, arrivals = _walk(problem, method, control, schedule, tape)
    if tape is not None:
        arrivals = replay(problem, schedule, method, tape)
    status = torch.where(bad, int(Status.INVALID_START), walk.status)
    outcome = Outcome(status, walk.stop, walk.accepted, walk.rejected, walk.evaluations, walk.switches)
    return _finish(problem, schedule, arrivals, outcome)


def _finish(problem: Problem, schedule: Schedule, arrivals: Tensor, outcome: Outcome) -> Solution:
    states = schedule.at_records(arrivals, problem.initial)
    status, stop = outcome.status, outcome.stop
    reached = torch.full_like(stop, problem.records - 1)
    if bool((status > 0).any()):
        stop = torch.where(status == int(Status.INVALID_START), 0, stop)
        reached = torch.where(status > 0, schedule.records_before(stop) - 1, reached)
        states = mask_states(states, reached)
    statistics = Statistics(outcome.accepted, outcome.rejected, outcome.evaluations, outcome.switches)
    return Solution(states=states, status=status, reached=reached.clamp(min=0), statistics=statistics)


def _walk(
    problem: Problem, method: Method, control: Control, schedule: Schedule, tape: list[Move] | None
) -> tuple[Walk, Tensor]:
    """Walk all subjects to their last stop; the final walk and (stop, state, *batch) arrivals."""
    field, parameters, initial = problem.vector_field, problem.parameters, problem.initial
    arrivals = initial.expand(schedule.times.shape[0], *initial.shape).clone()
    walk = _start(problem, method, control, schedule)
    has_events = any(value is not None for value in (schedule.amounts, schedule.resets, schedule.rates))
    target, rate = schedule.ahead(walk.stop)
    while bool(((walk.stop <= schedule.last) & (walk.status == 0)).any()):
        walk, move = attempt(field, method, control, walk, target, schedule.last, parameters, rate)
        if tape is not None:
            tape.append(move)
        index = schedule.bounded(move.stop).expand(1, *walk.state.shape)
        arrivals.scatter_(0, index, walk.state.unsqueeze(0))
        target, rate = schedule.ahead(walk.stop)
        if has_events and bool(move.arrived.any()):
            state = schedule.leave_where(move.arrived, move.stop, walk.state, initial)
            slope = derivative(field, walk.time, state, parameters, rate)
            walk = walk._replace(
                state=state,
                slope=torch.where(move.arrived, slope, walk.slope),
                evaluations=walk.evaluations + (move.arrived & (walk.stop <= schedule.last)),
            )
    return walk, arrivals


def _start(problem: Problem, method: Method, control: Control, schedule: Schedule) -> Walk:
    field, parameters = problem.vector_field, problem.parameters
    state = schedule.leave(0, problem.initial, problem.initial)
    time = schedule.times[0]
    none = torch.zeros_like(schedule.last)
    target, rate = schedule.ahead(none + 1)
    slope = derivative(field, time, state, parameters, rate)
    main = method.explicit or method.implicit
    assert main is not None
    step = first_step(field, control, main.order, time, state, slope, target - time, parameters, rate)
    stiff = torch.full_like(time, method.explicit is None, dtype=torch.bool)
    ones = torch.ones_like(time)
    return Walk(time, step, state, slope, ones, none + 1, none, none, none, none, none + 2, none, stiff, none)
