"""User code is written for one subject and evaluated for all: nothing in it may take a number out of a tensor.

``if``, ``and``, ``max``, ``math.exp`` and NumPy ask for one number where every subject, chain and record has its own.
PyTorch refuses most of that in words of its own, and with a single subject not at all, so that its first value would
decide for every chain. Numbers of which there is one for all, such as ``(y.amount > 0).all()``, may be asked for.
"""

import sys
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from nlme_torch.errors import ModelError
from nlme_torch.model.declare.model import ARGUMENTS, Model


class PlainArithmetic(TorchFunctionMode):
    """While active, a method of a model that takes a number out of a tensor is a ModelError that names its line.

    Args:
        model: The model.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        fault = _FAULTS.get(getattr(func, "__name__", ""))
        if fault is not None and isinstance(args[0], Tensor) and (args[0].dim() > 1 or args[0].numel() > 1):
            printed = len(args) == 2 and isinstance(args[1], str) and not args[1]  # print(f"{p.ka}") is no harm
            if not printed:
                self._refuse(fault)
        return func(*args, **(kwargs or {}))

    def _refuse(self, fault: str) -> None:
        frame = sys._getframe(1)
        while frame is not None:
            name = frame.f_code.co_name
            if name in ARGUMENTS and frame.f_locals.get("self") is self._model:
                raise ModelError(f"{type(self._model).__name__}.{name}, line {frame.f_lineno}, {fault}.")
            frame = frame.f_back  # type: ignore[assignment]


_NUMPY = "hands a parameter, state or time to NumPy, where gradients end; use the function of the same name in torch"
_BRANCH = (
    "decides in Python (if, while, and, or, not, min, max) by a value of which every subject has its own; write "
    "torch.where(condition, a, b) in place of if, &, | and ~ in place of and, or and not, torch.minimum and "
    "torch.maximum in place of min and max"
)
_NUMBER = (
    "makes a number of Python (float, int, round, range, math.*, item, tolist, format) of a value of which every "
    "subject has its own; use the function of the same name in torch"
)
_FAULTS = {
    **dict.fromkeys(("__array__", "numpy"), _NUMPY),
    **dict.fromkeys(("__bool__", "__contains__"), _BRANCH),
    **dict.fromkeys(("__float__", "__int__", "__index__", "__complex__", "item", "tolist", "__format__"), _NUMBER),
}
