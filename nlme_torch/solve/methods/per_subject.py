"""The adaptive solve in which every subject has its own step size, compiled or by tensor operations."""

from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from nlme_torch.errors import SolveError
from nlme_torch.settings import check_types
from nlme_torch.solve.kernel import Outcome
from nlme_torch.solve.problem.failures import find_bad_starts
from nlme_torch.solve.problem.problem import Problem
from nlme_torch.solve.problem.schedule import Schedule, build_schedule
from nlme_torch.solve.problem.solution import Solution, Status
from nlme_torch.solve.problem.tolerance import (
    AbsoluteTolerance,
    absolute_tolerance,
    check_tolerances,
    first_attempt,
    next_attempt,
    peaks,
)
from nlme_torch.solve.stepping.chunking import MaxBatch, check_max_batch, in_pieces
from nlme_torch.solve.stepping.compiled import finish, solve_compiled
from nlme_torch.solve.stepping.discrete_adjoint import is_differentiated, replay
from nlme_torch.solve.stepping.explicit import derivative
from nlme_torch.solve.stepping.walk import Control, Move, Walk, attempt, first_step, look
from nlme_torch.solve.tableau import Method


@dataclass(frozen=True)
class PerSubjectSolver:
    """What the solvers with a step size per subject share; subclasses say what they step with.

    The attributes are explained where they are met, in ``Tsit5``.
    """

    method: ClassVar[Method]

    rtol: float = 1e-6
    atol: AbsoluteTolerance = "auto"
    _: KW_ONLY
    max_steps: int = 10_000
    compile: bool = True
    max_batch: MaxBatch = "auto"

    def __post_init__(self) -> None:
        check_types(self, SolveError)
        check_tolerances(self.rtol, self.atol, self.max_steps)
        check_max_batch(self.max_batch)

    def integrate(self, problem: Problem) -> Solution:
        """Walk every subject from its first record to its last; see ``nlme_torch.solve.solve``."""
        atol = absolute_tolerance(self.rtol, self.atol)
        control = Control(self.rtol, atol, self.max_steps, problem.passengers, to_scale=self.atol == "auto")
        solution = solve_compiled(problem, self.method, control) if self.compile else None
        if solution is not None:
            return solution
        return in_pieces(problem, self.max_batch, lambda piece: _by_operations(piece, self.method, control))


def _by_operations(problem: Problem, method: Method, control: Control) -> Solution:
    problem, bad, _ = find_bad_starts(problem)
    schedule = build_schedule(problem)
    tape: list[Move] | None = [] if is_differentiated(problem) else None
    with torch.no_grad():
        if control.to_scale:
            walk, arrivals = _walk_to_scale(problem, method, control, schedule, tape)
        else:
            walk, arrivals = _walk(problem, method, control, schedule, tape)
    if tape is not None:
        arrivals = replay(problem, schedule, method, tape)
    status = torch.where(bad, int(Status.INVALID_START), walk.status)
    outcome = Outcome(status, walk.stop, walk.accepted, walk.rejected, walk.evaluations, walk.switches)
    return finish(problem, schedule, arrivals, outcome)


def _walk_to_scale(
    problem: Problem, method: Method, control: Control, schedule: Schedule, tape: list[Move] | None
) -> tuple[Walk, Tensor]:
    """Walk with absolute tolerances at the scale of each state, again where it turned out to be smaller."""
    rtol, atol, max_steps = control.rtol, float(control.atol), int(control.max_steps)
    attempt, walks = first_attempt(problem, atol, max_steps), 0
    while True:
        if tape is not None:
            tape.clear()
        control = replace(control, atol=attempt.atol, max_steps=attempt.max_steps)
        walk, arrivals = _walk(problem, method, control, schedule, tape)
        walks += 1
        peak, steps = peaks(problem, schedule, arrivals), walk.accepted + walk.rejected
        following = next_attempt(attempt, walks, problem, peak, walk.status, steps, rtol, atol, max_steps)
        if following is None:
            return walk, arrivals
        attempt = following


def _walk(
    problem: Problem, method: Method, control: Control, schedule: Schedule, tape: list[Move] | None
) -> tuple[Walk, Tensor]:
    """Walk all subjects to their last stop; the final walk and (stop, state, *batch) arrivals."""
    field, parameters, initial = problem.vector_field, problem.parameters, problem.initial
    arrivals = initial.expand(schedule.times.shape[0], *initial.shape).clone()
    walk = _start(problem, method, control, schedule)
    has_events = any(value is not None for value in (schedule.amounts, schedule.resets, schedule.rates))
    target, rate = schedule.ahead(walk.stop)
    patience = _looks_every(initial)
    while (ways := look(walk, schedule.last)).any:
        for _ in range(patience):
            walk, move = attempt(field, method, control, walk, target, schedule.last, parameters, rate, ways)
            if tape is not None:
                tape.append(move)
            index = schedule.bounded(move.stop).expand(1, *walk.state.shape)
            arrivals.scatter_(0, index, walk.state.unsqueeze(0))
            target, rate = schedule.ahead(walk.stop)
            leaving = move.arrived & (walk.stop <= schedule.last)
            if has_events and (patience > 1 or bool(leaving.any())):
                state = schedule.leave_where(leaving, move.stop, walk.state, initial)
                slope = derivative(field, walk.time, state, parameters, rate)
                walk = walk._replace(
                    state=state,
                    slope=torch.where(leaving, slope, walk.slope),
                    evaluations=walk.evaluations + leaving,
                )
    return walk, arrivals


def _looks_every(initial: Tensor) -> int:
    """Steps between two looks at who is still under way; a look makes the host wait for a GPU."""
    return 8 if initial.is_cuda else 1


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
