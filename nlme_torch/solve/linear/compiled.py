"""Elementwise functions of records and subjects, compiled together with all their derivatives.

A closed form is dozens of elementary operations on small numbers of elements; as tensor operations most of the time
is their launching and the traffic of intermediate results. Here the function is written out in scalars once
(see :mod:`nlme_torch.solve.kernel`), differentiated symbolically, and run in one pass; its transpose is again such a
function, so that derivatives of any order are compiled too. Forward mode and torch.func take the tensor operations.
"""

import copy
import ctypes
import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from nlme_torch.solve.kernel.build import BuildError, build, compiler
from nlme_torch.solve.kernel.derivatives import NoDerivativeError, adjoints
from nlme_torch.solve.kernel.emit import forward_source
from nlme_torch.solve.kernel.field import FieldProgram
from nlme_torch.solve.kernel.program import Program
from nlme_torch.solve.kernel.reading import NotScalarError
from nlme_torch.solve.kernel.scalarise import scalarise
from nlme_torch.solve.linear.numbers import common_shape
from nlme_torch.solve.stepping.discrete_adjoint import is_transformed

_log = logging.getLogger(__name__)

ClosedForm: TypeAlias = Callable[..., Tensor]

# Below this many elements plain operations are as quick, and nothing need be compiled.
_SMALLEST = 50
# Each derivative is about three times as long; beyond this the third one would be too long to compile.
_LARGEST = 2_000

_DRIVER = r"""
#define OWN 0
#include "lanes.h"
constexpr long RECORD_IN = {record_in}, OWN_IN = {own_in}, RECORD_OUT = {record_out}, OWN_OUT = {own_out};
{field}
static inline V load(const double *from, long width) {{
  V v; if (width == W) {{ std::memcpy(&v, from, sizeof v); return v; }}
  LANES v[l] = from[l < width ? l : width - 1]; return v;
}}
static inline void store(double *to, V v, long width) {{ std::memcpy(to, &v, width * sizeof(double)); }}
extern "C" void run(long records, long subjects, const double *record_in, const double *own_in, double *record_out,
                    double *own_out) {{
  FlushSubnormals flush;
  const long plane = records * subjects;
  for (long s = 0; s < subjects; s += W) {{
    const long width = subjects - s < W ? subjects - s : W;
    V p[OWN_IN + 1], y[RECORD_IN + 1], out[RECORD_OUT + OWN_OUT + 1], total[OWN_OUT + 1] = {{}};
    for (long i = 0; i < OWN_IN; ++i) p[i] = load(own_in + i * subjects + s, width);
    for (long r = 0; r < records; ++r) {{
      const long place = r * subjects + s;
      for (long i = 0; i < RECORD_IN; ++i) y[i] = load(record_in + i * plane + place, width);
      field(V{{}}, y, p, out);
      for (long i = 0; i < RECORD_OUT; ++i) store(record_out + i * plane + place, out[i], width);
      for (long i = 0; i < OWN_OUT; ++i) total[i] += out[RECORD_OUT + i];
    }}
    for (long i = 0; i < OWN_OUT; ++i) store(own_out + i * subjects + s, total[i], width);
  }}
}}
"""


