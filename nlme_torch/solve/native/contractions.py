"""Sums and products of matrices taken apart into operations on rows."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .operations import Unsupported
from .program import Program, Row

_aten = torch.ops.aten

REDUCTIONS = {
    _aten.sum.dim_IntList: "add",
    _aten.mean.dim: "add",
    _aten.amax.default: "maximum",
    _aten.amin.default: "minimum",
    _aten.prod.dim_int: "mul",
}
CONTRACTIONS = frozenset({_aten.mm.default, _aten.bmm.default, _aten.addmm.default, _aten.baddbmm.default})

Parts = tuple[NDArray[np.int64], int | None]


def reduce_rows(program: Program, operation: Any, value: Any, dims: Any = None, keepdim: bool = False) -> Parts:
    """Reduce a value along axes other than the batch axis.

    Args:
        program: gets the operations.
        operation: PyTorch's operation.
        value: rows and batch axis.
        dims: axes to reduce.
        keepdim: whether they stay with length one.

    Returns:
        Rows and batch axis.

    Raises:
        Unsupported: where subjects would be mixed.
    """
    rows, axis = value.rows, value.axis
    axes = sorted({dim % rows.ndim for dim in ([dims] if isinstance(dims, int) else dims or range(rows.ndim))})
    if axis in axes:
        raise Unsupported(f"{operation} mixes subjects")
    last = np.moveaxis(rows, axes, range(-len(axes), 0))
    flat = last.reshape(*last.shape[: rows.ndim - len(axes)], -1)
    result = np.empty(flat.shape[:-1], dtype=np.int64)
    for place in np.ndindex(*result.shape):
        total = _fold(program, REDUCTIONS[operation], flat[place].tolist())
        if operation is _aten.mean.dim:
            total = program.apply("div", total, program.constant(flat.shape[-1]))
        result[place] = total
    moved = None if axis is None else axis - sum(dim < axis for dim in axes)
    return (np.expand_dims(result, axes), axis) if keepdim else (result, moved)


def contract(program: Program, operation: Any, arguments: list[Any], options: dict[str, Any]) -> Parts:
    """Multiply two matrices, or stacks of them, and perhaps add a third.

    Args:
        program: gets the operations.
        operation: ``mm``, ``bmm``, ``addmm`` or ``baddbmm``.
        arguments: its arguments as rows.
        options: ``alpha`` and ``beta``.

    Returns:
        Rows and batch axis.

    Raises:
        Unsupported: where subjects would be mixed.
    """
    if any(value != 1 for value in options.values()) or len(arguments) > 3:
        raise Unsupported(f"{operation} with {options} has no compiled form")
    (left, left_axis), (right, right_axis) = ((a.rows, a.axis) for a in arguments[-2:])
    stacked = left.ndim == 3
    if left_axis == left.ndim - 1 or right_axis == right.ndim - 2:
        raise Unsupported(f"{operation} mixes subjects")
    axes = {axis for axis in (left_axis, right_axis) if axis is not None}
    if len(axes) > 1 or (stacked and 0 in axes and None in (left_axis, right_axis)):
        raise Unsupported(f"{operation} mixes subjects")
    axis = axes.pop() if axes else None
    if not stacked:
        left, right = left[None], right[None]
    result = np.empty((left.shape[0], left.shape[1], right.shape[2]), dtype=np.int64)
    for batch, row, column in np.ndindex(*result.shape):
        pairs = zip(left[batch, row].tolist(), right[batch, :, column].tolist(), strict=True)
        result[batch, row, column] = _fold(program, "add", [program.apply("mul", a, b) for a, b in pairs])
    result = result if stacked else result[0]
    if len(arguments) == 3:
        added, added_axis = arguments[0].rows, arguments[0].axis
        if added_axis is not None and (axis is None or added_axis - added.ndim != axis - result.ndim):
            raise Unsupported(f"{operation} mixes subjects")
        spread = np.broadcast_to(added, result.shape)
        for place in np.ndindex(*result.shape):
            result[place] = program.apply("add", int(spread[place]), int(result[place]))
    return result, axis


def _fold(program: Program, name: str, rows: list[Row]) -> Row:
    if not rows:
        return program.constant(0.0)
    total = rows[0]
    for row in rows[1:]:
        total = program.apply(name, total, row)
    return total
