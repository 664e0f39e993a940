"""Fixed steps on a GPU as one recorded graph: thousands of small launches become one."""

import logging
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nlme_torch.solve.problem.problem import Problem
from nlme_torch.solve.stepping.discrete_adjoint import inputs_of, is_differentiated

_log = logging.getLogger(__name__)

Run = Callable[[Problem], Tensor]


class RecordedRun:
    """One run recorded on the device, to be played with other numbers of the same shapes.

    Args:
        run: from a problem to its states, without looking at any value on the host.
        problem: an example.

    References:
        Nguyen, Carilli, Eryilmaz et al. (2021), Accelerating PyTorch with CUDA graphs, pytorch.org/blog.
    """

    def __init__(self, run: Run, problem: Problem) -> None:
        self._inputs = tuple(value.clone() for value in _everything(problem))
        posed = _with(problem, self._inputs)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # what is allocated or compiled at a first call must not be recorded
            run(posed)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._states = run(posed)

    def __call__(self, problem: Problem) -> Tensor:
        """Play it with a problem's numbers."""
        for place, value in zip(self._inputs, _everything(problem), strict=True):
            place.copy_(value)
        self._graph.replay()
        return self._states.clone()


_recorded: "weakref.WeakKeyDictionary[Any, dict[Any, Run | None]]" = weakref.WeakKeyDictionary()


def by_graph(run: Run, key: object, problem: Problem) -> Tensor:
    """Run, from the second call with the same shapes on by a recorded graph, where a GPU and no gradient is asked for.

    Args:
        run: from a problem to its states.
        key: what else the run depends on.
        problem: what to run.

    Returns:
        What the run returns.
    """
    if not problem.initial.is_cuda or is_differentiated(problem):
        return run(problem)
    field = problem.vector_field
    owner = getattr(field, "__self__", field)
    shapes = tuple((value.shape, value.dtype, value.device) for value in _everything(problem))
    whole = (key, getattr(field, "__func__", None), shapes)
    try:
        known = _recorded.setdefault(owner, {})
    except TypeError:
        return run(problem)
    if whole not in known:
        known[whole] = None  # a shape that is met once is not worth recording
        return run(problem)
    if known[whole] is None:
        try:
            known[whole] = RecordedRun(run, problem)
        except RuntimeError as error:
            _log.warning("these steps cannot be recorded as a CUDA graph, launching them one by one: %s", error)
            known[whole] = run
            return run(problem)
    recorded = known[whole]
    assert recorded is not None
    return recorded(problem)


def _everything(problem: Problem) -> tuple[Tensor, ...]:
    resets = () if problem.resets is None else (problem.resets,)
    return (*inputs_of(problem), *resets)


def _with(problem: Problem, values: tuple[Tensor, ...]) -> Problem:
    """The problem with other tensors, in the order of ``_everything``."""
    initial, times, *rest = values
    count = len(problem.parameters)
    parameters, events = tuple(rest[:count]), iter(rest[count:])
    return replace(
        problem,
        initial=initial,
        times=times,
        parameters=parameters,
        amounts=None if problem.amounts is None else next(events),
        rates=None if problem.rates is None else next(events),
        resets=None if problem.resets is None else next(events),
    )
