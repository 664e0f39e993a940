"""torchdiffeq's adaptive solvers, record by record, with an error norm per subject and failures isolated."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch
import torchdiffeq
from torch import Tensor

from nlme_torch.errors import SolveError
from nlme_torch.settings import check_types
from nlme_torch.solve.problem.failures import find_bad_starts, mask_states
from nlme_torch.solve.problem.problem import Problem
from nlme_torch.solve.problem.solution import Solution, Statistics, Status
from nlme_torch.solve.problem.tolerance import (
    AbsoluteTolerance,
    Attempt,
    absolute_tolerance,
    check_tolerances,
    first_attempt,
    next_attempt,
)
from nlme_torch.solve.stepping.record_field import RecordField

_METHODS = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")


@dataclass(frozen=True)
class TorchDiffEq:
    """torchdiffeq in rescaled time: a subject goes from its record r to r + 1 while s goes from r to r + 1.

        dy/ds = (t_{r+1} - t_r) (f(t, y, p) + rate_r),    t = t_r + (s - r) (t_{r+1} - t_r)

    All subjects share the steps; the error is the largest of the subjects' root-mean-square errors, forward
    and in the adjoint, so that the tolerance holds for each of them. Steps end exactly at records (no
    interpolation). Every tensor of ``parameters``, the times and the rates are adjoint parameters.

    Attributes:
        method: "dopri5", "dopri8", "bosh3", "fehlberg2" or "adaptive_heun".
        rtol: relative tolerance.
        atol: absolute tolerance [state]; "auto" takes 1e-8 (a hundredth of rtol below 1e-6), and less for a subject
            whose states are small, in proportion to what each of them visits.
        adjoint: "backprop" differentiates the steps themselves (accurate, twice differentiable, memory grows
            with the number of steps); "continuous" integrates the adjoint equation backwards (little memory,
            first derivatives only, less accurate).
        max_steps: attempted steps between two records before the limiting subjects are given up.

    Example:
        >>> import torch
        >>> from nlme_torch.solve import solve
        >>> times = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> start = torch.ones(1, dtype=torch.float64)
        >>> y = solve(lambda t, y, p: -y, start, times, solver=TorchDiffEq(rtol=1e-9)).states
        >>> bool((y[1] - torch.exp(torch.tensor(-1.0))).abs().max() < 1e-8)
        True

    References:
        Dormand, Prince (1980), doi:10.1016/0771-050X(80)90013-3.
        Chen, Rubanova, Bettencourt, Duvenaud (2018), Neural ordinary differential equations,
        arXiv:1806.07366.
    """

    method: str = "dopri5"
    _: KW_ONLY
    rtol: float = 1e-6
    atol: AbsoluteTolerance = "auto"
    adjoint: Literal["backprop", "continuous"] = "backprop"
    max_steps: int = 2000

    def __post_init__(self) -> None:
        check_types(self, SolveError)
        if self.method not in _METHODS:
            raise SolveError(f"method must be one of {_METHODS}, got {self.method!r}; for fixed steps use RK4")
        if self.adjoint not in ("backprop", "continuous"):
            raise SolveError(f'adjoint must be "backprop" or "continuous", got {self.adjoint!r}')
        check_tolerances(self.rtol, self.atol, self.max_steps)

    def integrate(self, problem: Problem) -> Solution:
        """Solve one problem; see ``nlme_torch.solve.solve``."""
        atol, steps = absolute_tolerance(self.rtol, self.atol), self.max_steps
        if self.atol != "auto":
            return self._integrate(problem, problem.initial.new_tensor(atol))
        with torch.no_grad():
            attempt: Attempt | None = first_attempt(problem, atol, steps)
        walks = 0
        while attempt is not None:
            tolerances, walks = attempt.atol, walks + 1
            solution = self._integrate(problem, tolerances)
            with torch.no_grad():
                seen = solution.states.detach().abs().nan_to_num(0.0).amax(0)
                peak = torch.fmax(problem.initial.abs(), seen)
                count = solution.statistics.accepted
                attempt = next_attempt(
                    attempt, walks, problem, peak, solution.status, count, self.rtol, atol, steps
                )  # fmt: skip
        return solution

    def _integrate(self, problem: Problem, atol: Tensor) -> Solution:
        problem, bad, derivative = find_bad_starts(problem)
        state = problem.arrive(0, problem.initial)
        status = torch.where(bad, int(Status.INVALID_START), int(Status.OK))
        reached = torch.where(bad, -1, problem.records - 1)
        first_step = self._first_step(problem, state.detach(), derivative, atol)
        states, first = [state[None]], 0
        accepted, rejected, evaluations = 0, 0, 1
        for last in self._segment_ends(problem):
            field = RecordField(problem, first, last, status, self.max_steps)
            path = self._advance(field, state, first_step, atol)[1:]
            reached = torch.where((field.status > 0) & (status == 0), first + field.failed_at, reached)
            status, first_step = field.status, field.last_step
            accepted, rejected = accepted + field.accepted, rejected + field.rejected
            evaluations += field.evaluations
            state = problem.arrive(last, path[-1])
            states.append(path[:-1])
            states.append(state[None])
            first = last
        trajectory = torch.cat(states)
        if bool((status > 0).any()):
            trajectory = mask_states(trajectory, reached)
        statistics = Statistics(*(torch.full_like(reached, count) for count in (accepted, rejected, evaluations, 0)))
        return Solution(states=trajectory, status=status, reached=reached.clamp(min=0), statistics=statistics)

    def _segment_ends(self, problem: Problem) -> list[int]:
        """Records at which a torchdiffeq call ends: where a state jumps, and all for a continuous adjoint."""
        last = problem.records - 1
        if last == 0:
            return []
        jumps = torch.zeros(problem.records, dtype=torch.bool)
        with torch.no_grad():
            for event in (problem.amounts, problem.resets):
                if event is not None:
                    jumps |= (event != 0).flatten(1).any(1).cpu()
        jumps[last] = True
        jumps[0] = False
        if self.adjoint == "continuous":
            jumps[1:] = True
        return torch.nonzero(jumps).flatten().tolist()

    def _advance(self, field: RecordField, state: Tensor, first_step: Tensor, atol: Tensor) -> Tensor:
        """States (record, state, *batch) at the records of one segment, the first included."""
        grid = torch.arange(field.length + 1, dtype=state.dtype, device=state.device)
        options = {
            "norm": field.norm,
            "first_step": first_step,
            "step_t": grid[-1:],
            "jump_t": grid[1:-1],
            "max_num_steps": 2**31 - 1,
        }
        settings = {"rtol": self.rtol, "atol": atol, "method": self.method}
        try:
            if self.adjoint == "backprop":
                return torchdiffeq.odeint(field, state, grid, options=options, **settings)
            adjoint_options = {
                "norm": _adjoint_norm,
                "step_t": grid[:1],
                "max_num_steps": 20 * self.max_steps,
            }
            return torchdiffeq.odeint_adjoint(
                field,
                state,
                grid,
                options=options,
                adjoint_options=adjoint_options,
                adjoint_params=field.differentiable(),
                adjoint_atol=absolute_tolerance(self.rtol, self.atol),
                **settings,
            )
        except AssertionError as error:
            raise SolveError(f"torchdiffeq gave up between records: {error}; loosen rtol or use Tsit5") from error

    def _first_step(self, problem: Problem, state: Tensor, derivative: Tensor, atol: Tensor) -> Tensor:
        """A first step in units of the first interval: a hundredth of the fastest time scale."""
        if problem.records == 1:
            return state.new_ones(())
        with torch.no_grad():
            scale = atol + self.rtol * state.abs()
            size = (state / scale).pow(2).mean(0).sqrt()
            slope = (derivative / scale).pow(2).mean(0).sqrt() * (problem.times[1] - problem.times[0])
            step = torch.where((size < 1e-5) | (slope < 1e-5), 1e-3, 0.01 * size / slope.clamp(min=1e-300))
            return torch.nan_to_num(step, nan=1e-3).min().clamp(1e-8, 1.0)


def _adjoint_norm(parts: tuple[Tensor, ...]) -> Tensor:
    """Largest error of any subject's state and adjoint and of any parameter's gradient."""
    _, state, adjoint, *parameters = parts
    errors = [part.pow(2).mean(0).sqrt().max() for part in (state, adjoint)]
    errors += [part.pow(2).mean().sqrt() for part in parameters if part.numel()]
    return torch.stack(errors).max()
