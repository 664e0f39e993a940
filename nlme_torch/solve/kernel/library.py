"""Calling compiled kernels: tensors to C structures and back."""

import ctypes
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_LONG, _DOUBLE, _POINTER = ctypes.c_long, ctypes.c_double, ctypes.c_void_p


class _Problem(ctypes.Structure):
    _fields_ = [
        ("subjects", _LONG), ("stops", _LONG), ("times", _POINTER), ("initial", _POINTER), ("amounts",
        _POINTER),
        ("rates", _POINTER), ("resets", _POINTER), ("last", _POINTER), ("own", _POINTER), ("shared",
        _POINTER),
        ("rtol", _DOUBLE), ("atol", _DOUBLE), ("to_scale", _LONG), ("max_steps", _LONG), ("threads", _LONG),
        ("rows", _LONG), ("offset", _LONG),
    ]  # fmt: skip


class _Counts(ctypes.Structure):
    _fields_ = [(name, _POINTER) for name in ("status", "stop", "accepted", "rejected", "evaluations", "switches")]


class _Gradients(ctypes.Structure):
    _fields_ = [(name, _POINTER) for name in ("arrivals", "initial", "own", "shared", "amounts", "rates", "times")]


@dataclass(frozen=True)
class Inputs:
    """Flat float64 tensors of a problem, subject last and contiguous.

    Attributes:
        initial: (state, subject).
        times: (stop, subject).
        last: (subject) int64.
        own: (parameter, subject).
        shared: (parameter).
        amounts: (stop, state, subject) or None.
        rates: (stop, state, subject) or None.
        resets: (stop, subject) bool or None.
    """

    initial: Tensor
    times: Tensor
    last: Tensor
    own: Tensor
    shared: Tensor
    amounts: Tensor | None
    rates: Tensor | None
    resets: Tensor | None


@dataclass(frozen=True)
class Limits:
    """Tolerances, the limit of steps and the number of threads; whether ``atol`` adapts to small states."""

    rtol: float
    atol: float
    max_steps: int
    threads: int
    to_scale: bool = False


class Tape:
    """The accepted steps of a walk, owned by the library that took them."""

    def __init__(self, handle: int, library: ctypes.CDLL) -> None:
        self.handle, self._library = handle, library

    def __del__(self) -> None:
        self._library.release(ctypes.c_void_p(self.handle))


class Outcome(NamedTuple):
    """What a walk returns besides its states; all (subject) int64."""

    status: Tensor
    stop: Tensor
    accepted: Tensor
    rejected: Tensor
    evaluations: Tensor
    switches: Tensor


def walk(library: ctypes.CDLL, inputs: Inputs, limits: Limits, record: bool) -> tuple[Tensor, Outcome, Tape | None]:
    """Walk all subjects.

    Args:
        library: a compiled driver.
        inputs: the problem.
        limits: tolerances.
        record: whether to keep the steps.

    Returns:
        (stop, state, subject) arrivals (NaN where not reached), the outcome, and the tape if recorded.
    """
    problem, _alive = _problem(inputs, limits)
    arrivals = torch.full((inputs.times.shape[0], *inputs.initial.shape), torch.nan, dtype=torch.float64)
    outcome = Outcome(*torch.zeros(6, inputs.initial.shape[1], dtype=torch.int64).unbind(0))
    counts = _Counts(*(count.data_ptr() for count in outcome))
    library.walk.restype = _POINTER
    handle = library.walk(ctypes.byref(problem), _address(arrivals), ctypes.byref(counts), int(record))
    return arrivals, outcome, Tape(handle, library) if record else None


def transpose(
    library: ctypes.CDLL,
    inputs: Inputs,
    limits: Limits,
    tape: Tape,
    status: Tensor,
    cotangent: Tensor,
    with_times: bool,
    chosen: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """The transposed derivative of the arrivals, at fixed steps.

    Args:
        library: a compiled driver with the transposed field.
        inputs: the problem.
        limits: for the number of threads.
        tape: steps of the walk.
        status: (subject).
        cotangent: (stop, state, subject).
        with_times: whether to differentiate the times too.
        chosen: (chosen) positions of the subjects to take, or None for all; the others' gradients are 0.

    Returns:
        Gradients of initial, times (or None), own, shared, amounts (or None), rates (or None).
    """
    problem, _alive = _problem(inputs, limits)
    subjects = inputs.initial.shape[1]
    cotangent = cotangent.contiguous()
    initial, own = torch.zeros_like(inputs.initial), torch.zeros_like(inputs.own)
    shared = torch.zeros((subjects + 3) // 4, inputs.shared.shape[0], dtype=torch.float64)
    amounts = None if inputs.amounts is None else torch.zeros_like(inputs.amounts)
    rates = None if inputs.rates is None else torch.zeros_like(inputs.rates)
    times = torch.zeros_like(inputs.times) if with_times else None
    places = (cotangent, initial, own, shared, amounts, rates, times)
    gradients = _Gradients(*(None if place is None else place.data_ptr() for place in places))
    library.replay(
        ctypes.byref(problem), ctypes.c_void_p(tape.handle), _address(status), ctypes.byref(gradients), None,
        *_choice(chosen),
    )  # fmt: skip
    return initial, times, own, shared.sum(0), amounts, rates


def replay(
    library: ctypes.CDLL, inputs: Inputs, limits: Limits, tape: Tape, status: Tensor, chosen: Tensor | None = None
) -> Tensor:
    """The arrivals (stop, state, subject) by the steps of an earlier walk, perhaps of another field.

    Only those of the subjects ``chosen``, if given; the others are NaN.
    """
    problem, _alive = _problem(inputs, limits)
    arrivals = torch.full((inputs.times.shape[0], *inputs.initial.shape), torch.nan, dtype=torch.float64)
    library.replay(
        ctypes.byref(problem), ctypes.c_void_p(tape.handle), _address(status), None, _address(arrivals),
        *_choice(chosen),
    )  # fmt: skip
    return arrivals


def slopes(library: ctypes.CDLL, inputs: Inputs, limits: Limits) -> Tensor:
    """The vector field (state, subject) at the initial state."""
    problem, _alive = _problem(inputs, limits)
    out = torch.empty_like(inputs.initial)
    library.slopes(ctypes.byref(problem), _address(out))
    return out


def _problem(inputs: Inputs, limits: Limits) -> tuple[_Problem, list[Tensor]]:
    """The C structure, and the tensors that it points into."""
    order = ("times", "initial", "amounts", "rates", "resets", "last", "own", "shared")
    tensors = [getattr(inputs, name) for name in order]
    alive = [None if tensor is None else tensor.contiguous() for tensor in tensors]
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in alive]
    sizes = inputs.initial.shape[1], inputs.times.shape[0]
    numbers = limits.rtol, limits.atol, int(limits.to_scale), limits.max_steps, limits.threads
    problem = _Problem(*sizes, *pointers, *numbers, inputs.initial.shape[1], 0)
    return problem, [tensor for tensor in alive if tensor is not None]


def _choice(chosen: Tensor | None) -> tuple[ctypes.c_void_p, ctypes.c_long]:
    return (ctypes.c_void_p(None), _LONG(0)) if chosen is None else (_address(chosen), _LONG(len(chosen)))


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
