"""NumPy has no place in a model: its functions take numbers out of tensors, and gradients end there."""

import sys
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from nlme_torch.errors import ModelError
from nlme_torch.model.model import ARGUMENTS, Model


class NoNumPy(TorchFunctionMode):
    """While active, a method of a model that hands a tensor to NumPy is a ModelError that names its line.

    Args:
        model: The model.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        takes = getattr(func, "__name__", "") in ("__array__", "numpy")
        if takes and isinstance(args[0], Tensor) and args[0].dim() > 1:  # anything of a subject has more axes
            self._refuse()
        return func(*args, **(kwargs or {}))

    def _refuse(self) -> None:
        frame = sys._getframe(1)
        while frame is not None:
            name = frame.f_code.co_name
            if name in ARGUMENTS and frame.f_locals.get("self") is self._model:
                raise ModelError(
                    f"{type(self._model).__name__}.{name}, line {frame.f_lineno}, hands a parameter, state or time to "
                    "NumPy, where gradients end; use the function of the same name in torch."
                )
            frame = frame.f_back  # type: ignore[assignment]
