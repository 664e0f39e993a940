"""Parameter values apart from the module that owns them: a mapping with a leading ``start`` axis.

Every raw parameter of a model, by its ``nn.Module`` name and on its estimation scale, as ``(start, *shape)``. The
start axis holds alternatives that are evaluated at once: multistarts, bootstrap replicates, finite differences.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

ParameterValues = Mapping[str, Tensor]


def parameter_values(model: nn.Module, starts: int = 1) -> dict[str, Tensor]:
    """Return a model's current parameters as detached values.

    Args:
        model: The model.
        starts: Length of the start axis; every start gets the same values.

    Returns:
        Raw name to ``(start, *shape)``.
    """
    return {
        name: parameter.detach().clone().expand(starts, *parameter.shape).contiguous()
        for name, parameter in model.named_parameters()
    }


def free_scalar_count(model: nn.Module) -> int:
    """Return the number of estimated parameters, as AIC and BIC count them."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def assign(model: nn.Module, values: ParameterValues, start: int = 0) -> None:
    """Write one start's values into a model, in place.

    Args:
        model: The model.
        values: Raw name to ``(start, *shape)``; names that are missing keep their values.
        start: Which start.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in values:
                parameter.copy_(values[name][start])


def free_names(model: nn.Module) -> tuple[str, ...]:
    """Return the raw names of the parameters that are estimated."""
    return tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def component_values(values: ParameterValues, prefix: str) -> dict[str, Tensor]:
    """Return the values whose names start with ``prefix.``, with the prefix removed."""
    return {name[len(prefix) + 1 :]: value for name, value in values.items() if name.startswith(prefix + ".")}


def flatten_values(values: ParameterValues, names: tuple[str, ...]) -> Tensor:
    """Concatenate named values into one vector per start, ``(start, parameter)``."""
    starts = next(iter(values.values())).shape[0]
    return torch.cat([values[name].reshape(starts, -1) for name in names], dim=1)


def unflatten_values(vector: Tensor, like: ParameterValues, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Split vectors ``(start, parameter)`` back into named values; names not listed are taken from ``like``."""
    starts = vector.shape[0]
    values = {name: value.expand(starts, *value.shape[1:]) for name, value in like.items()}
    position = 0
    for name in names:
        shape = like[name].shape[1:]
        values[name] = vector[:, position : position + shape.numel()].reshape(starts, *shape)
        position += shape.numel()
    return values
