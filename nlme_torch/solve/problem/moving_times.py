"""Record times that carry gradients, written as states, so that a compiled solve can differentiate them twice.

Between records r and r + 1 the independent variable s runs from the value of t_r to that of t_{r+1}, and the true time
moves with it at the pace dt/ds = (t_{r+1} - t_r) / (their values), which is 1 but has a derivative:

    dy/ds = pace (f(t, y, p) + rate),   dt/ds = pace,   d pace/ds = 0,   pace jumps at records.
"""

import weakref
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nlme_torch._typing import VectorField
from nlme_torch.solve.problem.problem import Problem
from nlme_torch.solve.problem.solution import Solution

ADDED = 2
"""States: the time itself and the pace at which it runs."""


class PacedField:
    """The vector field of states, time and pace.

    Args:
        field: The vector field of the states.
    """

    def __init__(self, field: VectorField) -> None:
        self._field = weakref.ref(field)
        if hasattr(field, "kernels"):
            self.kernels: dict[Any, Any] = {}

    def __call__(self, s: Tensor, y: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Evaluate the derivative, ``(state + 2, *batch)``."""
        field = self._field()
        assert field is not None
        time, pace = y[-2], y[-1]
        slope = field(time, y[:-ADDED], parameters)
        return torch.cat([slope * pace, torch.stack([pace, torch.zeros_like(pace)])])


_paced: "weakref.WeakKeyDictionary[VectorField, PacedField]" = weakref.WeakKeyDictionary()


def hold_times(problem: Problem) -> Problem:
    """Pose the same problem with times that carry no gradient.

    Args:
        problem: The problem, with a vector field that can be referred to weakly.

    Returns:
        A problem with two more states; :func:`drop_times` takes them away again.
    """
    if problem.vector_field not in _paced:
        _paced[problem.vector_field] = PacedField(problem.vector_field)
    problem = replace(problem, times=_of_last_tie(problem.times))
    times = problem.times.detach()
    length = times[1:] - times[:-1]
    moving = length > 0
    pace = torch.where(moving, (problem.times[1:] - problem.times[:-1]) / torch.where(moving, length, 1.0), 1.0)
    pace = torch.cat([pace, torch.ones_like(times[:1])])
    still = torch.zeros_like(times)
    jump = torch.cat([torch.zeros_like(times[:1]), pace[1:] - pace[:-1]])
    if problem.resets is not None:
        # a reset restores time and pace of the first record
        jump = torch.where(problem.resets, pace - pace[:1], jump)
        still = torch.where(problem.resets, problem.times - problem.times[:1], still)
        still = torch.cat([torch.zeros_like(still[:1]), still[1:]])
        jump = torch.cat([torch.zeros_like(jump[:1]), jump[1:]])
    amounts = problem.amounts
    if amounts is None:
        amounts = problem.initial.new_zeros(problem.records, *problem.initial.shape)
    rates = problem.rates
    if rates is not None:
        rates = torch.cat([rates * pace[:, None], torch.zeros_like(rates[:, :1]).expand(-1, ADDED, *problem.batch)], 1)
    return replace(
        problem,
        vector_field=_paced[problem.vector_field],
        initial=torch.cat([problem.initial, problem.times[:1], pace[:1]]),
        times=times,
        amounts=torch.cat([amounts, torch.stack([still, jump], 1)], 1),
        rates=rates,
        passengers=problem.passengers + ADDED,
    )


def _of_last_tie(times: Tensor) -> Tensor:
    """Records at one time move together, with the last of them: the derivative that plain operations give."""
    if bool((times[1:] > times[:-1]).all()):
        return times
    records = list(times.unbind(0))
    for record in reversed(range(len(records) - 1)):
        tied = records[record].detach() == records[record + 1].detach()
        records[record] = torch.where(tied, records[record + 1], records[record])
    return torch.stack(records)


def drop_times(solution: Solution) -> Solution:
    """The solution without time and pace."""
    return replace(solution, states=solution.states[:, :-ADDED])
