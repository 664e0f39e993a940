r"""Absolute tolerances at the scale of what is solved, for each state of each subject.

A fixed absolute tolerance says that smaller values mean nothing; a state that never is larger than it, as a
concentration in kg/L, is then not solved at all, without a word. Here the tolerance of state i of a subject is

.. math:: a_i = a \min(1, m_i)

with :math:`m` first the largest value among all that the subject begins with and is given, and then, where a state has
turned out to be so much smaller that its relative error was not controlled, the largest value that it visited: such a
subject is solved again. States that are mere rounding beside the others of their subject are left alone, and so is a
subject that cannot be solved at a finer tolerance.

References:
    Hindmarsh et al. (2005), SUNDIALS, doi:10.1145/1089014.1089020: on the choice of absolute tolerances.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nlme_torch.errors import SolveError
from nlme_torch.solve.problem.problem import Problem
from nlme_torch.solve.problem.schedule import Schedule

AbsoluteTolerance = float | Literal["auto"]

LARGEST, SHARE_OF_RELATIVE = 1e-8, 1e-2
"""What "auto" takes for states of size one, and for stricter relative tolerances than 1e-6."""
TOO_COARSE = 10.0
"""A state is solved again where its tolerance exceeds so many relative tolerances of its largest value."""
ROUNDING = 1e-15
"""Share of a subject's largest state that is rounding of it."""
MOST_WALKS = 6
"""Of one subject at most; each finds what its states visit at a finer tolerance."""
SMALLEST = 1e-290
"""So that its square is no denormal number."""


def check_tolerances(rtol: float, atol: AbsoluteTolerance, max_steps: int) -> None:
    """Raise a SolveError unless these are tolerances and a number of steps."""
    numbers = (rtol, max_steps) if atol == "auto" else (rtol, atol, max_steps)
    if not all(isinstance(value, int | float) and value > 0 for value in numbers):
        raise SolveError('rtol, atol and max_steps must be positive; atol may be "auto"')


def absolute_tolerance(rtol: float, atol: AbsoluteTolerance) -> float:
    """The absolute tolerance [state] of states that reach 1 or more: 1e-8, or a hundredth of ``rtol`` below 1e-6."""
    return min(LARGEST, SHARE_OF_RELATIVE * rtol) if atol == "auto" else atol


def first_tolerance(problem: Problem, atol: float) -> Tensor:
    """The absolute tolerance by what each subject begins with and is given, (1, *batch)."""
    judged = problem.initial.shape[0] - problem.passengers
    most = problem.initial[:judged].abs().amax(0)
    if problem.amounts is not None:
        most = torch.fmax(most, problem.amounts[:, :judged].abs().amax((0, 1)))
    if problem.rates is not None and problem.records > 1:
        length = (problem.times[1:] - problem.times[:-1])[:, None]
        most = torch.fmax(most, (problem.rates[:-1, :judged].abs() * length).amax((0, 1)))
    usable = (most > 0) & torch.isfinite(most)
    return torch.where(usable, (atol * most.clamp(max=1.0)).clamp(min=SMALLEST), atol)[None]


class Attempt(NamedTuple):
    """Tolerances of one walk.

    Attributes:
        atol: (state, *batch) absolute tolerances.
        before: (state, *batch) those of the walk before it.
        final: (*batch) True where they are not to be changed any more.
        max_steps: (*batch) attempted steps between two stops.
    """

    atol: Tensor
    before: Tensor
    final: Tensor
    max_steps: Tensor


def first_attempt(problem: Problem, atol: float, max_steps: int) -> Attempt:
    """Tolerances of the first walk; states that only ride along have some too, which nobody reads."""
    tolerance = first_tolerance(problem, atol).expand_as(problem.initial)
    never = torch.zeros_like(tolerance[0], dtype=torch.bool)
    return Attempt(tolerance, tolerance, never, torch.full_like(never, max_steps, dtype=torch.long))


def next_attempt(
    attempt: Attempt, walks: int, problem: Problem, peak: Tensor, status: Tensor, steps: Tensor, rtol: float,
    atol: float, max_steps: int,
) -> Attempt | None:  # fmt: skip
    """Tolerances for those subjects whose last walk was too coarse in some state, or failed at a finer tolerance.

    Args:
        attempt: the last walk's tolerances.
        walks: how many walks there were.
        problem: what is solved.
        peak: (state, *batch) the largest value of every state.
        status: (*batch) how the walk ended.
        steps: (*batch) steps attempted in it.
        rtol: relative tolerance.
        atol: absolute tolerance of states that reach 1.
        max_steps: attempted steps between two stops.

    Returns:
        The tolerances of all subjects, or None where nobody has to be solved again.
    """
    judged = problem.initial.shape[0] - problem.passengers
    mine = torch.arange(len(peak), device=peak.device).reshape(-1, *(1,) * status.ndim) < judged
    most = torch.where(mine, peak, 0.0).amax(0)
    coarse = mine & (peak > ROUNDING * most) & (attempt.atol > TOO_COARSE * rtol * peak)
    finer = coarse & (status == 0) & ~attempt.final & (walks < MOST_WALKS)
    failed = (status != 0) & ~attempt.final & (attempt.max_steps < max_steps)
    if not bool((finer.any(0) | failed).any()):
        return None
    tolerance = torch.where(finer, (atol * peak).clamp(min=SMALLEST), attempt.atol)
    limit = torch.where(finer.any(0), (100 + 20 * steps).clamp(max=max_steps - 1), attempt.max_steps)
    return Attempt(
        atol=torch.where(failed, attempt.before, tolerance),
        before=attempt.atol,
        final=attempt.final | failed,
        max_steps=torch.where(failed, max_steps, limit),
    )


def peaks(problem: Problem, schedule: Schedule, arrivals: Tensor) -> Tensor:
    """The largest value of every state at the stops, before and after their events, (state, *batch).

    Args:
        problem: what is solved.
        schedule: its stops.
        arrivals: (stop, state, *batch) states on arriving at stops.
    """
    peak = torch.fmax(problem.initial.abs(), arrivals.abs().nan_to_num(0.0).amax(0))
    if schedule.amounts is not None or schedule.resets is not None:
        for stop in range(len(arrivals)):
            after = schedule.leave(stop, arrivals[stop], problem.initial).abs().nan_to_num(0.0)
            peak = torch.where(stop <= schedule.last, torch.fmax(peak, after), peak)
    return peak
