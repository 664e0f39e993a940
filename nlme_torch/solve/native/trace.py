"""Reading a vector field: PyTorch's operations on tensors become operations on rows.

The field is traced once with a batch of an unusual width, by which the batch axis is told from all others. Operations
that only move numbers (views, stacks, slices) are carried out on the numbers of the rows; elementwise operations, sums
and products of matrices are taken apart; whatever would mix subjects, or is unknown, is refused.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from nlme_torch._typing import VectorField

from .columns import Layout
from .contractions import CONTRACTIONS, REDUCTIONS, contract, reduce_rows
from .operations import COPIES, INDEXED, KEPT, MOVES, Unsupported, is_pointwise, pointwise
from .program import BOOLEAN, Program, Row

_WIDTH = 1009
_LARGEST_PROGRAM = 20_000


@dataclass(frozen=True)
class Rows:
    """A tensor as rows of a program.

    Attributes:
        rows: same axes as the tensor; the batch axis has length one.
        axis: the batch axis, None where all subjects share the numbers.
    """

    rows: NDArray[np.int64]
    axis: int | None


def trace(field: VectorField, states: int, layouts: Sequence[Layout]) -> tuple[Program, list[Row]]:
    """Read a vector field.

    Args:
        field: ``f(t, y, parameters)``.
        states: number of states.
        layouts: how each parameter is read.

    Returns:
        The program with inputs "t", "y", "p" (rows of each subject's own parameters) and "q" (shared numbers), and the row of
        the derivative of each state.

    Raises:
        Unsupported: where the field cannot be read; the message says why.
    """
    generator = torch.Generator().manual_seed(0)

    def example(shape: tuple[int, ...]) -> Tensor:
        return 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)

    trailing = [(1,) * layout.repeated if layout.shared else (_WIDTH,) for layout in layouts]
    parameters = [example(layout.components + tail) for layout, tail in zip(layouts, trailing, strict=True)]
    decompositions = {key: value for key, value in core_aten_decompositions().items() if key not in KEPT}
    with torch.no_grad():
        graph = make_fx(lambda t, y, *p: field(t, y, tuple(p)), decomposition_table=decompositions)(
            example((_WIDTH,)), example((states, _WIDTH)), *parameters
        )
    program = Program()
    inputs = [_inputs(program, "t", (1,), 0), _inputs(program, "y", (states, 1), 1)]
    counts = {"p": 0, "q": 0}
    for layout, tail in zip(layouts, trailing, strict=True):
        kind = "q" if layout.shared else "p"
        axis = None if layout.shared else len(layout.components)
        inputs.append(_inputs(program, kind, layout.components + (1,) * len(tail), axis, counts[kind]))
        counts[kind] += layout.rows
    output = _Reader(program, graph).read(inputs)
    if output.axis != 1 or output.rows.shape != (states, 1):
        raise Unsupported("the vector field's result does not have one number per state and subject")
    return program, output.rows.ravel().tolist()


def _inputs(program: Program, kind: str, shape: tuple[int, ...], axis: int | None, first: int = 0) -> Rows:
    count = int(np.prod(shape))
    rows = [program.input(kind, first + index) for index in range(count)]
    return Rows(np.array(rows, dtype=np.int64).reshape(shape), axis)


class _Reader:
    """Goes through a traced graph; tensors that depend on no input stay tensors."""

    def __init__(self, program: Program, graph: fx.GraphModule) -> None:
        self.program, self.graph = program, graph
        self.values: dict[fx.Node, Any] = {}

    def read(self, inputs: Sequence[Rows]) -> Rows:
        remaining = iter(inputs)
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = next(remaining)
            elif node.op == "get_attr":
                self.values[node] = self._captured(getattr(self.graph, node.target))
            elif node.op == "output":
                return self._as_rows(fx.map_arg(node.args[0], lambda argument: self.values[argument]))
            else:
                arguments = fx.map_arg(node.args, lambda argument: self.values[argument])
                options = fx.map_arg(node.kwargs, lambda argument: self.values[argument])
                self.values[node] = self._call(node.target, arguments, dict(options))
            if len(self.program.nodes) > _LARGEST_PROGRAM:
                raise Unsupported(f"more than {_LARGEST_PROGRAM} operations")
        raise Unsupported("the vector field returned nothing")

    def _captured(self, value: Tensor) -> Tensor:
        if value.requires_grad:
            raise Unsupported("the vector field captures a tensor that requires a gradient; hand it over in `parameters`")
        return value

    def _call(self, operation: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if operation is operator.getitem:
            return arguments[0][arguments[1]]
        leaves = [leaf for argument in arguments for leaf in (argument if isinstance(argument, list | tuple) else [argument])]
        if not any(isinstance(leaf, Rows) for leaf in leaves):
            return operation(*arguments, **options)
        if operation in COPIES:
            return arguments[0]
        if operation is torch.ops.aten._to_copy.default:
            return self._convert(arguments[0], options)
        if operation in MOVES:
            return self._move(operation, arguments, options)
        if operation in REDUCTIONS:
            return Rows(*reduce_rows(self.program, operation, arguments[0], *arguments[1:], **options))
        if operation in CONTRACTIONS:
            return Rows(*contract(self.program, operation, [self._or_number(a) for a in arguments], options))
        if is_pointwise(operation):
            return self._pointwise(operation, arguments, options)
        if operation in _LIKE:
            shape = tuple(_WIDTH if axis == arguments[0].axis else size for axis, size in enumerate(arguments[0].rows.shape))
            return torch.full(shape, _LIKE[operation](*arguments[1:2]), dtype=torch.float64)
        raise Unsupported(f"{operation} has no compiled form")

    def _pointwise(self, operation: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Rows:
        operands = [None if argument is None else self._as_rows(argument) for argument in arguments]
        present = [operand for operand in operands if operand is not None]
        places = {operand.axis - operand.rows.ndim for operand in present if operand.axis is not None}
        if len(places) > 1:
            raise Unsupported(f"{operation} mixes subjects")
        shape = np.broadcast_shapes(*(operand.rows.shape for operand in present))
        axis = len(shape) + places.pop() if places else None
        if axis is not None and shape[axis] != 1:
            raise Unsupported(f"{operation} mixes subjects")
        spread = [None if operand is None else np.broadcast_to(operand.rows, shape) for operand in operands]
        result = np.empty(shape, dtype=np.int64)
        for place in np.ndindex(*shape):
            rows = tuple(None if operand is None else int(operand[place]) for operand in spread)
            result[place] = pointwise(self.program, operation, rows, options)
        return Rows(result, axis)

    def _move(self, operation: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Carry out a move on numbers that code row and subject."""

        def code(value: Any) -> Any:
            if isinstance(value, list):
                return [code(entry) for entry in value]
            if isinstance(value, Tensor) and operation not in INDEXED or isinstance(value, Rows):
                known = self._as_rows(value)
                rows, axis = known.rows, known.axis
                if axis is None:
                    return torch.from_numpy(rows * _WIDTH)
                columns = np.arange(_WIDTH).reshape([-1 if index == axis else 1 for index in range(rows.ndim)])
                return torch.from_numpy(rows * _WIDTH + columns)
            return value

        moved = operation(*(code(argument) for argument in arguments), **options)
        return [self._decode(part) for part in moved] if isinstance(moved, list | tuple) else self._decode(moved)

    def _decode(self, codes: Tensor) -> Rows:
        for axis, size in enumerate(codes.shape):
            if size == _WIDTH:
                across = codes.movedim(axis, -1)
                rows, columns = across // _WIDTH, across % _WIDTH
                uniform = bool((columns == columns[..., :1]).all())
                if bool((rows == rows[..., :1]).all()) and (uniform or bool((columns == torch.arange(_WIDTH)).all())):
                    return Rows(rows[..., :1].movedim(-1, axis).numpy().copy(), axis)
        if bool((codes % _WIDTH != 0).any()):
            raise Unsupported("a rearrangement mixes subjects")
        return Rows((codes // _WIDTH).numpy().copy(), None)

    def _convert(self, value: Rows, options: dict[str, Any]) -> Rows:
        kinds = {self.program.nodes[row].operation in BOOLEAN for row in value.rows.ravel()}
        dtype = options.get("dtype")
        if dtype in (None, torch.float64, torch.bool if kinds == {True} else torch.float64):
            return value if kinds != {True} or dtype in (None, torch.bool) else self._switches(value)
        raise Unsupported(f"a conversion to {dtype} has no compiled form")

    def _switches(self, value: Rows) -> Rows:
        one, zero = self.program.constant(1.0), self.program.constant(0.0)
        rows = [self.program.apply("where", int(row), one, zero) for row in value.rows.ravel()]
        return Rows(np.array(rows, dtype=np.int64).reshape(value.rows.shape), value.axis)

    def _or_number(self, value: Any) -> Any:
        return self._as_rows(value) if isinstance(value, Tensor | Rows) else value

    def _as_rows(self, value: Any) -> Rows:
        """Rows of anything that an elementwise operation takes."""
        if isinstance(value, Rows):
            return value
        tensor = torch.as_tensor(value)
        axis = tensor.shape.index(_WIDTH) if _WIDTH in tensor.shape else None
        if axis is not None:
            if bool((tensor != tensor.narrow(axis, 0, 1)).any()):
                raise Unsupported("a constant differs between subjects")
            tensor = tensor.narrow(axis, 0, 1)
        rows = [self._constant(number) for number in tensor.flatten().tolist()]
        return Rows(np.array(rows, dtype=np.int64).reshape(tuple(tensor.shape)), axis)

    def _constant(self, number: float | bool) -> Row:
        if isinstance(number, bool):
            zero = self.program.constant(0.0)
            return self.program.apply("eq" if number else "ne", zero, zero)
        return self.program.constant(number)


_LIKE = {
    torch.ops.aten.zeros_like.default: lambda: 0.0,
    torch.ops.aten.ones_like.default: lambda: 1.0,
    torch.ops.aten.full_like.default: lambda value: value,
    torch.ops.aten.empty_like.default: lambda: 0.0,
}
