"""What user code sees of one subject: ``p`` with its parameters and networks, ``y`` with its states."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nlme_torch.data.table.closest import closest
from nlme_torch.errors import ModelError
from nlme_torch.model.individual.category import Category, numeric, plain
from nlme_torch.model.networks.networks import BoundNetwork

Value = Tensor | BoundNetwork | Category | tuple[Tensor, ...] | float

RECORD_DIMENSIONS = 4  # (record, chain, start, subject)


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
        near = closest(name, self.__dict__)
        guess = f" Did you mean p.{near}?" if near else ""
        raise ModelError(f"p has no {name!r}; it has {', '.join(sorted(self.__dict__))}.{guess}")

    def __getitem__(self, name: Any) -> Any:
        owner = "cov" if isinstance(self, Covariates) else "p"
        raise ModelError(f"what {owner} holds is an attribute: write {owner}.{name}, not {owner}[{name!r}].")

    def __setattr__(self, name: str, value: Any) -> None:
        # what is written here would be lost: every method is given an object of its own
        owner = "cov" if isinstance(self, Covariates) else "p"
        raise ModelError(
            f"{owner}.{name} = ... changes nothing outside this method; give a value to a plain name, and return what "
            f'the other methods are to see from individual: return {{"{name}": value}}.'
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)


class ChangingIndividual(Individual):
    """An individual some of whose quantities change from record to record: ``(record, chain, start, subject)``.

    Args:
        values: Attribute name to value at the records.
        after: The same as they hold just after each record, which ``dynamics`` sees.
        until: The same just before the next record.
    """

    __slots__ = ("_after", "_until")

    def __init__(self, values: Mapping[str, Any], after: Mapping[str, Any], until: Mapping[str, Any]) -> None:
        super().__init__(values)
        object.__setattr__(self, "_after", after)
        object.__setattr__(self, "_until", until)


class Covariates(Individual):
    """The covariates of the current subjects, by column name.

    Args:
        values: Covariate name to ``(subject,)``, or to ``(record, 1, 1, subject)`` where it changes; text as a
            :class:`Category`.
        refused: Covariates that cannot be read, to the reason.
    """

    __slots__ = ("_refused",)

    def __init__(self, values: Mapping[str, Any], refused: Mapping[str, str] | None = None) -> None:
        super().__init__({name: numeric(value) for name, value in values.items()})
        object.__setattr__(self, "_refused", refused or {})

    def __call__(self, take: Callable[[Tensor], Tensor]) -> "Covariates":
        """Apply a function to what changes from record to record; a call, because any name may be a covariate's."""
        return Covariates(at_records(vars(self), take), self._refused)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self._refused:
            raise ModelError(f"{self._refused[name]}.")
        near = closest(name, self.__dict__)
        guess = f" Did you mean cov.{near}?" if near else ""
        raise ModelError(f"the data have no covariate {name!r}; they have {', '.join(sorted(self)) or 'none'}.{guess}")


def is_changing(value: Any) -> bool:
    """Whether a value of one subject has a record axis, ``(record, chain, start, subject)``."""
    if isinstance(value, tuple | list):
        return any(is_changing(entry) for entry in value)
    if isinstance(value, Category):
        return value.codes.dim() == RECORD_DIMENSIONS
    return isinstance(value, Tensor) and value.dim() == RECORD_DIMENSIONS


