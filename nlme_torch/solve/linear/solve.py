"""States of a linear system at every record, exact to rounding."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from nlme_torch.errors import SolveError
from nlme_torch.solve.linear.numbers import common_shape
from nlme_torch.solve.linear.recurrence import recurrence
from nlme_torch.solve.linear.system import Linear
from nlme_torch.solve.problem.events import Events
from nlme_torch.solve.problem.failures import mask_states
from nlme_torch.solve.problem.problem import Problem, build_problem
from nlme_torch.solve.problem.solution import Solution, Statistics, Status


def solve_linear(system: Linear, initial: Tensor, times: Tensor, events: Events | None = None) -> Solution:
    r"""Solve dy/dt = A y + rate from record to record in closed form.

    .. math:: y(t_{r+1}) = e^{A h} y(t_r) + \int_0^h e^{A s} ds \, rate_r + amounts_{r+1}, \quad h = t_{r+1} - t_r

    The conventions are those of :func:`nlme_torch.solve.solve`. Duplicated times are legal, and nothing is
    approximated: a long interval costs as much as a short one.

    Args:
        system: a linear system whose parameters broadcast to ``(*batch)``.
        initial: (state, *batch) [amount] the state before the first record's event.
        times: (record, *batch-broadcastable) non-decreasing record times [time].
        events: amounts, rates and resets at records, or None.

    Returns:
        Solution with states (record, state, *batch), and status (*batch): a subject with parameters or events
        that are not finite has status INVALID_START, one whose states overflow NONFINITE.

    Raises:
        SolveError: if a dtype, a shape or the order of the times is wrong (never because a subject failed).

    Example:
        >>> import torch
        >>> from nlme_torch.solve.linear import OneCompartment
        >>> times = torch.tensor([0.0, 1.0, 24.0], dtype=torch.float64)
        >>> dose = torch.tensor([320.0, 0.0], dtype=torch.float64)
        >>> oral = OneCompartment(clearance=2.8, volume=32.0, absorption=1.5)
        >>> [round(value, 3) for value in solve_linear(oral, dose, times).states[:, 1].tolist()]
        [0.0, 235.527, 41.614]
    """
    problem = build_problem(_no_field, initial, times, (), events)
    _check_states(system, problem)
    bad = _bad_rates(system, problem)
    states = None if bad is not None else _states(system, problem)
    if states is not None and _all_finite(states):
        return _solution(problem, states, torch.zeros(problem.batch, dtype=torch.long, device=initial.device))
    # Someone failed: gradients must not pass through what is not finite, so solve without these subjects.
    bad = _bad_starts(problem) if bad is None else bad | _bad_starts(problem)
    with torch.no_grad():
        first = _states(system.without(bad), _at_rest(problem, bad))
        finite = torch.isfinite(first).all(1) & ~bad
        reached = finite.long().cumprod(0).sum(0) - 1
        failed = reached < problem.records - 1
    states = torch.where(failed, first, _states(system.without(failed), _at_rest(problem, failed)))
    status = torch.where(failed, int(Status.NONFINITE), int(Status.OK))
    status = torch.where(bad, int(Status.INVALID_START), status)
    return _solution(problem, mask_states(states, reached), status, reached.clamp(min=0))


def _solution(problem: Problem, states: Tensor, status: Tensor, reached: Tensor | None = None) -> Solution:
    none = torch.zeros_like(status)
    reached = torch.full_like(status, problem.records - 1) if reached is None else reached
    statistics = Statistics(accepted=none, rejected=none, evaluations=none, switches=none)
    return Solution(states=states, status=status, reached=reached, statistics=statistics)


def _states(system: Linear, problem: Problem) -> Tensor:
    elapsed = problem.times[1:] - problem.times[:-1]
    batch = problem.initial.shape
    shape = (batch[0], batch[0], elapsed.shape[0], *batch[1:])
    matrices = system.exponential(elapsed).expand(shape)
    inputs = None
    if problem.rates is not None:
        rates = problem.rates[:-1].movedim(0, 1)
        inputs = (system.integral(elapsed).expand(shape) * rates).sum(1).movedim(1, 0)
    if problem.resets is not None:
        resets = problem.resets[1:]
        matrices = torch.where(resets, 0.0, matrices)
        start = torch.where(resets[:, None], problem.initial, 0.0)
        inputs = start if inputs is None else torch.where(resets[:, None], problem.initial, inputs)
    if problem.amounts is not None:
        inputs = problem.amounts[1:] if inputs is None else inputs + problem.amounts[1:]
        initial = problem.initial + problem.amounts[0]
    else:
        initial = problem.initial
    if inputs is None:
        inputs = torch.zeros_like(initial).expand(elapsed.shape[0], *batch)
    return recurrence(matrices, torch.cat([initial[None], inputs]))


def _all_finite(value: Tensor) -> bool:
    """Whether all entries are finite, in one pass; a sum that overflows says no, which only costs time."""
    return math.isfinite(float(value.detach().sum()))


def _bad_rates(system: Linear, problem: Problem) -> Tensor | None:
    """(*batch) True where a subject has a rate that is not finite; None if nobody has."""
    with torch.no_grad():
        matrix = system.matrix()
        if _all_finite(matrix):
            return None
        bad = ~torch.isfinite(matrix).all(0).all(0).expand(problem.batch)
        return bad if bool(bad.any()) else None


def _bad_starts(problem: Problem) -> Tensor:
    """(*batch) True where a subject has an initial state, a time or an event that is not finite."""
    with torch.no_grad():
        good = torch.isfinite(problem.initial).all(0) & torch.isfinite(problem.times).all(0)
        for value in (problem.amounts, problem.rates):
            if value is not None:
                good = good & torch.isfinite(value).all(0).all(0)
    return ~good


def _at_rest(problem: Problem, failed: Tensor) -> Problem:
    return replace(
        problem,
        initial=torch.where(failed, 0.0, problem.initial),
        times=torch.where(failed, 0.0, problem.times),
        amounts=None if problem.amounts is None else torch.where(failed, 0.0, problem.amounts),
        rates=None if problem.rates is None else torch.where(failed, 0.0, problem.rates),
    )


def _check_states(system: Linear, problem: Problem) -> None:
    if len(system.states) != problem.initial.shape[0]:
        raise SolveError(
            f"`initial` has {problem.initial.shape[0]} states, {type(system).__name__} has {len(system.states)}: "
            f"{', '.join(system.states)}"
        )
    batch = system.batch()
    try:
        fits = common_shape(batch, problem.batch) == problem.batch
    except RuntimeError:
        fits = False
    if not fits:
        raise SolveError(
            f"the parameters of {type(system).__name__} have shape {tuple(batch)}, which does not broadcast to the "
            f"batch {tuple(problem.batch)} of `initial`"
        )


def _no_field(t: Tensor, y: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
    raise NotImplementedError
