"""The compiled form of one vector field: found, checked against the field itself, and kept."""

import ctypes
import functools
import logging
import weakref
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nlme_torch._typing import VectorField
from nlme_torch.solve.kernel.build import build, compiler
from nlme_torch.solve.kernel.derivatives import NoDerivativeError
from nlme_torch.solve.kernel.emit import reverse_source, walk_source
from nlme_torch.solve.kernel.field import FieldProgram, field_program
from nlme_torch.solve.kernel.layout import Layout, layouts
from nlme_torch.solve.kernel.library import Inputs, Limits, slopes
from nlme_torch.solve.kernel.scalarise import NotScalarError
from nlme_torch.solve.problem import Problem, check_derivative
from nlme_torch.solve.tableau import Method

WORTH_HOLDING = 100  # scalars; below, a kernel of its own costs more time to compile than it saves
_log = logging.getLogger(__name__)


class Kernel:
    """Compiled drivers for one vector field and one method.

    Args:
        field: the vector field as a program.
        layout: shapes of states and parameters.
        method: what to step with.
    """

    def __init__(self, field: FieldProgram, layout: Layout, method: Method) -> None:
        self.field, self.layout, self.method = field, layout, method
        self._differentiating: dict[tuple[bool, ...], Kernel] = {}

    @functools.cached_property
    def forwards(self) -> ctypes.CDLL:
        """Driver of the adaptive walk."""
        return build(walk_source(self.field, self.method))

    @functools.cached_property
    def backwards(self) -> ctypes.CDLL:
        """Driver of the replay and its transpose."""
        return build(reverse_source(self.field, self.method))

    @functools.cached_property
    def has_gradient(self) -> bool:
        """Whether the field's first and second derivatives can be written out too."""
        try:
            reverse_source(self.field, self.method)
            reverse_source(self.tangent.field, self.method)
        except (NoDerivativeError, NotScalarError) as error:
            _log.warning("no compiled gradient, slower tensor operations instead: %s", error)
            return False
        return True

    @functools.cached_property
    def tangent(self) -> "Kernel":
        """The kernel of the same field with a direction: states, then their derivatives along it."""
        return Kernel(self.field.tangent(), self.layout, self.method)

    def differentiating(self, parameters: tuple[Tensor, ...]) -> "Kernel":
        """The kernel whose derivatives leave out parameters without a gradient.

        While only the inputs of a network move, the derivatives in its weights are most of the work.

        Args:
            parameters: the problem's parameters.

        Returns:
            A kernel of the same field; this one where there is little to leave out.
        """
        still = tuple(not value.requires_grad for value in parameters)
        if still not in self._differentiating:
            held = self.layout.places(still)
            other = Kernel(replace(self.field, held=held), self.layout, self.method)
            self._differentiating[still] = self if len(held) < WORTH_HOLDING else other
        return self._differentiating[still]


_kernels: "weakref.WeakKeyDictionary[Any, dict[Any, Kernel | None]]" = weakref.WeakKeyDictionary()


def find_kernel(problem: Problem, method: Method, differentiated: bool = False) -> Kernel | None:
    """The kernel of a problem's vector field, compiled at the first call; None where there cannot be one.

    The first call (and the first with more than one subject) compares the kernel's slopes with the field's
    own at perturbed states, so that a field whose subjects are coupled, or that cannot be read, is never
    compiled wrongly.

    Args:
        problem: the problem.
        method: what to step with.
        differentiated: whether gradients will be asked for.

    Returns:
        A kernel, or None without a compiler, off the CPU, or for a field that cannot be written out in
        scalars.
    """
    if compiler() is None or problem.initial.device.type != "cpu":
        return None
    field = problem.vector_field
    owner, part = getattr(field, "__self__", field), getattr(field, "__func__", None)
    candidates = layouts(problem.initial.shape[0], problem.batch, problem.parameters)
    several = problem.batch.numel() > 1
    key = (part, method, several, candidates[0], problem.passengers)
    try:
        known = _kernels.setdefault(owner, {})
    except TypeError:
        return None
    if key not in known:
        known[key] = _make(field, candidates, problem, method)
    kernel = known[key]
    return None if kernel is None or (differentiated and not kernel.has_gradient) else kernel


def _make(field: VectorField, candidates: list[Layout], problem: Problem, method: Method) -> Kernel | None:
    reason = "its subjects seem to depend on each other"
    with torch.no_grad():
        check_derivative(field(problem.times[0], problem.initial, problem.parameters), problem.initial)
    for layout in candidates:
        try:
            kernel = Kernel(replace(field_program(field, layout), passengers=problem.passengers), layout, method)
            if _agrees(kernel, problem):
                return kernel
        except (NotScalarError, OSError) as error:
            reason = str(error)
    _log.warning("no compiled kernel for %s, slower tensor operations instead: %s", field, reason)
    return None


def _agrees(kernel: Kernel, problem: Problem) -> bool:
    """Whether the kernel's slopes are the field's, at the initial state and off it."""
    with torch.no_grad():
        count = problem.batch.numel()
        exact = problem.initial.double()
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(exact.shape, generator=generator, dtype=torch.float64)
        own, shared = kernel.layout.pack(problem.parameters, problem.batch, exact)
        double = tuple(p.double() if p.is_floating_point() else p for p in problem.parameters)
        time = problem.times[0].double()
        states = (exact, exact * (0.5 + noise) + 0.1 * noise)
        slopes_there = [
            check_derivative(problem.vector_field(time, state, double), state).reshape(-1, count) for state in states
        ]
        # where slopes cancel (a steady state) their rounding error has the size of what they are elsewhere
        scale = 1e-3 + torch.stack(slopes_there).nan_to_num(0.0, 0.0, 0.0).abs().amax(0)
        for state, expected in zip(states, slopes_there, strict=True):
            inputs = Inputs(
                initial=state.reshape(-1, count).contiguous(), times=time.reshape(1, count).contiguous(),
                last=torch.zeros(count, dtype=torch.int64), own=own, shared=shared, amounts=None, rates=None,
                resets=None,
            )  # fmt: skip
            ours = slopes(kernel.forwards, inputs, Limits(1.0, 1.0, 1, 1))
            finite = torch.isfinite(expected)
            error = torch.where(finite, (ours - expected).abs() / scale, 0.0)
            if not (error.max() < 1e-9 and torch.equal(torch.isfinite(ours), finite)):
                return False
    return True
