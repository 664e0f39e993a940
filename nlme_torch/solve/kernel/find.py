"""Finding the kernel of a vector field: what the field does now decides, not which object it is."""

import logging
import threading
import weakref
from typing import Any

import torch

from nlme_torch._typing import VectorField
from nlme_torch.solve.kernel.build import BuildError, compiler
from nlme_torch.solve.kernel.check import agrees
from nlme_torch.solve.kernel.field import field_program
from nlme_torch.solve.kernel.kernel import Kernel
from nlme_torch.solve.kernel.layout import Layout, layouts
from nlme_torch.solve.kernel.reading import NotScalarError, read
from nlme_torch.solve.problem.problem import Problem, check_derivative
from nlme_torch.solve.tableau import Method

_log = logging.getLogger(__name__)
_kernels: dict[Any, Kernel | None] = {}
_making = threading.Lock()
_told: "weakref.WeakKeyDictionary[Any, str]" = weakref.WeakKeyDictionary()


def find_kernel(problem: Problem, method: Method, differentiated: bool = False) -> Kernel | None:
    """The kernel of a problem's vector field; None where there cannot be one.

    The field is read in every call (see :mod:`nlme_torch.solve.kernel.reading`), so that a kernel never outlives what
    it was compiled from, whatever Python state the field depends on. A field with an attribute ``kernels``, a
    dictionary, promises to do the same as long as it lives and is read once.

    A kernel that is new is compared with the field, so that a field whose subjects are coupled, or that cannot be
    read, is never compiled wrongly.

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
    candidates = layouts(problem.initial.shape[0], problem.batch, problem.parameters)
    key = (method, problem.batch.numel() > 1, problem.passengers, candidates[0])
    kept: dict[Any, Kernel | None] = getattr(field, "kernels", {})
    if key not in kept:
        kept[key] = _recognised(field, candidates, key, problem, method)
    kernel = kept[key]
    return None if kernel is None or (differentiated and not kernel.has_gradient) else kernel


def _recognised(
    field: VectorField, candidates: list[Layout], key: tuple[Any, ...], problem: Problem, method: Method
) -> Kernel | None:
    """The kernel of what the field does, made if it is new."""
    try:
        known = (read(field, candidates[0]), key)
    except NotScalarError as error:
        with torch.no_grad():  # a field that is simply wrong says so itself
            check_derivative(field(problem.times[0], problem.initial, problem.parameters), problem.initial)
        _tell(field, str(error))
        return None
    with _making:
        if known not in _kernels:
            _kernels[known] = _make(field, candidates, problem, method)
        return _kernels[known]


def _make(field: VectorField, candidates: list[Layout], problem: Problem, method: Method) -> Kernel | None:
    reason = "its subjects seem to depend on each other"
    with torch.no_grad():
        check_derivative(field(problem.times[0], problem.initial, problem.parameters), problem.initial)
    for layout in candidates:
        try:
            kernel = Kernel(field_program(field, layout, problem.passengers), layout, method)
            if agrees(kernel, problem):
                return kernel
        except NotScalarError as error:
            reason = str(error)
        except BuildError as error:  # the other reading of the parameters would fail as well
            reason = str(error)
            break
    _tell(field, reason)
    return None


def _tell(field: VectorField, reason: str) -> None:
    """Log once why a field is not compiled."""
    try:
        if _told.get(field) == reason:
            return
        _told[field] = reason
    except TypeError:
        pass
    _log.warning("no compiled kernel for %s, slower tensor operations instead: %s", field, reason)
