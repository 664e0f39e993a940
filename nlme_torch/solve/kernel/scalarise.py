"""From tensors to scalars: a traced function, evaluated on arrays of program references."""

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from nlme_torch.solve.kernel.aten import REDUCTIONS, VIEWS, is_known, pointwise, reduce
from nlme_torch.solve.kernel.program import Program, Ref


class NotScalarError(Exception):
    """The function uses something that cannot be written out subject by subject."""


def trace(function: Callable[..., Any], examples: Sequence[torch.Tensor]) -> torch.fx.GraphModule:
    """The operations of a function of tensors, without running them.

    Args:
        function: takes the tensors and returns a tensor or a tuple of tensors.
        examples: tensors of the right shapes.

    Returns:
        A graph of elementary operations.

    Raises:
        NotScalarError: if the function depends on values (data-dependent branches) or captures tensors.
    """
    try:
        with torch.no_grad():
            graph = make_fx(
                torch.func.functionalize(function), decomposition_table=_decompositions(), tracing_mode="fake"
            )(*examples)
    except Exception as error:
        raise NotScalarError(f"tracing failed: {error}") from error
    graph.graph.eliminate_dead_code()
    fresh = {node.args[0] for node in graph.graph.nodes if node.target is torch.ops.aten.lift_fresh_copy.default}
    for node in graph.graph.nodes:
        if node.op == "get_attr" and node not in fresh:
            raise NotScalarError(f"the function captures a tensor ({node.target}) instead of taking it as a parameter")
    return graph


@functools.cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    """PyTorch's own ways of writing operations in terms of simpler ones, for all that are not known here."""
    table = dict(torch._decomp.core_aten_decompositions())
    for operation, decomposition in torch._decomp.decomposition_table.items():
        packet = getattr(operation, "overloadpacket", None)
        if packet is not None and not is_known(packet.__name__):
            table.setdefault(operation, decomposition)
    return table


def scalarise(graph: torch.fx.GraphModule, inputs: Sequence[np.ndarray], program: Program) -> list[np.ndarray]:
    """Write a traced function out in scalars.

    Args:
        graph: the traced function.
        inputs: one array of operands per tensor argument.
        program: receives the instructions.

    Returns:
        One array of operands per output tensor.

    Raises:
        NotScalarError: if an operation is not known.
    """
    values: dict[torch.fx.Node, Any] = {}
    arguments = iter(inputs)
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(arguments)
        elif node.op == "get_attr":
            values[node] = to_operands(getattr(graph, node.target))
        elif node.op == "output":
            outputs = node.args[0]
            outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
            return [values[output] for output in outputs]
        else:
            args = torch.fx.map_arg(node.args, values.__getitem__)
            kwargs = torch.fx.map_arg(node.kwargs, values.__getitem__)
            values[node] = _evaluate(program, node, args, kwargs)
    raise NotScalarError("the graph has no output")


def to_operands(tensor: torch.Tensor) -> np.ndarray:
    """A constant tensor as an array of numbers."""
    array = np.empty(tuple(tensor.shape), dtype=object)
    for index in itertools.product(*map(range, tensor.shape)):
        array[index] = tensor[index].item()
    return array


def _evaluate(program: Program, node: torch.fx.Node, args: Any, kwargs: Any) -> Any:
    if node.target is operator.getitem:
        return args[0][args[1]]
    name = node.target.overloadpacket.__name__ if hasattr(node.target, "overloadpacket") else str(node.target)
    shape = tuple(node.meta["val"].shape) if isinstance(node.meta.get("val"), torch.Tensor) else None
    try:
        if name in VIEWS:
            return VIEWS[name](shape, *args, **kwargs)
        if name in _PRODUCTS:
            return _PRODUCTS[name](program, *args, **kwargs)
        if name in REDUCTIONS:
            return reduce(program, name, args, kwargs, shape)
        result = pointwise(program, name, args, kwargs)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise NotScalarError(f"operation {node.target} is not supported: {error}") from error
    if name == "_to_copy" and node.meta["val"].dtype.is_floating_point:
        return np.frompyfunc(lambda v: _to_number(program, v), 1, 1)(result)
    return result


def _to_number(program: Program, value: object) -> object:
    return program.apply("select", value, 1.0, 0.0) if program.is_mask(value) else value


def _matrix_product(program: Program, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    result = np.empty((left.shape[0], right.shape[1]), dtype=object)
    for row, column in itertools.product(range(left.shape[0]), range(right.shape[1])):
        total: object = 0.0
        for inner in range(left.shape[1]):
            total = program.apply("add", total, program.apply("mul", left[row, inner], right[inner, column]))
        result[row, column] = total
    return result


def _batched_product(program: Program, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    result = np.empty((left.shape[0], left.shape[1], right.shape[2]), dtype=object)
    for index in range(left.shape[0]):
        result[index] = _matrix_product(program, left[index], right[index])
    return result


def _plus(program: Program, base: np.ndarray, product: np.ndarray) -> np.ndarray:
    return pointwise(program, "add", (base, product), {})


_PRODUCTS: dict[str, Callable[..., np.ndarray]] = {
    "mm": _matrix_product,
    "bmm": _batched_product,
    "addmm": lambda program, base, left, right: _plus(program, base, _matrix_product(program, left, right)),
    "baddbmm": lambda program, base, left, right: _plus(program, base, _batched_product(program, left, right)),
}

__all__ = ["NotScalarError", "Program", "Ref", "scalarise", "to_operands", "trace"]
