"""What user code sees of one subject: ``p`` with its parameters and networks, ``y`` with its states."""

from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from nlme_torch.errors import ModelError
from nlme_torch.model.networks import BoundNetwork

Value = Tensor | BoundNetwork | tuple[Tensor, ...] | float


class Individual:
    """The parameters, latents, networks and derived quantities of the current subjects, by attribute name.

    User code treats every attribute as a number of one subject; it is a tensor over ``(chain, start, subject)``.

    Args:
        values: Attribute name to value.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ModelError(f"p has no {name!r}; it has {', '.join(sorted(self.__dict__))}.")

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)


class Covariates(Individual):
    """The constant covariates of the current subjects, by column name.

    Args:
        values: Covariate name to ``(subject,)``.
        changing: Names of covariates that change within subjects, for the message.
    """

    def __init__(self, values: Mapping[str, Any], changing: tuple[str, ...] = ()) -> None:
        super().__init__(values)
        self.__dict__["__changing"] = changing

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self.__dict__["__changing"]:
            raise ModelError(
                f"covariate {name!r} changes within subjects, which models do not read yet; use a constant one."
            )
        raise ModelError(f"the data have no covariate {name!r}; they have {', '.join(sorted(self)) or 'none'}.")

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.__dict__ if name != "__changing")


def flatten(values: Mapping[str, Any]) -> tuple[tuple[Tensor, ...], tuple[tuple[str, Any], ...]]:
    """Split named values into tensors and the static rest, for pure functions of tensors.

    Args:
        values: Attribute name to tensor, network, tuple of tensors or number.

    Returns:
        The tensors, and a specification with which :func:`unflatten` restores the values.

    Raises:
        ModelError: A value holds tensors where they cannot be found, which would lose their gradients.
    """
    leaves: list[Tensor] = []
    specification: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Tensor):
            leaves.append(value)
            specification.append((name, None))
        elif isinstance(value, BoundNetwork):
            leaves.append(value.weights)
            specification.append((name, value.network))
        elif isinstance(value, tuple | list) and all(isinstance(entry, Tensor) for entry in value):
            leaves.extend(value)
            specification.append((name, len(value)))
        elif isinstance(value, Real | str | None):
            specification.append((name, (value,)))
        else:
            raise ModelError(
                f"individual returned a {type(value).__name__} for {name!r}; return a tensor, a number or a tuple of "
                "tensors."
            )
    return tuple(leaves), tuple(specification)


def unflatten(specification: tuple[tuple[str, Any], ...], leaves: tuple[Tensor, ...]) -> Individual:
    """Restore the values that :func:`flatten` took apart."""
    values: dict[str, Any] = {}
    position = 0
    for name, kind in specification:
        if kind is None:
            values[name] = leaves[position]
            position += 1
        elif isinstance(kind, int):
            values[name] = leaves[position : position + kind]
            position += kind
        elif isinstance(kind, tuple):
            values[name] = kind[0]
        else:
            values[name] = BoundNetwork(kind, leaves[position])
            position += 1
    return Individual(values)


def stack_states(values: Any, states: tuple[str, ...], like: Tensor, source: str) -> Tensor:
    """Stack what ``initial`` or ``dynamics`` returned into one tensor.

    Args:
        values: A sequence of one value per state: tensors that broadcast to the batch, or numbers.
        states: Names of the states.
        like: A tensor with the batch shape, dtype and device wanted, ``(*batch)``.
        source: ``"initial"`` or ``"dynamics"``, for the message.

    Returns:
        ``(state, *batch)``.

    Raises:
        ModelError: Wrong number of values, or a value that is not a number of one subject.
    """
    if isinstance(values, Tensor) and values.dim() == like.dim() and len(states) == 1:
        values = (values,)
    if not isinstance(values, tuple | list):
        raise ModelError(
            f"{source} must return a tuple with one value per state {states}, got {type(values).__name__}."
        )
    if len(values) != len(states):
        raise ModelError(f"{source} returned {len(values)} values for the {len(states)} states {', '.join(states)}.")
    rows = []
    for name, value in zip(states, values, strict=True):
        if isinstance(value, complex) or (isinstance(value, Tensor) and value.is_complex()):
            raise ModelError(f"{source} returned a complex value for state {name!r}; states are real.")
        if not isinstance(value, Tensor | Real):
            raise ModelError(f"{source} returned a {type(value).__name__} for state {name!r}; return a number.")
        row = (
            value if isinstance(value, Tensor) else torch.as_tensor(float(value), dtype=like.dtype, device=like.device)
        )
        try:
            rows.append(row.to(like.dtype).expand(like.shape) if row.shape != like.shape else row)
        except RuntimeError:
            raise ModelError(
                f"{source} returned shape {tuple(row.shape)} for state {name!r}, which is not one number per subject "
                f"(batch {tuple(like.shape)}); write plain arithmetic on scalars."
            ) from None
    return torch.stack(rows)
