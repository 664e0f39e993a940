"""Checks of settings: what a strategy is given must be what its fields declare, and lie where it has a meaning."""

import math
from collections.abc import Callable
from dataclasses import fields
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from nlme_torch.errors import NLMEError


def check_types(settings: Any, error: type[NLMEError]) -> None:
    """Refuse a value of another type than its field declares; a truth value is no number, and no number is NaN.

    Args:
        settings: A frozen dataclass.
        error: What to raise.
    """
    kind = type(settings)
    hints = get_type_hints(kind)
    for field in fields(settings):
        value, wanted = getattr(settings, field.name), hints[field.name]
        if not _suits(value, wanted):
            raise error(f"{kind.__name__}: {field.name} must be {_words(wanted)}, got {value!r:.60}.")


def check_values(place: str, error: type[NLMEError], **given: tuple[Any, Any]) -> None:
    """Refuse an argument of a public function that is of another type than the function declares.

    Args:
        place: The function.
        error: What to raise.
        **given: Name of the argument to what was given and the type that is wanted, as in an annotation.

    Example:
        >>> from nlme_torch.errors import FitError
        >>> check_values("profile", FitError, points=("many", int))
        Traceback (most recent call last):
        nlme_torch.errors.FitError: profile: points must be a whole number, got 'many'.
    """
    for name, (value, wanted) in given.items():
        if not _suits(value, wanted):
            raise error(f"{place}: {name} must be {_words(wanted)}, got {value!r:.60}.")


def check_level(place: str, error: type[NLMEError], level: Any) -> None:
    """Refuse what is no probability that an interval can hold.

    Args:
        place: The function.
        error: What to raise.
        level: What stands for the probability.
    """
    check_values(place, error, level=(level, float))
    if not 0 < level < 1:
        raise error(f"{place}: level must lie between 0 and 1, such as 0.95, got {level!r:.60}.")


def check_above(settings: Any, error: type[NLMEError], bound: float, *names: str) -> None:
    """Refuse numbers that are not above a bound; None and texts pass.

    Args:
        settings: A frozen dataclass.
        error: What to raise.
        bound: Below all values that are allowed.
        names: Of the fields.
    """
    _check(settings, error, names, lambda value: value > bound, f"above {bound:g}")


def check_at_least(settings: Any, error: type[NLMEError], bound: float, *names: str) -> None:
    """Refuse numbers below a bound; None and texts pass.

    Args:
        settings: A frozen dataclass.
        error: What to raise.
        bound: The smallest value that is allowed.
        names: Of the fields.

    Example:
        >>> import nlme_torch as nlme
        >>> nlme.BFGS(iterations=-1)
        Traceback (most recent call last):
        nlme_torch.errors.FitError: BFGS: iterations must be finite and at least 0, got -1.
    """
    _check(settings, error, names, lambda value: value >= bound, f"at least {bound:g}")


def _check(
    settings: Any, error: type[NLMEError], names: tuple[str, ...], allowed: Callable[[Any], bool], words: str
) -> None:
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, Real) and not (allowed(value) and math.isfinite(value)):
            raise error(f"{type(settings).__name__}: {name} must be finite and {words}, got {value!r}.")


def _suits(value: Any, wanted: Any) -> bool:
    origin = get_origin(wanted)
    if origin in (Union, UnionType):
        return any(_suits(value, one) for one in get_args(wanted))
    if origin is Literal:
        return isinstance(value, str) and value in get_args(wanted)
    if wanted in (int, float):
        number = Integral if wanted is int else Real
        return isinstance(value, number) and not isinstance(value, bool) and value == value  # NaN differs from itself
    if not isinstance(wanted, type):
        return True
    return isinstance(value, wanted) and not isinstance(value, type)


def _words(wanted: Any) -> str:
    if get_origin(wanted) in (Union, UnionType):
        return " or ".join(_words(one) for one in get_args(wanted))
    if get_origin(wanted) is Literal:
        return " or ".join(map(repr, get_args(wanted)))
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", type(None): "None"}
    return names.get(wanted) or f"a {getattr(wanted, '__name__', wanted)} object"
