"""User code is written for one subject and evaluated for all: nothing in it may take a number out of a tensor.

``if``, ``and``, ``max``, ``math.exp`` and NumPy ask for one number where every subject, chain and record has its own.
PyTorch refuses most of that in words of its own, and with a single subject not at all, so that its first value would
decide for every chain. Numbers of which there is one for all, such as ``(y.amount > 0).all()``, may be asked for.
Neither may it make new tensors of the numbers in others, nor change in place what it was given.
"""

import sys
from types import FrameType
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from nlme_torch.errors import ModelError
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.user_code import in_library, methods_by_code, package_of
from nlme_torch.model.individual.individual import RECORD_DIMENSIONS


class PlainArithmetic(TorchFunctionMode):
    """While active, a method of a model that takes a number out of a tensor is a ModelError.

    Args:
        model: The model.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._codes = methods_by_code(model)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if args and isinstance(args[0], Tensor):
            several = args[0].dim() > 1 or args[0].numel() > 1
            printed = len(args) == 2 and isinstance(args[1], str) and not args[1]  # print(f"{p.ka}") is no harm
            if several and name in _FAULTS and not printed and self._method() is not None:
                raise ModelError(_FAULTS[name])
            if name in _ENTRIES and self._is_written() and not self._has_entries(args[0]):
                raise ModelError(_ENTRY)
        if name in _COPIES and _holds_tensors(name, args, kwargs) and self._is_written():
            raise ModelError(_COPIED)
        if name in _INDEXED or (name.endswith("_") and (not name.endswith("__") or name in _AUGMENTED)):
            method = self._method()
            if method is not None and args and _was_given(args[0], method):
                raise ModelError(_CHANGED)
        return func(*args, **(kwargs or {}))

    def _method(self) -> FrameType | None:
        """The frame of the method of the model that is running, if any is."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and frame.f_code not in self._codes:
            frame = frame.f_back
        return frame

    def _has_entries(self, value: Tensor) -> bool:
        """Whether a tensor has axes before those of the subjects, as a matrix or a stack of values has."""
        method = self._method()
        at_one_time = method is not None and self._codes[method.f_code] in ("dynamics", "compartments")
        return value.dim() > (RECORD_DIMENSIONS - 1 if at_one_time else RECORD_DIMENSIONS)

    def _is_written(self) -> bool:
        """Whether a call stands in the user's code: in a method of the model, or in a function of the user's."""
        method = self._method()
        frame: FrameType | None = None if method is None else sys._getframe(2)
        while frame is not None and frame is not method and _passes_on(frame):
            frame = frame.f_back
        if frame is None or method is None:
            return False
        return frame is method or not in_library(frame, method)


def _passes_on(frame: FrameType) -> bool:
    """Whether a frame only passes a call on to PyTorch: its own methods, modes, checks of types around functions."""
    if frame.f_code.co_name == "__torch_function__" or frame.f_code.co_filename.startswith("<@"):
        return True
    return frame.f_globals.get("__name__") in _PASSING or package_of(frame) == "jaxtyping"


def _holds_tensors(name: str, args: Any, kwargs: Any) -> bool:
    """Whether numbers of tensors would be copied; ``as_tensor`` of a tensor is the tensor itself."""
    given = [args[0] if args else (kwargs or {}).get("data")]
    if name == "as_tensor" and isinstance(given[0], Tensor):
        return False
    return any(isinstance(leaf, Tensor) for leaf in tree_leaves(given))


def _was_given(value: Any, method: FrameType) -> bool:
    """Whether a tensor is one that a method was given, or a part of it."""
    if not isinstance(value, Tensor):
        return False
    bases = {id(value)} | ({id(value._base)} if value._base is not None else set())
    for name in method.f_code.co_varnames[: method.f_code.co_argcount][1:]:
        holder = method.f_locals.get(name)
        held = vars(holder).values() if hasattr(holder, "__dict__") and not isinstance(holder, Tensor) else [holder]
        known = [entry for entry in tree_leaves(list(held)) if isinstance(entry, Tensor)]
        if any(id(entry) in bases or (entry._base is not None and id(entry._base) in bases) for entry in known):
            return True
    return False


_NUMPY = (
    "The line hands a parameter, state or time to NumPy, where gradients end; use the function of the same name in "
    "torch."
)
_BRANCH = (
    "The line decides in Python (if, while, and, or, not, min, max) by a value of which every subject has its own; "
    "write torch.where(condition, a, b) in place of if, &, | and ~ in place of and, or and not, torch.minimum and "
    "torch.maximum in place of min and max."
)
_NUMBER = (
    "The line makes a number of Python (float, int, round, range, math.*, item, tolist, format) of a value of which "
    "every subject has its own; use the function of the same name in torch."
)
_COPIED = (
    "The line makes a new tensor (torch.tensor) of the numbers in others, where gradients end and every subject has "
    "its own; use the value as it is, a tuple (a, b) in place of torch.tensor([a, b])."
)
_CHANGED = (
    "The line changes in place (+=, -=, *=, /=, [...] =, functions whose names end in _) a value that the method was "
    "given; write x = x + a in place of x += a."
)
_ENTRY = (
    "The line goes through the entries of a tensor, which are those of other subjects (for, sum, len, zip, unpacking); "
    "use the value as it is, as one number of one subject."
)
_FAULTS = {
    **dict.fromkeys(("__array__", "numpy"), _NUMPY),
    **dict.fromkeys(("__bool__", "__contains__"), _BRANCH),
    **dict.fromkeys(("__float__", "__int__", "__index__", "__complex__", "item", "tolist", "__format__"), _NUMBER),
}
_PASSING = ("torch._tensor", "torch.overrides", "torch.utils._device")
_COPIES = ("tensor", "as_tensor")
_ENTRIES = ("__iter__", "__len__", "__reversed__", "unbind")
_INDEXED = ("__setitem__",)
_AUGMENTED = ("__iadd__", "__isub__", "__imul__", "__idiv__", "__itruediv__", "__ifloordiv__", "__ipow__", "__imod__")
