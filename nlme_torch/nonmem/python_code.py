"""Expressions written out in Python: with torch for methods of a model, with NumPy for columns of a table."""

import re
from collections.abc import Callable

from nlme_torch.nonmem.algebra import contains
from nlme_torch.nonmem.expressions import (
    Before,
    Binary,
    Call,
    Element,
    Expression,
    Name,
    Number,
    Unary,
    Where,
    rebuilt,
)

Leaf = Callable[[Expression], str]

_RANK = {"or": 1, "and": 2, "==": 4, "!=": 4, "<": 4, "<=": 4, ">": 4, ">=": 4, "+": 5, "-": 5, "*": 6, "/": 6, "**": 8}
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
_ATOM = 10  # more than any operator
_TORCH = {"EXP": "exp", "LOG": "log", "LOG10": "log10", "SQRT": "sqrt", "ABS": "abs", "SIN": "sin", "COS": "cos",
          "TAN": "tan", "ASIN": "asin", "ACOS": "acos", "ATAN": "atan", "SINH": "sinh", "COSH": "cosh", "TANH": "tanh",
          "INT": "trunc", "GAMLN": "lgamma", "ATAN2": "atan2"}  # fmt: skip
_MATH = {**_TORCH, "ABS": "fabs"}
_NUMPY = {**_TORCH, "ASIN": "arcsin", "ACOS": "arccos", "ATAN": "arctan", "ATAN2": "arctan2"}


def is_constant(expression: Expression) -> bool:
    """Whether an expression is made of numbers only."""
    return not contains(expression, lambda part: isinstance(part, Name | Element | Before))


def plain(text: str) -> str:
    """Return a number of Fortran's as one of Python's."""
    mantissa, mark, exponent = text.partition("E")
    if not mark and not re.search(r"[.]", mantissa):
        return mantissa.lstrip("0") or "0"
    mantissa = (mantissa + "0" if mantissa.endswith(".") else mantissa) if "." in mantissa else mantissa
    mantissa = "0" + mantissa if mantissa.startswith(".") else mantissa
    return f"{mantissa}e{int(exponent)}" if mark else mantissa


