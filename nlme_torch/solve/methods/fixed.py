"""The classical Runge-Kutta method with a fixed number of steps between records."""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from nlme_torch.errors import SolveError
from nlme_torch.settings import check_types
from nlme_torch.solve.problem.failures import find_bad_starts, make_inert, mask_states
from nlme_torch.solve.problem.problem import Problem
from nlme_torch.solve.problem.solution import Solution, Statistics, Status
from nlme_torch.solve.stepping.chunking import MaxBatch, check_max_batch, in_pieces
from nlme_torch.solve.stepping.compiled import solve_compiled
from nlme_torch.solve.stepping.cuda_graph import by_graph
from nlme_torch.solve.stepping.walk import Control
from nlme_torch.solve.tableau import KUTTA, Method


@dataclass(frozen=True)
class RK4:
    """Classical fourth-order Runge-Kutta, a fixed number of equal steps between consecutive records.

        y_{n+1} = y_n + h (k1 + 2 k2 + 2 k3 + k4) / 6,    h = (t_{r+1} - t_r) / steps

    No error control: halve the step and compare.

    Attributes:
        steps: steps between two records.
        compile: run the steps as compiled code where that is possible (CPU, a C++ compiler, a vector field of
            elementary operations); otherwise by tensor operations, on a GPU recorded as a CUDA graph when the same
            shapes are met again and no gradient is wanted.
        max_batch: columns (subjects times chains times starts) that are solved at a time by tensor operations; "auto"
            takes what a quarter of the device's free memory can hold.

    Example:
        >>> import torch
        >>> from nlme_torch.solve import solve
        >>> times = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> y = solve(lambda t, y, p: -y, torch.ones(1, dtype=torch.float64), times, solver=RK4(50)).states
        >>> bool((y[1] - torch.exp(torch.tensor(-1.0))).abs().max() < 1e-8)
        True

    References:
        Hairer, Norsett, Wanner (1993), Solving Ordinary Differential Equations I,
        doi:10.1007/978-3-540-78862-1.
    """

    steps: int = 10
    _: KW_ONLY
    compile: bool = True
    max_batch: MaxBatch = "auto"

    def __post_init__(self) -> None:
        check_types(self, SolveError)
        if self.steps < 1:
            raise SolveError(f"RK4 needs at least one step between records, got steps={self.steps}")
        check_max_batch(self.max_batch)

    def integrate(self, problem: Problem) -> Solution:
        """Solve one problem; see ``nlme_torch.solve.solve``."""
        if self.compile:
            control = Control(rtol=1.0, atol=1.0, max_steps=self.steps, passengers=problem.passengers)
            solution = solve_compiled(problem, Method(KUTTA, None), control)
            if solution is not None:
                return solution
        return in_pieces(problem, self.max_batch, self._by_operations)

    def _by_operations(self, problem: Problem) -> Solution:
        problem, bad, _ = find_bad_starts(problem)
        states = by_graph(self._run, self.steps, problem)
        with torch.no_grad():
            finite = torch.isfinite(states).all(1) & ~bad
            reached = finite.long().cumprod(0).sum(0) - 1
            failed = reached < problem.records - 1
        if bool((failed & ~bad).any()):
            # Gradients must not pass through the exploded trajectory: integrate again without these subjects.
            first = states.detach()
            states = self._run(make_inert(problem, failed))
            states = torch.where(failed, first, states)
        if bool(failed.any()):
            states = mask_states(states, reached)
        status = torch.where(failed, int(Status.NONFINITE), int(Status.OK))
        status = torch.where(bad, int(Status.INVALID_START), status)
        steps = torch.full_like(reached, self.steps * (problem.records - 1))
        none = torch.zeros_like(steps)
        statistics = Statistics(accepted=steps, rejected=none, evaluations=4 * steps + 1, switches=none)
        return Solution(states=states, status=status, reached=reached.clamp(min=0), statistics=statistics)

    def _run(self, problem: Problem) -> Tensor:
        state = problem.arrive(0, problem.initial)
        states = [state]
        for record in range(problem.records - 1):
            start = problem.times[record]
            step = (problem.times[record + 1] - start) / self.steps
            rate = None if problem.rates is None else problem.rates[record]
            for index in range(self.steps):
                state = _step(problem, start + index * step, step, state, rate)
            state = problem.arrive(record + 1, state)
            states.append(state)
        return torch.stack(states)


def _step(problem: Problem, time: Tensor, step: Tensor, state: Tensor, rate: Tensor | None) -> Tensor:
    def derivative(t: Tensor, y: Tensor) -> Tensor:
        slope = problem.vector_field(t, y, problem.parameters)
        return slope if rate is None else slope + rate

    half = 0.5 * step
    k1 = derivative(time, state)
    k2 = derivative(time + half, state + half * k1)
    k3 = derivative(time + half, state + half * k2)
    k4 = derivative(time + step, state + step * k3)
    return state + (step / 6) * (k1 + 2 * (k2 + k3) + k4)
