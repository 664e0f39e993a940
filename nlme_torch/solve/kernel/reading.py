"""What a vector field does when it is called: everything that its compiled form depends on.

A field is Python code, and may read anything: attributes, globals, closures, the contents of lists. So it is called
once on numbers, and what it asks of PyTorch is written down, call by call with every constant. Two calls that ask the
same have the same compiled form; that takes far less than a millisecond, where compiling takes seconds.
"""

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nlme_torch._typing import VectorField
from nlme_torch.solve.kernel.layout import Layout

Reading: TypeAlias = tuple[Any, ...]


class NotScalarError(Exception):
    """The function uses something that cannot be written out subject by subject."""


def read(field: VectorField, layout: Layout) -> Reading:
    """Call a vector field and write down what it does.

    Args:
        field: the vector field.
        layout: shapes of states and parameters.

    Returns:
        Something hashable that is equal for fields that do the same.

    Raises:
        NotScalarError: if what it does depends on the values of states, parameters or time or on whether gradients
            are wanted, or if it hides operations from derivatives.
    """
    examples = [torch.full(shape, 0.5, dtype=torch.float64) for shape in example_shapes(layout)]
    try:
        with torch.no_grad():
            still = field(examples[0], examples[1], tuple(examples[2:]))
        with torch.enable_grad():
            # not leaves: a solver does not hand over leaves either
            moving = [example.requires_grad_().view_as(example) for example in examples]
            calls = _Calls(moving)
            with calls:
                result = field(moving[0], moving[1], tuple(moving[2:]))
        same = torch.allclose(still, result.detach(), rtol=1e-12, atol=0.0, equal_nan=True)
    except NotScalarError:
        raise
    except Exception as error:  # whatever user code raises on these numbers, it is not compiled
        raise NotScalarError(f"tracing failed: {error}") from error
    if not same:
        raise NotScalarError("it gives other values while gradients are recorded")
    return (*calls.steps, calls.described(result))


def example_shapes(layout: Layout) -> list[tuple[int, ...]]:
    """Shapes of time, states and parameters of a single subject."""
    ones = (1,) * layout.axes
    parameters = [(*shape, *ones) if mine else shape for shape, mine in zip(layout.shapes, layout.own, strict=True)]
    return [ones, (layout.states, *ones), *parameters]


class _Calls(TorchFunctionMode):
    """Writes down every call with its operands and constants, and refuses those that take numbers out of tensors."""

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()
        self.steps: list[Any] = []
        self._alive: list[Any] = list(inputs)  # a tensor that is gone could lend its id to another
        self._number: dict[int, Any] = {id(value): index for index, value in enumerate(inputs)}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = getattr(getattr(func, "__self__", None), "__name__", "")
            if name in _PLAIN:
                return func(*args)
            if name in _PROPERTIES and _moves(args):
                raise NotScalarError(f"it reads `{name}` of a tensor, and may differ with and without gradients")
        elif name in _READS and _moves(args):
            raise NotScalarError(f"what it does depends on values, it takes numbers out of tensors ({name})")
        elif name in _HIDES and _moves(args):
            raise NotScalarError(f"it hides operations from derivatives ({name})")
        named = tuple((key, self.described(value)) for key, value in kwargs.items()) if kwargs else ()
        self.steps.append((name, *map(self.described, args), named))
        result = func(*args, **(kwargs or {}))
        self._alive.append(result)
        for one in result if isinstance(result, list | tuple) else (result,):
            if isinstance(one, Tensor):
                self._number[id(one)] = len(self.steps), len(self._number)
        return result

    def described(self, value: Any) -> Any:
        """A tensor by where it came from, anything else by what it is."""
        if isinstance(value, Tensor):
            return self._number.get(id(value), "from outside")
        if isinstance(value, float | int):
            return value.__class__, value if value and value == value else repr(value)
        if isinstance(value, list | tuple):
            return tuple(map(self.described, value))
        return repr(value.tolist()) if isinstance(value, np.ndarray) else repr(value)


_PLAIN = frozenset({"shape", "dtype", "device", "ndim", "is_cuda", "layout", "itemsize", "names"})
_PROPERTIES = frozenset({"requires_grad", "grad_fn", "is_leaf", "grad", "output_nr", "data"})
_READS = frozenset(
    {
        "numpy", "__array__", "tolist", "item", "data_ptr", "__dlpack__", "untyped_storage", "storage",
        "__float__", "__int__", "__bool__", "__index__", "__complex__", "__repr__", "__format__", "__contains__",
    }
)  # fmt: skip
_HIDES = frozenset({"detach", "detach_", "requires_grad_", "_set_grad_enabled"})


def _moves(args: Any) -> bool:
    """Whether a call concerns what follows from states, parameters or time; True where that cannot be seen."""
    first = args[0] if args else None
    return not isinstance(first, Tensor) or first.requires_grad or not first.is_floating_point()
