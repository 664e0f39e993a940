"""Parameters given as numbers or tensors, made tensors of one kind, and the shape they have together."""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from nlme_torch.errors import SolveError


def as_tensors(system: Any) -> None:
    """Replace numbers in the fields of a frozen dataclass by tensors, of the kind of the tensors beside them.

    Args:
        system: a dataclass instance under construction; fields that are None or int-annotated stay.

    Raises:
        SolveError: if a parameter is neither a number nor a real floating-point tensor.
    """
    named = {entry.name: getattr(system, entry.name) for entry in fields(system) if entry.type is not int}
    tensors = (value for value in named.values() if isinstance(value, Tensor) and value.is_floating_point())
    like = next(tensors, torch.zeros((), dtype=torch.float64))
    for name, value in named.items():
        if value is None:
            continue
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = torch.tensor(float(value), dtype=like.dtype, device=like.device)
            object.__setattr__(system, name, value)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise SolveError(f"{type(system).__name__}: {name!r} must be a number or a real tensor, got {kind}")


def common_shape(*shapes: torch.Size) -> torch.Size:
    """The shape that several shapes broadcast to; at once where they are equal, as they mostly are."""
    return shapes[0] if all(shape == shapes[0] for shape in shapes) else torch.broadcast_shapes(*shapes)
