"""From tensors to scalars: a function is called on small tensors, and each operation is repeated on operands."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from nlme_torch.solve.kernel.aten import REDUCTIONS, VIEWS, is_known, pointwise, reduce
from nlme_torch.solve.kernel.program import Program, Ref
from nlme_torch.solve.kernel.reading import NotScalarError


def scalarise(
    function: Callable[..., Any], inputs: Sequence[np.ndarray], program: Program, *, constants: bool = False
) -> list[np.ndarray]:
    """Write a function of tensors out in scalars.

    What does not depend on the inputs is left to PyTorch; the rest is repeated operation by operation on arrays of
    operands, which share memory where the tensors do, so that writing in place means the same.

    Args:
        function: takes tensors of the inputs' shapes and returns a tensor or a tuple of tensors.
        inputs: one array of operands per tensor argument.
        program: receives the instructions.
        constants: whether tensors that the function captures are constants, of which the program keeps the numbers;
            else they are refused.

    Returns:
        One array of operands per output tensor.

    Raises:
        NotScalarError: if an operation is not known, depends on values, captures a tensor, or computes with numbers
            other than float64 in a way that scalars do not follow.
    """
    examples = [torch.full(array.shape, 0.5, dtype=torch.float64) for array in inputs]
    for array in inputs:
        array.flags.writeable = False
    mode = _Scalariser(program, examples, inputs, constants)
    try:
        with torch.no_grad(), mode:
            results = function(*examples)
    except NotScalarError:
        raise
    except Exception as error:  # whatever user code raises on these numbers, it is not compiled
        raise NotScalarError(f"tracing failed: {error}") from error
    return [mode.operands(result) for result in (results if isinstance(results, list | tuple) else (results,))]


@functools.cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    """PyTorch's own ways of writing operations in terms of simpler ones, for all that are not known here."""
    table = dict(torch._decomp.core_aten_decompositions())
    for operation, decomposition in torch._decomp.decomposition_table.items():
        packet = getattr(operation, "overloadpacket", None)
        if packet is not None and not is_known(packet.__name__):
            table.setdefault(operation, decomposition)
    return table


def to_operands(tensor: Tensor) -> np.ndarray:
    """A constant tensor as an array of numbers."""
    flat = np.empty(tensor.numel(), dtype=object)
    flat[:] = tensor.reshape(-1).tolist()
    return flat.reshape(tuple(tensor.shape))


