"""Text covariates as user code sees them: compared with the names of their levels, and nothing else."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from nlme_torch.data.table.cells import as_label
from nlme_torch.errors import ModelError


class Category:
    """A text covariate of the current subjects: ``cov.SEX == "male"`` is True for the men.

    Levels are matched by name. Comparison with a name that is no level is an error, and so is arithmetic: the numbers
    of levels mean nothing. ``0.3 * (cov.SEX == "male")`` and ``torch.where(cov.SEX == "male", a, b)`` are what to
    write.

    Args:
        name: Name of the covariate.
        levels: Its levels.
        codes: Position of the level, ``(subject,)``, or ``(record, 1, 1, subject)`` where it changes.
    """

    __slots__ = ("codes", "levels", "name")

    def __init__(self, name: str, levels: tuple[str, ...], codes: Tensor) -> None:
        self.name, self.levels, self.codes = name, levels, codes

    def __eq__(self, other: object) -> Any:
        return self._is(other)

    def __ne__(self, other: object) -> Any:
        return ~self._is(other)

    __hash__ = None  # type: ignore[assignment]

    def _is(self, other: object) -> Tensor:
        """Where the covariate has a level; within half a code, because compiled equations know no whole numbers."""
        level = str(as_label(other)) if isinstance(other, str | int | float) else None
        if level not in self.levels:
            raise ModelError(f"{self.name} is compared with {other!r}; its levels are {quoted(self.levels)}.")
        return (self.codes - float(self.levels.index(level))).abs() < 0.5

    def indicators(self, levels: tuple[str, ...]) -> Tensor:
        """Return 1 where the covariate has a level and 0 elsewhere, ``(level, subject)``."""
        return torch.stack([self._is(level) for level in levels]).to(self.codes.dtype)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Category":
        """Return the same covariate with its codes moved, selected or repeated."""
        return Category(self.name, self.levels, function(self.codes))

    def __deepcopy__(self, memo: dict[Any, Any]) -> "Category":
        return Category(self.name, self.levels, copy.deepcopy(self.codes, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return Category, (self.name, self.levels, self.codes)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        # called where the covariate stands among the arguments of a function of torch
        flat = [entry for arg in args for entry in (arg if isinstance(arg, tuple | list) else (arg,))]
        next(entry for entry in flat if isinstance(entry, Category))._refuse()

    def _refuse(self, *_: Any) -> NoReturn:
        raise ModelError(
            f"{self.name} holds text ({quoted(self.levels)}), which is no number: compare it with a level, such as "
            f'(cov.{self.name} == "{self.levels[-1]}"), or declare nlme.Shift("{self.name}").'
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __pow__ = __rpow__ = __neg__ = __abs__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __float__ = __int__ = __bool__ = __index__ = __getitem__ = __iter__ = __len__ = _refuse

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._refuse()


class NumericCovariate(Tensor):
    """A covariate that holds numbers: a tensor that refuses to be compared with text.

    Without it ``cov.SEX == "male"`` would be False for everybody where the table holds numbers.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __eq__(self, other: object) -> Any:
        return torch.eq(self._plain(other), other)  # type: ignore[call-overload]

    def __ne__(self, other: object) -> Any:
        return torch.ne(self._plain(other), other)  # type: ignore[call-overload]

    __hash__ = Tensor.__hash__

    def _plain(self, other: object) -> Tensor:
        if isinstance(other, str):
            raise ModelError(
                f"a covariate that holds numbers is compared with {other!r}; compare it with a number, or write names "
                "in the table and declare the column in covariates= to read it as a category."
            )
        return self.as_subclass(Tensor)

    def __deepcopy__(self, memo: dict[Any, Any]) -> "NumericCovariate":
        return copy.deepcopy(self.as_subclass(Tensor), memo).as_subclass(NumericCovariate)


def numeric(value: Any) -> Any:
    """Return a covariate's tensor as one that refuses text; anything else as it is."""
    return value.as_subclass(NumericCovariate) if type(value) is Tensor else value


def plain(value: Any) -> Any:
    """Return a covariate's numbers as an ordinary tensor; anything else as it is."""
    return value.as_subclass(Tensor) if isinstance(value, NumericCovariate) else value


def quoted(levels: tuple[str, ...] | Mapping[str, Any]) -> str:
    """Return levels as a list for messages."""
    return ", ".join(map(repr, levels)) or "(none)"
