"""Tsitouras' explicit 5(4) pair with a step size per subject."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nlme_torch.errors import SolveError
from nlme_torch.solve.explicit import Control, Move, Walk, attempt, derivative, start_step
from nlme_torch.solve.isolate import find_bad_starts, mask_states
from nlme_torch.solve.kernel import Kernel, Limits, Solve, find_kernel
from nlme_torch.solve.problem import Problem
from nlme_torch.solve.replay import is_differentiated, is_transformed, replay
from nlme_torch.solve.schedule import Schedule, build_schedule
from nlme_torch.solve.solution import Solution, Statistics, Status
from nlme_torch.solve.tableau import TSITOURAS


@dataclass(frozen=True)
class Tsit5:
    """Explicit Runge-Kutta 5(4) in which every subject has its own time, step size and record.

    Each subject walks from record to record and hits every one; a finished subject rests. Its solution does
    not depend on who else is in the batch. Gradients (backward, forward, twice) replay the accepted steps,
    whose sizes are constants.

    Attributes:
        rtol: relative tolerance of the local error of each subject.
        atol: absolute tolerance [state].
        max_steps: attempted steps of a subject between two records before it is given up.
        compile: run the whole walk as compiled code where that is possible (CPU, a C++ compiler, a vector
            field of elementary operations); the first solve of a new vector field then takes seconds, once
            per machine.

    Example:
        >>> import torch
        >>> from nlme_torch.solve import solve
        >>> times = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> start = torch.ones(1, dtype=torch.float64)
        >>> y = solve(lambda t, y, p: -y, start, times, solver=Tsit5(rtol=1e-9)).states
        >>> bool((y[1] - torch.exp(torch.tensor(-1.0))).abs().max() < 1e-8)
        True

    References:
        Tsitouras (2011), Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying
        assumption, doi:10.1016/j.camwa.2011.06.002.
    """

    rtol: float = 1e-6
    atol: float = 1e-8
    max_steps: int = 2000
    compile: bool = True

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0 and self.max_steps > 0):
            raise SolveError("rtol, atol and max_steps must be positive")

    def integrate(self, problem: Problem) -> Solution:
        """Solve one problem; see ``nlme_torch.solve.solve``."""
        if self.compile and not is_transformed() and 0 not in problem.batch:
            kernel = find_kernel(problem, TSITOURAS, is_differentiated(problem))
            if kernel is not None:
                return self._compiled(problem, kernel)
        problem, bad, _ = find_bad_starts(problem)
        schedule = build_schedule(problem)
        differentiated = is_differentiated(problem)
        tape: list[Move] | None = [] if differentiated else None
        with torch.no_grad():
            walk, arrivals = self._walk(problem, schedule, tape)
        if tape is not None:
            arrivals = replay(problem, schedule, TSITOURAS, tape)
        status = torch.where(bad, int(Status.INVALID_START), walk.status)
        return _finish(problem, schedule, arrivals, status, walk.stop, walk.accepted, walk.rejected)

    def _compiled(self, problem: Problem, kernel: Kernel) -> Solution:
        schedule = build_schedule(problem)
        batch, count = problem.batch, problem.batch.numel()
        initial = problem.initial.to(torch.float64)
        own, shared = kernel.layout.pack(problem.parameters, batch, initial)

        def flat(value: Tensor | None, leading: int) -> Tensor | None:
            if value is None:
                return None
            value = value.to(torch.float64) if value.is_floating_point() else value
            return value.reshape(*value.shape[:leading], count)

        limits = Limits(self.rtol, self.atol, self.max_steps, torch.get_num_threads())
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
        counts = (run.outcome.stop, run.outcome.accepted, run.outcome.rejected)
        status, stop, accepted, rejected = (value.reshape(batch) for value in (run.outcome.status, *counts))
        return _finish(problem, schedule, arrivals, status, stop, accepted, rejected)

    def _walk(self, problem: Problem, schedule: Schedule, tape: list[Move] | None) -> tuple[Walk, Tensor]:
        """Walk all subjects to their last stop; the final walk and (stop, state, *batch) arrivals."""
        control = Control(self.rtol, self.atol, self.max_steps)
        field, parameters = problem.vector_field, problem.parameters
        initial = problem.initial
        arrivals = initial.expand(schedule.times.shape[0], *initial.shape).clone()
        walk = self._start(problem, schedule, control)
        has_events = any(value is not None for value in (schedule.amounts, schedule.resets, schedule.rates))
        final = schedule.times.shape[0] - 1
        target, rate = _ahead(schedule, walk.stop, final)
        while bool(((walk.stop <= schedule.last) & (walk.status == 0)).any()):
            walk, move = attempt(field, TSITOURAS, control, walk, target, schedule.last, parameters, rate)
            if tape is not None:
                tape.append(move)
            index = move.stop.clamp(max=final).expand(1, *walk.state.shape)
            arrivals.scatter_(0, index, walk.state.unsqueeze(0))
            target, rate = _ahead(schedule, walk.stop, final)
            if has_events and bool(move.arrived.any()):
                state = torch.where(move.arrived, _leave(schedule, move.stop, walk.state, initial), walk.state)
                slope = derivative(field, walk.time, state, parameters, rate)
                walk = walk._replace(state=state, slope=torch.where(move.arrived, slope, walk.slope))
        return walk, arrivals

    def _start(self, problem: Problem, schedule: Schedule, control: Control) -> Walk:
        state = schedule.leave(0, problem.initial, problem.initial)
        time = schedule.times[0]
        rate = None if schedule.rates is None else schedule.rates[0]
        slope = derivative(problem.vector_field, time, state, problem.parameters, rate)
        final = schedule.times.shape[0] - 1
        interval = schedule.times[min(1, final)] - time
        step = start_step(
            problem.vector_field, TSITOURAS, control, time, state, slope, interval, problem.parameters, rate
        )
        none = torch.zeros_like(schedule.last)
        return Walk(time, step, state, slope, torch.ones_like(time), none + 1, none, none, none, none)


def _finish(
    problem: Problem,
    schedule: Schedule,
    arrivals: Tensor,
    status: Tensor,
    stop: Tensor,
    accepted: Tensor,
    rejected: Tensor,
) -> Solution:
    states = schedule.at_records(arrivals, problem.initial)
    reached = torch.full_like(stop, problem.records - 1)
    if bool((status > 0).any()):
        stop = torch.where(status == int(Status.INVALID_START), 0, stop)
        reached = torch.where(status > 0, _records_before(schedule, stop, problem.records) - 1, reached)
        states = mask_states(states, reached)
    statistics = Statistics(accepted, rejected, 3 + 6 * (accepted + rejected))
    return Solution(states=states, status=status, reached=reached.clamp(min=0), statistics=statistics)


def _ahead(schedule: Schedule, stop: Tensor, final: int) -> tuple[Tensor, Tensor | None]:
    """Time of the stop that each subject heads for and the rate on the way."""
    target = schedule.times.gather(0, stop.clamp(max=final).unsqueeze(0)).squeeze(0)
    if schedule.rates is None:
        return target, None
    index = (stop - 1).expand(1, *schedule.rates.shape[1:])
    return target, schedule.rates.gather(0, index).squeeze(0)


def _leave(schedule: Schedule, stop: Tensor, state: Tensor, initial: Tensor) -> Tensor:
    """The state on leaving the stop that each subject stands at."""
    stop = stop.clamp(max=schedule.times.shape[0] - 1)
    if schedule.resets is not None:
        state = torch.where(schedule.resets.gather(0, stop.unsqueeze(0)).squeeze(0), initial, state)
    if schedule.amounts is not None:
        state = state + schedule.amounts.gather(0, stop.expand(1, *state.shape)).squeeze(0)
    return state


def _records_before(schedule: Schedule, stop: Tensor, records: int) -> Tensor:
    """Number of records before a stop."""
    if schedule.record_stop is None:
        return stop.clamp(max=records)
    return (schedule.record_stop < stop).sum(0)
