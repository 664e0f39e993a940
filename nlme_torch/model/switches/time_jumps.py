"""Operations that jump while their operands move in straight lines, and where they do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Jump:
    """How an operation jumps.

    Attributes:
        level: Of the operands, what is 0 (or a whole number) where the operation jumps.
        whole: Whether it jumps at all whole numbers of the level, rather than at 0.
        held: Of the operands, a number that stays the same between jumps.
        moves: Whether the result moves between jumps.
    """

    level: Callable[..., Tensor]
    whole: bool
    held: Callable[..., Tensor]
    moves: bool = False


ABOVE = Jump(lambda left, right: left - right, False, lambda left, right: left > right)
"""``left > right``, of which every comparison is made."""

_SIGN = Jump(lambda x: x, False, torch.sign)
_DIVISION = Jump(lambda x, y: x / y, True, lambda x, y: torch.floor(x / y))
_TRUNCATED = Jump(lambda x, y: x / y, True, lambda x, y: torch.trunc(x / y))

JUMPS: dict[str, Jump] = {
    "sign": _SIGN,
    "sgn": _SIGN,
    "floor": Jump(lambda x: x, True, torch.floor),
    "ceil": Jump(lambda x: x, True, torch.ceil),
    "trunc": Jump(lambda x: x, True, torch.trunc),
    "fix": Jump(lambda x: x, True, torch.trunc),
    "round": Jump(lambda x: x + 0.5, True, torch.round),
    "heaviside": Jump(lambda x, value: x, False, lambda x, value: (x > 0).to(x.dtype)),
    "long": Jump(lambda x: x, True, torch.trunc),
    "int": Jump(lambda x: x, True, torch.trunc),
    "floor_divide": _DIVISION,
    "floordiv": _DIVISION,
    "div_floor": _DIVISION,
    "div_trunc": _TRUNCATED,
    "remainder": Jump(_DIVISION.level, True, _DIVISION.held, moves=True),
    "fmod": Jump(_TRUNCATED.level, True, _TRUNCATED.held, moves=True),
}
"""By the operation's name, those that are no comparisons."""

# each comparison as "above" of its operands, which of them first, and whether it is the opposite
COMPARISONS: dict[str, tuple[bool, bool]] = {
    "gt": (False, False), "greater": (False, False), "le": (False, True), "less_equal": (False, True),
    "lt": (True, False), "less": (True, False), "ge": (True, True), "greater_equal": (True, True),
}  # fmt: skip
"""By name, whether the operands of :data:`ABOVE` are exchanged, and whether its opposite is meant."""

_WHOLE = {torch.int64: "long", torch.int32: "int"}
_KINDS = {name: kind for kind, name in _WHOLE.items()}

Restored = Callable[[tuple[Any, ...], Tensor], Tensor]


def jump_name(function: Any, operands: tuple[Any, ...], named: Any) -> str | None:
    """The name of an operation that may jump; None for any other."""
    name = getattr(function, "__name__", "").strip("_")
    if name in ("to", "type"):
        given = (*operands[1:], *(named or {}).values())
        return next((_WHOLE[value] for value in given if isinstance(value, torch.dtype) and value in _WHOLE), None)
    if name in COMPARISONS:
        return name
    if name in ("div", "divide", "true_divide"):
        rounding = named.get("rounding_mode") if named else None
        return f"div_{rounding}" if rounding else None
    return name if name in JUMPS else None


def restored(name: str) -> Restored:
    """How the result of an operation that jumps follows from its operands and from what is held between jumps."""
    if name in COMPARISONS:
        opposite = COMPARISONS[name][1]
        return (lambda operands, held: held < 0.5) if opposite else (lambda operands, held: held > 0.5)
    if JUMPS[name].moves:
        return lambda operands, held: operands[0] - operands[1] * held
    if name in _KINDS:
        return lambda operands, held: held.to(_KINDS[name])
    return lambda operands, held: held