@dataclass(frozen=True, eq=False)
class Elementwise:
    """A function of record-wise and own (per-subject) inputs, with record-wise outputs and sums over records.

    Attributes:
        program: the instructions; inputs are "y" (record-wise) and "own".
        record_inputs: number of record-wise inputs.
        own_inputs: number of inputs that a subject has one value of.
        record_outputs: operands, one value per record.
        own_outputs: operands whose sum over a subject's records is returned.
        failures: what a compiler said that failed, on this function or on a derivative of it; shared among them.
    """

    program: Program
    record_inputs: int
    own_inputs: int
    record_outputs: tuple[object, ...]
    own_outputs: tuple[object, ...] = ()
    failures: list[str] = field(default_factory=list)

    @functools.cached_property
    def library(self) -> ctypes.CDLL:
        """The compiled function."""
        program = FieldProgram(self.program, (*self.record_outputs, *self.own_outputs), self.own_inputs, 0)
        text = _DRIVER.format(
            record_in=self.record_inputs, own_in=self.own_inputs, record_out=len(self.record_outputs),
            own_out=len(self.own_outputs), field=forward_source(program),
        )  # fmt: skip
        try:
            return build(text)
        except BuildError as error:
            if not self.failures:
                _log.warning("no compiled closed form from now on, slower tensor operations instead: %s", error)
            self.failures.append(str(error))
            raise

    @functools.cached_property
    def transposed(self) -> "Elementwise":
        """The cotangents of the inputs; inputs: those of this function, then the cotangents of its outputs."""
        program = copy.deepcopy(self.program)
        bars = [program.input("y", self.record_inputs + i) for i in range(len(self.record_outputs))]
        bars += [program.input("own", self.own_inputs + i) for i in range(len(self.own_outputs))]
        found = adjoints(program, (*self.record_outputs, *self.own_outputs), bars)
        places = program.inputs()
        record = [found.get(places.get(("y", i), -1), 0.0) for i in range(self.record_inputs)]
        own = [found.get(places.get(("own", i), -1), 0.0) for i in range(self.own_inputs)]
        inputs = (self.record_inputs + len(self.record_outputs), self.own_inputs + len(self.own_outputs))
        return Elementwise(program, *inputs, tuple(record), tuple(own), self.failures)

    def __call__(self, record: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate.

        Args:
            record: (input, record, subject).
            own: (input, subject).

        Returns:
            (output, record, subject) and (output, subject).
        """
        return _Evaluation.apply(self, record, own)


class _Evaluation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Elementwise, record: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        ctx.function = function
        ctx.save_for_backward(record, own)
        record, own = record.detach().contiguous(), own.detach().contiguous()
        records, subjects = record.shape[1:]
        out = torch.empty(len(function.record_outputs), records, subjects, dtype=torch.float64)
        total = torch.empty(len(function.own_outputs), subjects, dtype=torch.float64)
        places = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (record, own, out, total))
        function.library.run(ctypes.c_long(records), ctypes.c_long(subjects), *places)
        return out, total

    @staticmethod
    def backward(ctx: Any, *bars: Tensor) -> Any:
        record, own = ctx.saved_tensors
        return None, *ctx.function.transposed(torch.cat([record, bars[0]]), torch.cat([own, bars[1]]))


def evaluate(function: ClosedForm, elapsed: Tensor, parameters: Sequence[Tensor], axes: int) -> Tensor:
    """Evaluate a closed form at many times, compiled where that is possible and worth it.

    Args:
        function: ``function(elapsed: (*shape), *parameters) -> (component.., *shape)``, elementwise in the trailing
            axes; the same object in every call.
        elapsed: (*lead, *batch-broadcastable) [time].
        parameters: (component.., *batch) each.
        axes: number of axes of the batch.

    Returns:
        (component.., *lead, *batch).
    """
    components = tuple(tuple(value.shape[: value.ndim - axes]) for value in parameters)
    if elapsed.numel() >= _SMALLEST and _may_compile(elapsed, *parameters):
        found = _find(function, components)
        if found is not None and not found[0].failures:
            return _run(*found, elapsed, parameters, components)
    extra = (1,) * max(elapsed.ndim - axes, 0)
    aligned = [
        value.reshape((*component, *extra, *value.shape[len(component) :]))
        for value, component in zip(parameters, components, strict=True)
    ]
    return function(elapsed, *aligned)


def _run(
    function: Elementwise,
    shape: tuple[int, ...],
    elapsed: Tensor,
    parameters: Sequence[Tensor],
    components: tuple[tuple[int, ...], ...],
) -> Tensor:
    pairs = list(zip(parameters, components, strict=True))
    axes = parameters[0].ndim - len(components[0])
    lead = elapsed.shape[: max(elapsed.ndim - axes, 0)]
    batch = common_shape(elapsed.shape[len(lead) :], *(value.shape[len(own) :] for value, own in pairs))
    count = math.prod(batch)
    own = [value.expand((*own, *batch)).reshape(math.prod(own), count) for value, own in pairs]
    record = elapsed.expand((*lead, *batch)).reshape(1, math.prod(lead), count)
    result, _ = function(record, torch.cat(own))
    return result.reshape((*shape, *lead, *batch))


def _may_compile(*tensors: Tensor) -> bool:
    plain = all(type(t) is Tensor or type(t) is torch.nn.Parameter for t in tensors)
    double = all(t.device.type == "cpu" and t.dtype is torch.float64 for t in tensors)
    return plain and double and compiler() is not None and not is_transformed()


@functools.cache
def _find(
    closed_form: ClosedForm, components: tuple[tuple[int, ...], ...]
) -> tuple[Elementwise, tuple[int, ...]] | None:
    """The compiled form of a function, and the shape of its result for one element; None if there is none."""
    program = Program()
    arrays: list[np.ndarray] = [np.full((1,), program.input("y", 0), dtype=object)]
    start = 0
    for component in components:
        array = np.empty((*component, 1), dtype=object)
        for offset, index in enumerate(np.ndindex(*array.shape)):
            array[index] = program.input("own", start + offset)
        start += math.prod(component)
        arrays.append(array)
    try:
        (result,) = scalarise(closed_form, arrays, program)
        function = Elementwise(program, 1, start, tuple(result.reshape(-1)))
        if len(function.transposed.program.instructions) > _LARGEST:
            return None
        function.library  # noqa: B018  a compiler that fails is noticed here
    except BuildError:
        return None
    except (NotScalarError, NoDerivativeError) as error:
        _log.warning("no compiled closed form, slower tensor operations instead: %s", error)
        return None
    return function, result.shape[:-1]
