"""Very large batches in pieces that fit into memory, by tensor operations; compiled code needs no pieces."""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nlme_torch.errors import SolveError
from nlme_torch.solve.kernel.layout import layouts
from nlme_torch.solve.problem.problem import Problem
from nlme_torch.solve.problem.solution import Solution, Statistics
from nlme_torch.solve.stepping.discrete_adjoint import inputs_of, is_differentiated, is_transformed

_log = logging.getLogger(__name__)
_NEVER_SPLIT = 2048
"""Columns below which any memory suffices and a split would only cost launches."""
_PILOT = 64
"""Columns by which the memory of one is measured: enough for what each call costs anyway to matter little."""

MaxBatch = int | Literal["auto"]


def check_max_batch(max_batch: MaxBatch) -> None:
    """Refuse a limit that is neither "auto" nor a positive number."""
    if max_batch != "auto" and not (isinstance(max_batch, int) and max_batch > 0):
        raise SolveError(f'max_batch must be "auto" or a positive number of columns, got {max_batch!r}')


def in_pieces(problem: Problem, max_batch: MaxBatch, integrate: Callable[[Problem], Solution]) -> Solution:
    """Solve piece after piece along the longest batch axis, as many columns at a time as memory allows.

    With gradients, a piece keeps only its inputs and is solved again when its gradient is asked for, so that the
    memory of one piece is needed at a time.

    Args:
        problem: what to solve.
        max_batch: columns (chains times starts times subjects) in a piece; "auto" takes what a quarter of the
            device's free memory can hold, measured on 64 columns.
        integrate: solves a piece; the columns must not depend on each other.

    Returns:
        The solution of the whole batch. It is solved whole under torch.func transforms and where the parameters'
        axes cannot be told from the batch's.
    """
    columns = problem.batch.numel()
    few = columns <= (_NEVER_SPLIT if max_batch == "auto" else max_batch)
    if few or is_transformed():
        return integrate(problem)
    axis = max(range(len(problem.batch)), key=lambda place: problem.batch[place])
    cut = _find_cut(problem, axis)
    if cut is None:
        _log.warning("a batch of %d columns cannot be split: its parameters do not align with it", columns)
        return integrate(problem)
    limit = _affordable(problem, axis, cut, integrate) if max_batch == "auto" else max_batch
    length = max(1, limit * problem.batch[axis] // columns)
    if length >= problem.batch[axis]:
        return integrate(problem)
    starts = range(0, problem.batch[axis], length)
    return _join([_solve_piece(cut(slice(start, start + length)), integrate) for start in starts], axis)


Cut = Callable[[slice], Problem]


def _find_cut(problem: Problem, axis: int) -> Cut | None:
    """How to take some columns of a problem; None where a slice of the parameters does not give the same slopes."""
    back = axis - len(problem.batch)

    def take(value: Tensor, part: slice) -> Tensor:
        if value.shape[back] == 1:
            return value
        return value.narrow(back, part.start, min(part.stop, value.shape[back]) - part.start)

    def take_any(value: Tensor | None, part: slice) -> Tensor | None:
        return None if value is None else take(value, part)

    for layout in layouts(problem.initial.shape[0], problem.batch, problem.parameters):

        def cut(part: slice, own: tuple[bool, ...] = layout.own) -> Problem:
            parameters = (take(p, part) if mine else p for p, mine in zip(problem.parameters, own, strict=True))
            return replace(
                problem,
                initial=take(problem.initial, part),
                times=take(problem.times, part),
                parameters=tuple(parameters),
                amounts=take_any(problem.amounts, part),
                rates=take_any(problem.rates, part),
                resets=take_any(problem.resets, part),
            )

        with torch.no_grad():
            part = slice(1, min(1 + _PILOT, problem.batch[axis]))
            whole, few = problem, cut(part)
            try:
                expected = take(whole.vector_field(whole.times[0], whole.initial, whole.parameters), part)
                found = few.vector_field(few.times[0], few.initial, few.parameters)
            except RuntimeError:
                continue
            if found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-9, equal_nan=True):
                return cut
    return None


def _affordable(problem: Problem, axis: int, cut: Cut, integrate: Callable[[Problem], Solution]) -> int:
    """Number of columns whose solve fits into a quarter of the free memory."""
    pilot = cut(slice(0, min(_PILOT, problem.batch[axis])))
    columns = pilot.batch.numel()
    held: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return value

    element = problem.initial.element_size()
    needed = columns * element * problem.initial.shape[0] * (4 * problem.records + 100)
    if is_differentiated(problem):
        with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            solution = integrate(pilot)
        needed += sum(held.values())
        del solution
    return max(1, int(_free_bytes(problem.initial.device) / 4 / (needed / columns)))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**32


def _solve_piece(piece: Problem, integrate: Callable[[Problem], Solution]) -> Solution:
    if not is_differentiated(piece):
        return integrate(piece)
    rest: list[Solution] = []
    tensors = inputs_of(piece)

    def states(*values: Tensor) -> Tensor:
        count = len(piece.parameters)
        events = iter(values[2 + count :])
        solution = integrate(
            replace(
                piece,
                initial=values[0],
                times=values[1],
                parameters=values[2 : 2 + count],
                amounts=None if piece.amounts is None else next(events),
                rates=None if piece.rates is None else next(events),
            )
        )
        if not rest:  # not when it is solved again
            rest.append(replace(solution, states=solution.states.detach()))
        return solution.states

    found = checkpoint(states, *tensors, use_reentrant=False, preserve_rng_state=False)
    return replace(rest[0], states=found)


def _join(pieces: list[Solution], axis: int) -> Solution:
    def together(name: str) -> Tensor:
        return torch.cat([getattr(piece.statistics, name) for piece in pieces], axis)

    return Solution(
        states=torch.cat([piece.states for piece in pieces], 2 + axis),
        status=torch.cat([piece.status for piece in pieces], axis),
        reached=torch.cat([piece.reached for piece in pieces], axis),
        statistics=Statistics(*(together(name) for name in ("accepted", "rejected", "evaluations", "switches"))),
    )