class Printer:
    """Writes expressions for one method.

    Args:
        leaf: Text of a variable, data item, parameter, effect or compartment.
        library: ``"torch"`` or ``"np"``.
    """

    def __init__(self, leaf: Leaf, library: str = "torch") -> None:
        self.leaf, self.library = leaf, library

    def text(self, expression: Expression, rank: int = 0) -> str:
        """Return the text, in brackets where the surroundings bind more strongly than ``rank`` allows."""
        text, own = self._written(expression)
        return f"({text})" if own < rank else text

    def _written(self, expression: Expression) -> tuple[str, int]:
        match expression:
            case Number(text):
                return plain(text), _ATOM
            case Name() | Element():
                return self.leaf(expression), _ATOM
            case Unary("-", operand):
                return f"-{self.text(operand, 6)}", 5
            case Unary(_, operand):
                return f"~{self.text(operand, _ATOM)}", 9
            case Binary("and" | "or" as operator, left, right):
                sign = {"and": "&", "or": "|"}[operator]
                return f"{self.text(left, _ATOM)} {sign} {self.text(right, _ATOM)}", 3
            case Binary("**", base, power):
                return f"{self.text(base, 9)}**{self.text(power, 9)}", 8
            case Binary(operator, left, right):
                own = _RANK[operator]
                inside = own + 1 if operator in _COMPARISONS else own
                return f"{self.text(left, inside)} {operator} {self.text(right, own + 1)}", own
            case Call():
                return self._call(expression)
            case Where():
                return self._where(expression)
        raise AssertionError(f"{expression} is left in code that is to be written")

    def _call(self, call: Call) -> tuple[str, int]:
        name = call.function
        constant = is_constant(call) and self.library == "torch"
        module = "math" if constant else self.library
        if name == "MOD":
            left, right = call.arguments
            whole = "math.trunc" if constant else f"{module}.trunc"
            text = (
                f"{self.text(left, 5)} - {self.text(right, 6)} * {whole}({self.text(left, 6)} / {self.text(right, 7)})"
            )
            return text, 5
        if name == "PHI":
            erfc = f"{module}.erfc" if module != "np" else "special.erfc"
            return f"0.5 * {erfc}({self.text(Unary('-', call.arguments[0]))} / math.sqrt(2))", 6
        if name in ("MIN", "MAX"):
            return self._extreme(call, constant), _ATOM
        if name == "GAMLN" and self.library == "np":
            return f"special.gammaln({self.text(call.arguments[0])})", _ATOM
        known = {"math": _MATH, "torch": _TORCH, "np": _NUMPY}[module]
        return f"{module}.{known[name]}({', '.join(self.text(part) for part in call.arguments)})", _ATOM

    def _extreme(self, call: Call, constant: bool) -> str:
        left, right = call.arguments
        word = call.function.lower()
        if constant:
            return f"{word}({self.text(left)}, {self.text(right)})"
        if self.library == "torch" and (is_constant(left) or is_constant(right)):
            bound, other = (left, right) if is_constant(left) else (right, left)
            return f"torch.clamp({self.text(other)}, {'max' if word == 'min' else 'min'}={self.text(bound)})"
        return f"{self.library}.{word}imum({self.text(left)}, {self.text(right)})"

    def _where(self, where: Where) -> tuple[str, int]:
        condition = self.text(where.condition)
        if self.library == "np":
            return f"np.where({condition}, {self.text(where.yes)}, {self.text(where.no)})", _ATOM
        yes, no = where.yes, where.no
        if is_constant(yes) and is_constant(no):
            return self._numbers(where.condition, yes, no)
        yes, no = _guarded(yes, where.condition, True), _guarded(no, where.condition, False)
        return f"torch.where({condition}, {self.text(yes)}, {self.text(no)})", _ATOM

    def _numbers(self, condition: Expression, yes: Expression, no: Expression) -> tuple[str, int]:
        """A choice between two numbers, in double precision whatever torch's default is."""
        held = f"({self.text(condition)}).double()"
        other = f"(~({self.text(condition)})).double()"
        if isinstance(no, Number) and no.value == 0:
            return (held, _ATOM) if isinstance(yes, Number) and yes.value == 1 else (f"{self.text(yes, 6)} * {held}", 6)
        if isinstance(yes, Number) and yes.value == 0:
            return (other, _ATOM) if isinstance(no, Number) and no.value == 1 else (f"{self.text(no, 6)} * {other}", 6)
        return f"{self.text(yes, 6)} * {held} + {self.text(no, 6)} * {other}", 5


def _guarded(branch: Expression, condition: Expression, held: bool) -> Expression:
    """A branch whose logarithms, roots and quotients see 1 where it is not meant: 0 x inf would be no gradient."""
    compared = {part for part in _sides(condition) if not is_constant(part)}

    def safe(part: Expression) -> Expression:
        return Where(condition, part, Number("1")) if held else Where(condition, Number("1"), part)

    def change(part: Expression) -> Expression | None:
        match part:
            case Call("LOG" | "SQRT" | "LOG10" as function, (argument,)) if argument in compared:
                return Call(function, (safe(argument),))
            case Binary("/", left, right) if right in compared:
                return Binary("/", rebuilt(left, change), safe(right))
            case Binary("**", base, power) if base in compared and not isinstance(power, Number):
                return Binary("**", safe(base), rebuilt(power, change))
        return None

    return rebuilt(branch, change)


def _sides(condition: Expression) -> list[Expression]:
    """What a condition compares."""
    match condition:
        case Unary(_, operand):
            return _sides(operand)
        case Binary("and" | "or", left, right):
            return _sides(left) + _sides(right)
        case Binary(_, left, right):
            return [left, right]
    return []
