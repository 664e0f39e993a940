"""Keeping a subject that cannot be solved from harming the others, in values and in gradients.

A failed subject is made inert: its records have zero length and it rests at a state where the derivative is
finite, so that its zero cotangent never meets an infinite local derivative (0 x inf = NaN would reach shared
parameters).
"""

from dataclasses import replace

import torch
from torch import Tensor

from nlme_torch.solve.problem.problem import Problem, check_derivative


def find_bad_starts(problem: Problem) -> tuple[Problem, Tensor, Tensor]:
    """Find subjects that cannot even start, and make them inert.

    Args:
        problem: the problem as posed.

    Returns:
        The problem with those subjects inert, (*batch) True where a subject is bad, and (state, *batch) the
        derivative at the start without gradient.
    """
    with torch.no_grad():
        start = problem.arrive(0, problem.initial)
        derivative = problem.vector_field(problem.times[0], start, problem.parameters)
        derivative = check_derivative(derivative, start)
        bad = ~(torch.isfinite(start).all(0) & torch.isfinite(derivative).all(0) & torch.isfinite(problem.times).all(0))
        for value in (problem.amounts, problem.rates):
            if value is not None:
                bad = bad | ~torch.isfinite(value).all(0).all(0)
    if not bool(bad.any()):
        return problem, bad, derivative
    problem = make_inert(problem, bad)
    return problem, bad, torch.where(bad, 0.0, derivative)


def make_inert(problem: Problem, failed: Tensor) -> Problem:
    """Let the failed subjects rest where everything is finite, and keep their gradients finite.

    Args:
        problem: the problem as posed.
        failed: (*batch) True where a subject is to be excluded.

    Returns:
        A problem in which those subjects have zero-length records, no events and a finite state.
    """
    finite = torch.isfinite(problem.initial).all(0)
    return replace(
        problem,
        initial=torch.where(failed & ~finite, 1.0, problem.initial),
        times=torch.where(failed, 0.0, problem.times),
        parameters=tuple(_guard(parameter) for parameter in problem.parameters),
        amounts=None if problem.amounts is None else torch.where(failed, 0.0, problem.amounts),
        rates=None if problem.rates is None else torch.where(failed, 0.0, problem.rates),
        resets=None if problem.resets is None else problem.resets & ~failed,
    )


def mask_states(states: Tensor, reached: Tensor) -> Tensor:
    """States with NaN after the last record that each subject reached.

    Args:
        states: (record, state, *batch).
        reached: (*batch) index of the last good record; -1 if there is none.

    Returns:
        (record, state, *batch); no gradient flows into the NaN entries.
    """
    record = torch.arange(states.shape[0], device=states.device).reshape(-1, *(1,) * (states.ndim - 1))
    return torch.where(record > reached, torch.nan, states)


def _guard(parameter: Tensor) -> Tensor:
    """A parameter with finite entries only, whose non-finite gradient entries are dropped."""
    if not parameter.is_floating_point():
        return parameter
    guarded = torch.where(torch.isfinite(parameter), parameter, 1.0)
    if guarded.requires_grad:
        guarded.register_hook(lambda gradient: torch.where(torch.isfinite(gradient), gradient, 0.0))
    return guarded
