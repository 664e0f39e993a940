"""What the public functions are handed, looked at before anything is done with it."""

from numbers import Integral
from typing import Any

import torch

from nlme_torch.data import Dataset
from nlme_torch.errors import DataError, FitError, ModelError
from nlme_torch.model.declare.model import Model


def check_arguments(function: str, model: Any, data: Any, seed: Any, device: Any = None, fits: bool = True) -> None:
    """Refuse what is no model, no data set, no seed or no device, and say what to write.

    Args:
        function: Name of the public function.
        model: What stands for the model.
        data: What stands for the data set.
        seed: What stands for the seed.
        device: Where tensors are to live, or None.
        fits: Whether gradients are needed.

    Raises:
        ModelError: It is no model, but perhaps its class, or a fit.
        DataError: It is no data set, but perhaps a table.
        FitError: It is no whole number or no device, or the surroundings forbid gradients.
    """
    if isinstance(model, type):
        raise ModelError(f"{function}: a model is needed and its class was given; write {model.__name__}().")
    if not isinstance(model, Model):
        held = isinstance(getattr(model, "model", None), Model)
        instead = "write fit.model" if held else "write a subclass of nlme.Model and give an object of it"
        raise ModelError(f"{function}: a model is needed and a {type(model).__name__} was given; {instead}.")
    check_data(function, data)
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not -(2**63) <= int(seed) < 2**63:
        raise FitError(f"{function}: seed must be a whole number of 64 bits, got {seed!r}.")
    try:
        kind = torch.device("cpu" if device is None else device).type
    except (RuntimeError, TypeError, ValueError):
        raise FitError(f"{function}: there is no device {device!r:.60}; write 'cpu', 'cuda' or 'cuda:1'.") from None
    if torch.get_default_device().type != kind:
        raise FitError(
            f"{function}: tensors are to live on {kind!r}, but torch.set_default_device has made "
            f"{torch.get_default_device().type!r} the default; set it back and give device= to {function}."
        )
    if fits and torch.is_inference_mode_enabled():
        raise FitError(f"{function} needs gradients, which torch.inference_mode() forbids; call it outside.")


def check_data(function: str, data: Any) -> None:
    """Refuse what is no data set, and say how a table becomes one.

    Args:
        function: Name of the public function.
        data: What stands for the data set.

    Raises:
        DataError: It is no data set, but perhaps a table.
    """
    if not isinstance(data, Dataset):
        raise DataError(
            f"{function}: a data set is needed and a {type(data).__name__} was given; write "
            "nlme.Dataset.from_frame(frame) or nlme.Dataset.from_csv(path)."
        )