class _Scalariser(TorchDispatchMode):
    """Runs every operation, and repeats those that depend on the inputs on operands."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import its compiler at the first operation, which takes a second."""
        return False

    def __init__(
        self, program: Program, examples: Sequence[Tensor], inputs: Sequence[np.ndarray], constants: bool
    ) -> None:
        super().__init__()
        self.program, self._constants = program, constants
        self._alive = list(examples)  # a tensor that is gone could lend its id to another
        self._arrays = {id(example): array for example, array in zip(examples, inputs, strict=True)}

    def operands(self, value: Any) -> np.ndarray:
        """The operands of a tensor."""
        if isinstance(value, Tensor) and id(value) not in self._arrays and self._constants:
            self._keep(value, to_operands(value))
        if not isinstance(value, Tensor) or id(value) not in self._arrays:
            shape = tuple(value.shape) if isinstance(value, Tensor) else value
            raise NotScalarError(f"the function captures a tensor ({shape}) instead of taking it as a parameter")
        return self._arrays[id(value)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        _check_operation(func)
        name = func.overloadpacket.__name__
        if func is torch.ops.aten.lift_fresh.default:
            return self._keep(func(*args), to_operands(args[0]))
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        moving = any(_moves(self.operands(tensor)) for tensor in tensors)
        writes = func._schema.is_mutable
        if moving and not writes and not is_known(name):
            simpler = self._simplified(func, args, kwargs)
            if simpler is not NotImplemented:
                return simpler
        if writes:
            return self._write(func, name.removesuffix("_"), args, kwargs)
        kinds = {tensor.dtype for tensor in tensors}
        results = func(*args, **kwargs)
        if tensors and (moving or name in VIEWS):
            arrays = self._evaluate(func, name, args, kwargs, kinds, results)
        else:
            arrays = tree_map(to_operands, results)
        if isinstance(results, Tensor):
            return self._keep(results, arrays)
        return type(results)(self._keep(*pair) for pair in zip(results, arrays, strict=True))

    def _keep(self, tensor: Tensor, array: np.ndarray) -> Tensor:
        self._alive.append(tensor)
        self._arrays[id(tensor)] = array
        return tensor

    def _simplified(self, func: Any, args: Any, kwargs: Any) -> Any:
        decomposition = _decompositions().get(func)
        with self:
            result = NotImplemented if decomposition is None else decomposition(*args, **kwargs)
            return func.decompose(*args, **kwargs) if result is NotImplemented else result

    def _evaluate(self, func: Any, name: str, args: Any, kwargs: Any, kinds: set[torch.dtype], results: Any) -> Any:
        kind = results.dtype if isinstance(results, Tensor) else results[0].dtype
        shape = tuple(results.shape) if isinstance(results, Tensor) else None
        converts = kind.is_floating_point and name not in VIEWS and name != "where"

        def array(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            operands = self.operands(value)
            return self._numbers(operands) if converts and value.dtype is torch.bool else operands

        alone = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if kind not in (torch.float64, torch.bool) and len(alone) == 1 and torch.Tag.pointwise in func.tags:
            return self._by_cases(func, args, kwargs, alone[0])
        _check_kind(func, name, kind, kinds)
        args, kwargs = tree_map(array, args), tree_map(array, kwargs)
        try:
            if name in VIEWS:
                return VIEWS[name](shape, *args, **kwargs)
            if name in _PRODUCTS:
                return _PRODUCTS[name](self.program, *args, **kwargs)
            if kind is torch.bool:
                name = _LOGICAL.get(name, name)
            if name in REDUCTIONS:
                return reduce(self.program, name, args, kwargs, shape)
            if name == "where" and kind is not torch.bool:
                args = (args[0], *(_rounded(self._numbers(branch), kind) for branch in args[1:]))
            result = pointwise(self.program, name, args, kwargs)
            return self._numbers(result) if name == "_to_copy" and kind is not torch.bool else result
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise NotScalarError(f"operation {func} is not supported: {error}") from error

    def _by_cases(self, func: Any, args: Any, kwargs: Any, operand: Tensor) -> np.ndarray:
        """A function of something that takes two values, such as a truth value: PyTorch says what it is for both."""

        def case(value: object) -> object:
            first, second = True, False
            condition = value
            if isinstance(value, Ref) and not self.program.is_mask(value):
                name, operands = self.program.instructions[value.index]
                if name != "select" or any(isinstance(branch, Ref) for branch in operands[1:]):
                    raise NotScalarError(f"operation {func} computes in {operand.dtype}, which scalars do not follow")
                condition, first, second = operands  # type: ignore[assignment]
            numbers = [value] * 2 if not isinstance(value, Ref) else [first, second]
            both = torch.tensor(numbers, dtype=operand.dtype)
            found = func(*(both if arg is operand else arg for arg in args), **kwargs).tolist()
            return self.program.apply("select", condition, *found) if isinstance(value, Ref) else found[0]

        result = np.frompyfunc(case, 1, 1)(self.operands(operand))
        return result if isinstance(result, np.ndarray) else _scalar(result)

    def _write(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """An operation in place: the operands of its result go where the tensor's are."""
        target = args[0]
        place, value = self.operands(target), args[1] if len(args) > 1 else None
        if name in ("copy", "fill"):
            source = self.operands(value) if isinstance(value, Tensor) else np.array(value, dtype=object)
            kinds = {value.dtype} if isinstance(value, Tensor) else {target.dtype}
            if _moves(source) and kinds != {target.dtype}:
                source = self._converted(func, source, kinds, target.dtype)
            func(*args, **kwargs)
        elif name == "zero":
            source = np.array(0.0 if target.is_floating_point() else 0, dtype=object)
            func(*args, **kwargs)
        else:
            plain = getattr(getattr(torch.ops.aten, name, None), func._overloadname, None)
            if plain is None or plain._schema.is_mutable:
                raise NotScalarError(f"operation {func} writes in place")
            with self:
                result = plain(*args, **kwargs)
            if result.dtype != target.dtype:
                raise NotScalarError(f"operation {func} changes the kind of number in place")
            source = self.operands(result)
            target.copy_(result)
        try:
            place[...] = source
        except ValueError as error:
            raise NotScalarError(f"operation {func} writes into an argument or an expanded tensor") from error
        return target

    def _converted(self, func: Any, source: np.ndarray, kinds: set[torch.dtype], kind: torch.dtype) -> np.ndarray:
        if kinds == {torch.bool} and kind is torch.float64:
            return self._numbers(source)
        raise NotScalarError(f"operation {func} turns {kinds} into {kind}")

    def _numbers(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            result = np.frompyfunc(self._number, 1, 1)(value)
            return result if isinstance(result, np.ndarray) else _scalar(result)
        return self._number(value)

    def _number(self, value: object) -> object:
        if isinstance(value, bool):
            return float(value)
        return self.program.apply("select", value, 1.0, 0.0) if self.program.is_mask(value) else value


def _moves(array: np.ndarray) -> bool:
    """Whether any operand is not a number."""
    return any(isinstance(operand, Ref) for operand in array.flat)


def _scalar(value: object) -> np.ndarray:
    array = np.empty((), dtype=object)
    array[()] = value
    return array


def _rounded(value: Any, kind: torch.dtype) -> Any:
    """Numbers as they are in another kind; operands of that kind are what they are."""
    if kind is torch.float64:
        return value

    def round_one(operand: object) -> object:
        return operand if isinstance(operand, Ref) else torch.tensor(operand, dtype=kind).item()

    result = np.frompyfunc(round_one, 1, 1)(value)
    return result if isinstance(result, np.ndarray) else _scalar(result)


def _check_operation(func: Any) -> None:
    """Refuse operations whose result is not a function of their operands, or whose shape is not known beforehand."""
    tags = func.tags
    if torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags:
        raise NotScalarError(f"what it does depends on values ({func})")
    if torch.Tag.nondeterministic_seeded in tags:
        raise NotScalarError(f"it is random ({func})")


def _check_kind(func: Any, name: str, kind: torch.dtype, kinds: set[torch.dtype]) -> None:
    """Refuse arithmetic that double precision does not follow: integers overflow and round, float32 rounds.

    A truth value may become a number of any kind, and a number of any kind may be compared or meet a float64.
    """
    if kind in (torch.float64, torch.bool) or name in VIEWS:
        return
    if name == "where" or (name == "_to_copy" and kinds == {torch.bool}):
        return
    raise NotScalarError(f"operation {func} computes in {kind}; only float64 and comparisons can be written out")


# What operations on truth values mean.
_LOGICAL = {
    "add": "logical_or", "mul": "logical_and", "maximum": "logical_or", "minimum": "logical_and",
    "bitwise_xor": "ne", "logical_xor": "ne", "prod": "all", "amax": "any", "amin": "all", "sum": "any",
}  # fmt: skip


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

__all__ = ["NotScalarError", "Program", "Ref", "scalarise", "to_operands"]
