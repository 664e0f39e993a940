"""The linear recurrence from record to record, with its adjoint as another such recurrence."""

import ctypes
import functools
import logging
from typing import Any

import torch
from torch import Tensor

from nlme_torch.solve.kernel.build import BuildError, build, compiler
from nlme_torch.solve.stepping.discrete_adjoint import is_transformed

_log = logging.getLogger(__name__)

_DRIVER = r"""
#include "lanes.h"
// matrices[i][j][r][s] takes record r to r + 1 (backwards: transposed, r + 1 to r); states[r][i][s].
extern "C" void run(long records, long states, long subjects, int backwards, const double *matrices,
                    const double *inputs, double *out) {
  FlushSubnormals flush;
  const long row = states * subjects, entry = (records - 1) * subjects;
  const long first = backwards ? records - 1 : 0, direction = backwards ? -1 : 1;
  std::memcpy(out + first * row, inputs + first * row, row * sizeof(double));
  for (long step = 1; step < records; ++step) {
    const long r = first + direction * step;
    const double *before = out + (r - direction) * row, *matrix = matrices + (backwards ? r : r - 1) * subjects;
    for (long i = 0; i < states; ++i) {
      double *__restrict now = out + r * row + i * subjects;
      std::memcpy(now, inputs + r * row + i * subjects, subjects * sizeof(double));
      for (long j = 0; j < states; ++j) {
        const double *factor = matrix + (backwards ? j * states + i : i * states + j) * entry;
        const double *state = before + j * subjects;
        for (long s = 0; s < subjects; ++s) now[s] += factor[s] * state[s];
      }
    }
  }
}
"""


def recurrence(matrices: Tensor, inputs: Tensor, backwards: bool = False) -> Tensor:
    """y_0 = b_0 and y_r = M_r y_{r-1} + b_r, differentiable any number of times in both modes.

    Args:
        matrices: (state, state, record - 1, *batch) M_1, M_2, ...
        inputs: (record, state, *batch) b_0, b_1, ...
        backwards: the transposed recurrence instead: y_{r-1} = M_r' y_r + b_{r-1} from the last record.

    Returns:
        (record, state, *batch).
    """
    plain = matrices.is_cpu and matrices.dtype is torch.float64 and not is_transformed()
    if plain and compiler() is not None and _library() is not None:
        return _Compiled.apply(matrices, inputs, backwards)
    return _ByOperations.apply(matrices, inputs, backwards)


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrices: Tensor, inputs: Tensor, backwards: bool) -> Tensor:
        plain, added = matrices.detach().contiguous(), inputs.detach().contiguous()
        states = torch.empty_like(added)
        records, count = added.shape[:2]
        sizes = (ctypes.c_long(size) for size in (records, count, added[0, 0].numel()))
        places = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (plain, added, states))
        library = _library()
        assert library is not None
        library.run(*sizes, ctypes.c_int(backwards), *places)
        ctx.backwards = backwards
        ctx.save_for_backward(matrices, states)
        return states

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        matrices, states = ctx.saved_tensors
        return _pull_back(ctx, matrices, states, cotangents[0])


class _ByOperations(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(matrices: Tensor, inputs: Tensor, backwards: bool) -> Tensor:
        forwards, added = matrices.unbind(2), inputs.unbind(0)
        if backwards:
            forwards, added = tuple(matrix.transpose(0, 1) for matrix in reversed(forwards)), added[::-1]
        states = [added[0]]
        for matrix, row in zip(forwards, added[1:], strict=True):
            states.append(row + (matrix * states[-1]).sum(1))
        return torch.stack(states[::-1] if backwards else states)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.backwards = inputs[2]
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        matrices, states = ctx.saved_tensors
        return _pull_back(ctx, matrices, states, cotangents[0])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        matrices, states = ctx.saved_tensors
        moved, added, _ = tangents
        added = torch.zeros_like(states) if added is None else added
        if moved is not None:
            if ctx.backwards:
                driven = (moved * states[1:].movedim(0, 1).unsqueeze(1)).sum(0).movedim(1, 0)
                added = torch.cat([added[:-1] + driven, added[-1:]])
            else:
                driven = (moved * states[:-1].movedim(0, 1)).sum(1).movedim(1, 0)
                added = torch.cat([added[:1], added[1:] + driven])
        return recurrence(matrices, added, ctx.backwards)


def _pull_back(ctx: Any, matrices: Tensor, states: Tensor, cotangent: Tensor) -> tuple[Tensor | None, Tensor, None]:
    """The adjoint runs the other way; a matrix is seen by the states on both of its sides."""
    adjoint = recurrence(matrices, cotangent, not ctx.backwards)
    slope = None
    if ctx.needs_input_grad[0]:
        before, after = (adjoint, states) if ctx.backwards else (states, adjoint)
        slope = after[1:].movedim(0, 1).unsqueeze(1) * before[:-1].movedim(0, 1)
    return slope, adjoint, None


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        return build(_DRIVER)
    except BuildError as error:
        _log.warning("no compiled recurrence, slower tensor operations instead: %s", error)
        return None