def at_records(values: Mapping[str, Any], take: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Apply a function to what changes from record to record, and leave the rest.

    Args:
        values: Attribute name to value.
        take: Selects records of a tensor ``(record, chain, start, subject)``.
    """

    def chosen(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return tuple(chosen(entry) for entry in value)
        if isinstance(value, Category):
            return value.map(take)
        return take(value) if is_changing(value) else value

    return {name: chosen(value) if is_changing(value) else value for name, value in values.items()}


@dataclass(frozen=True)
class Changing:
    """Stands in a specification for a tensor that changes from record to record, or for a tuple with such tensors.

    Attributes:
        entries: For a tuple, which of its entries change; None for a tensor.
    """

    entries: tuple[bool, ...] | None = None


@dataclass(frozen=True)
class Coded:
    """Stands in a specification for a text covariate, whose codes are a tensor.

    Attributes:
        name: Name of the covariate.
        levels: Its levels.
        changing: Whether it changes from record to record.
    """

    name: str
    levels: tuple[str, ...]
    changing: bool


class Flat(NamedTuple):
    """Named values taken apart.

    Attributes:
        leaves: The tensors that hold at all times.
        specification: With which :func:`unflatten` restores the values.
        changing: The tensors ``(record, chain, start, subject)`` that change from record to record.
    """

    leaves: tuple[Tensor, ...]
    specification: tuple[tuple[str, Any], ...]
    changing: tuple[Tensor, ...]


def flatten(values: Mapping[str, Any]) -> Flat:
    """Split named values into tensors and the static rest, for pure functions of tensors.

    Args:
        values: Attribute name to tensor, network, tuple of tensors or number.

    Returns:
        The tensors, and a specification with which :func:`unflatten` restores the values.

    Raises:
        ModelError: A value holds tensors where they cannot be found, which would lose their gradients.
    """
    leaves: list[Tensor] = []
    changing: list[Tensor] = []
    specification: list[tuple[str, Any]] = []
    for name, given in values.items():
        value = plain(given)
        if isinstance(value, Category):
            (changing if is_changing(value) else leaves).append(value.codes)
            specification.append((name, Coded(value.name, value.levels, is_changing(value))))
        elif isinstance(value, Tensor):
            (changing if is_changing(value) else leaves).append(value)
            specification.append((name, Changing() if is_changing(value) else None))
        elif isinstance(value, BoundNetwork):
            leaves.append(value.weights)
            specification.append((name, value.network))
        elif isinstance(value, tuple | list) and all(isinstance(entry, Tensor) for entry in value):
            flags = tuple(is_changing(entry) for entry in value)
            for entry, flag in zip(value, flags, strict=True):
                (changing if flag else leaves).append(plain(entry))
            specification.append((name, Changing(flags) if any(flags) else len(value)))
        elif isinstance(value, Real | str | None):
            specification.append((name, (value,)))
        else:
            raise ModelError(
                f"individual returned a {type(value).__name__} for {name!r}; return a tensor, a number or a tuple of "
                "tensors.",
                method="individual",
            )
    return Flat(tuple(leaves), tuple(specification), tuple(changing))


def unflatten(
    specification: tuple[tuple[str, Any], ...], leaves: tuple[Tensor, ...], changing: tuple[Tensor, ...] = ()
) -> Individual:
    """Restore the values that :func:`flatten` took apart, with what holds at the moment in place of what changes."""
    values: dict[str, Any] = {}
    constant, current = iter(leaves), iter(changing)
    for name, kind in specification:
        if kind is None:
            values[name] = next(constant)
        elif isinstance(kind, Coded):
            values[name] = Category(kind.name, kind.levels, next(current if kind.changing else constant))
        elif isinstance(kind, Changing):
            flags = (True,) if kind.entries is None else kind.entries
            entries = tuple(next(current if flag else constant) for flag in flags)
            values[name] = entries[0] if kind.entries is None else entries
        elif isinstance(kind, int):
            values[name] = tuple(next(constant) for _ in range(kind))
        elif isinstance(kind, tuple):
            values[name] = kind[0]
        else:
            values[name] = BoundNetwork(kind, next(constant))
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
    entry = "value" if source == "initial" else "derivative"
    example = f"({f'{entry}_of_{states[0]}'},)" if len(states) == 1 else ", ".join(f"{entry}_of_{s}" for s in states)
    instead = f"write return {example}"
    if not isinstance(values, tuple | list):
        without = ", without torch.stack or torch.tensor" if isinstance(values, Tensor) else ""
        raise ModelError(
            f"{source} must return a tuple with one value per state {states}, got {type(values).__name__}; "
            f"{instead}{without}.",
            method=source,
        )
    if len(values) != len(states):
        count = len(values)
        raise ModelError(
            f"{source} returned {count} value{'s' * (count != 1)} for the {len(states)} states {', '.join(states)}; "
            f"{instead}.",
            method=source,
        )
    rows = []
    for name, value in zip(states, values, strict=True):
        if isinstance(value, complex) or (isinstance(value, Tensor) and value.is_complex()):
            raise ModelError(f"{source} returned a complex value for state {name!r}; states are real.", method=source)
        if not isinstance(value, Tensor | Real):
            raise ModelError(
                f"{source} returned a {type(value).__name__} for state {name!r}; return a number, by plain arithmetic "
                "and the functions of torch.",
                method=source,
            )
        row = (
            value if isinstance(value, Tensor) else torch.as_tensor(float(value), dtype=like.dtype, device=like.device)
        )
        try:
            rows.append(row.to(like.dtype).expand(like.shape) if row.shape != like.shape else row)
        except RuntimeError:
            raise ModelError(
                f"{source} returned shape {tuple(row.shape)} for state {name!r}, which is not one number per subject "
                f"(batch {tuple(like.shape)}); write plain arithmetic on scalars.",
                method=source,
            ) from None
    return torch.stack(rows)
