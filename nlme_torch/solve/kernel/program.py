"""A straight-line program of scalar operations: what a vector field does for one subject."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ref:
    """The result of one instruction, or an input."""

    index: int


_FOLD: dict[str, Callable[..., float | bool]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "zmul": lambda a, b: a * b if a and b else 0.0,
    "zdiv": lambda a, b: a / b if a else 0.0,
    "neg": lambda a: -a,
    "abs": abs,
    "exp": math.exp,
    "expm1": math.expm1,
    "log": math.log,
    "log1p": math.log1p,
    "sqrt": math.sqrt,
    "tanh": math.tanh,
    "sin": math.sin,
    "cos": math.cos,
    "floor": math.floor,
    "ceil": math.ceil,
    "pow": lambda a, b: float(a) ** float(b),
    "max": max,
    "min": min,
    "remainder": lambda a, b: a % b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "and": lambda a, b: bool(a) and bool(b),
    "or": lambda a, b: bool(a) or bool(b),
    "not": lambda a: not a,
    "select": lambda c, a, b: a if c else b,
}
MASKS = frozenset({"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "isnan"})


class Program:
    """Instructions in order; each result is computed once (common subexpressions are shared).

    An operand is a ``Ref`` or a number. Instructions are pairs of a name and operands; ``("input", (kind,
    index))`` reads an input.

    Attributes:
        instructions: what to do, in order.
        linear: whether ``0 * x`` is dropped, as it should be among derivatives, where zeros are structural.
    """

    def __init__(self) -> None:
        self.instructions: list[tuple[str, tuple[object, ...]]] = []
        self.linear = False
        self._known: dict[tuple[object, ...], Ref] = {}

    def input(self, kind: str, index: int = 0) -> Ref:
        """An input: "t", "y", "own", "shared" or "bar", and its position."""
        return self._append("input", (kind, index))

    def inputs(self) -> dict[tuple[str, int], int]:
        """Instruction of every input, by kind and position."""
        return {
            (str(operands[0]), int(operands[1])): index  # type: ignore[call-overload]
            for index, (name, operands) in enumerate(self.instructions)
            if name == "input"
        }

    def depending(self, chosen: Callable[[str, int], bool]) -> set[int]:
        """The instructions that depend on some inputs, chosen by kind and position, the inputs among them."""
        found = {index for (kind, position), index in self.inputs().items() if chosen(kind, position)}
        for index, (_, operands) in enumerate(self.instructions):
            if any(isinstance(operand, Ref) and operand.index in found for operand in operands):
                found.add(index)
        return found

    def needed(self, outputs: Iterable[object]) -> set[int]:
        """The instructions on which operands depend, their own among them."""
        found: set[int] = set()
        stack = [operand.index for operand in outputs if isinstance(operand, Ref)]
        while stack:
            index = stack.pop()
            if index not in found:
                found.add(index)
                stack += [operand.index for operand in self.instructions[index][1] if isinstance(operand, Ref)]
        return found

    def is_mask(self, value: object) -> bool:
        """Whether an operand is a truth value."""
        if isinstance(value, Ref):
            name, operands = self.instructions[value.index]
            return name in MASKS or (name == "select" and self.is_mask(operands[1]))
        return isinstance(value, bool)

    def apply(self, name: str, *operands: object) -> object:
        """The result of an operation: a number if the operands are, else a reference."""
        if not any(isinstance(operand, Ref) for operand in operands) and name in _FOLD:
            try:
                return _FOLD[name](*operands)
            except (ArithmeticError, ValueError):
                pass
        simple = self._simplify(name, operands)
        return self._append(name, operands) if simple is None else simple

    def _simplify(self, name: str, operands: tuple[object, ...]) -> object | None:
        first, second = (*operands, None, None)[:2]
        if name == "add":
            return second if is_number(first, 0) else first if is_number(second, 0) else None
        if name == "sub":
            return first if is_number(second, 0) else self.apply("neg", second) if is_number(first, 0) else None
        if name == "mul":
            if self.linear and (is_number(first, 0) or is_number(second, 0)):
                return 0.0
            if is_number(first, -1):
                return self.apply("neg", second)
            return second if is_number(first, 1) else first if is_number(second, 1) else None
        if name == "zmul":
            if is_number(first, 0) or is_number(second, 0):
                return 0.0
            if isinstance(first, Ref) and isinstance(second, Ref):
                return None
            finite = all(isinstance(operand, Ref) or math.isfinite(float(operand)) for operand in operands)  # type: ignore[arg-type]
            return self.apply("mul", first, second) if finite else None
        if name == "zdiv":
            return 0.0 if is_number(first, 0) else first if is_number(second, 1) else None
        if name == "div":
            return 0.0 if self.linear and is_number(first, 0) else first if is_number(second, 1) else None
        if name == "log1p" and isinstance(first, Ref) and self.instructions[first.index][0] == "exp":
            return self.apply("softplus", self.instructions[first.index][1][0])
        if name == "pow":
            return self._power(first, second)
        if name == "select":
            if not isinstance(first, Ref):
                return operands[1] if first else operands[2]
            return operands[1] if operands[1] == operands[2] else None
        return None

    def _power(self, base: object, exponent: object) -> object | None:
        if isinstance(exponent, Ref):
            return None
        number = float(exponent)  # type: ignore[arg-type]
        if number == 0.5:
            return self.apply("sqrt", base)
        if not abs(number) <= 16 or number != int(number):
            return None
        if number < 0:
            return self.apply("div", 1.0, self.apply("pow", base, -number))
        result: object = 1.0
        square, left = base, int(number)
        while left:
            if left & 1:
                result = self.apply("mul", result, square)
            left >>= 1
            if left:
                square = self.apply("mul", square, square)
        return result

    def _append(self, name: str, operands: tuple[object, ...]) -> Ref:
        key = (name, *((type(operand), operand) for operand in operands))
        if key not in self._known:
            self.instructions.append((name, operands))
            self._known[key] = Ref(len(self.instructions) - 1)
        return self._known[key]


def is_number(value: object, number: int) -> bool:
    """Whether an operand is this number."""
    return not isinstance(value, Ref | bool) and value is not None and value == number
