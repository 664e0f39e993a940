"""Expressions of abbreviated code: what they are made of, and how they are read.

NM-TRAN's abbreviated code is a small part of Fortran: assignments, IF blocks, a dozen functions. It is read here by a
grammar of its own rather than through a library: public streams that such libraries refuse differ in small things
(options of other records, repeated values, functions), every message must name the line, and the words and the order
of the user's code are to be kept in the Python that is written.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Number:
    """A number as it was written."""

    text: str

    @property
    def value(self) -> float:
        """Its value."""
        return float(self.text)


@dataclass(frozen=True)
class Name:
    """A variable or data item; version tells assignments of one variable apart, 0 for what was not assigned."""

    name: str
    version: int = 0


@dataclass(frozen=True)
class Element:
    """THETA(1), ETA(2), EPS(1), A(3), A_0(1), DADT(2)."""

    name: str
    index: int


@dataclass(frozen=True)
class Call:
    """A function of expressions."""

    function: str
    arguments: tuple["Expression", ...]


@dataclass(frozen=True)
class Unary:
    """``-x`` or ``.NOT. x``."""

    operator: str
    operand: "Expression"


@dataclass(frozen=True)
class Binary:
    """Arithmetic (+ - * / **), comparison (== != < <= > >=) or logic (and or)."""

    operator: str
    left: "Expression"
    right: "Expression"


@dataclass(frozen=True)
class Where:
    """One expression where a condition holds, another elsewhere."""

    condition: "Expression"
    yes: "Expression"
    no: "Expression"


@dataclass(frozen=True)
class Before:
    """The value that a variable had when the code ran for the record before: no assignment was met."""

    name: str
    line: int


Expression: TypeAlias = Number | Name | Element | Call | Unary | Binary | Where | Before

ZERO, ONE = Number("0"), Number("1")

FUNCTIONS = {
    "EXP": 1, "LOG": 1, "LOG10": 1, "SQRT": 1, "ABS": 1, "SIN": 1, "COS": 1, "TAN": 1, "ASIN": 1, "ACOS": 1, "ATAN": 1,
    "SINH": 1, "COSH": 1, "TANH": 1, "INT": 1, "PHI": 1, "GAMLN": 1, "MOD": 2, "MIN": 2, "MAX": 2, "ATAN2": 2,
}  # fmt: skip
"""Functions of abbreviated code to their number of arguments."""

_SAME = {
    **{f"D{name}": name for name in ("EXP", "LOG", "LOG10", "SQRT", "ABS", "SIN", "COS", "TAN", "INT", "MOD")},
    **{f"P{name}": name for name in ("EXP", "LOG", "LOG10", "SQRT", "SIN", "COS", "TAN", "ASIN", "ACOS", "ATAN")},
    **dict.fromkeys(("AMIN1", "DMIN1", "MIN0", "AMIN0"), "MIN"), **dict.fromkeys(("AMAX1", "DMAX1", "MAX0"), "MAX"),
    "ALOG": "LOG", "ALOG10": "LOG10", "AMOD": "MOD", "IABS": "ABS", "FLOOR": "FLOOR", "LN": "LN", "GAMMLN": "GAMLN",
}  # fmt: skip
"""Other names of functions; PEXP, PLOG and such guard against overflow and are the same elsewhere."""

ELEMENTS = (
    "THETA",
    "ETA",
    "EPS",
    "ERR",
    "SIGMA",
    "OMEGA",
    "A",
    "DADT",
    "A_0",
    "P",
    "MTIME",
    "MPAST",
    "MNEXT",
    "MTDIFF",
    "A_0FLG",
)

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.(?![A-Za-z]+\.)\d*|\.\d+|\d+)(?:[EDed][+-]?\d+)?)"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<dotted>\.[A-Za-z]+\.)|(?P<sign>\*\*|==|/=|<=|>=|[-+*/()=<>,]))"
)
_RELATIONS = {"EQ": "==", "NE": "!=", "LT": "<", "LE": "<=", "GT": ">", "GE": ">=", "EQN": "==", "NEN": "!="}

Refuse: TypeAlias = Callable[[str], Exception]


class ExpressionError(ValueError):
    """What is wrong with an expression; the caller knows the line."""


def tokens(text: str) -> list[tuple[str, str]]:
    """Cut a text into (kind, token), where kind is number, word or sign."""
    found, place = [], 0
    text = text.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise ExpressionError(f"{text[place:].strip()[:20]!r} cannot be read")
        kind = match.lastgroup or ""
        token = match[kind].upper()
        if kind == "dotted":
            word = token.strip(".")
            if word in _RELATIONS:
                token = _RELATIONS[word]
            elif word in ("AND", "OR", "NOT"):
                token = word.lower()
            elif word in ("TRUE", "FALSE"):
                kind, token = "number", "1" if word == "TRUE" else "0"
            else:
                raise ExpressionError(f"{token} is no operator")
            kind = "sign" if kind == "dotted" else kind
        elif token == "/=":
            token = "!="
        elif kind == "number":
            token = token.replace("D", "E")
        found.append((kind, token))
        place = match.end()
    return found


class ExpressionReader:
    """Reads one expression by recursive descent.

    Args:
        text: The expression.
        element: Turns the name and the text of the index of THETA(CL), ETA(OCC_V), A(1) into an expression.
    """

    def __init__(self, text: str, element: Callable[[str, str], Expression]) -> None:
        self.tokens, self.place, self.element = tokens(text), 0, element

    def read(self) -> Expression:
        """Return the expression; raises ExpressionError."""
        found = self._or()
        if self.place < len(self.tokens):
            raise ExpressionError(f"{self.tokens[self.place][1]!r} is not expected there")
        return found

    def _peek(self) -> str:
        return self.tokens[self.place][1] if self.place < len(self.tokens) else ""

    def _take(self, *wanted: str) -> str | None:
        if self.place < len(self.tokens) and self.tokens[self.place][0] == "sign" and self._peek() in wanted:
            self.place += 1
            return self.tokens[self.place - 1][1]
        return None

    def _or(self) -> Expression:
        left = self._and()
        while self._take("or"):
            left = Binary("or", left, self._and())
        return left

    def _and(self) -> Expression:
        left = self._not()
        while self._take("and"):
            left = Binary("and", left, self._not())
        return left

    def _not(self) -> Expression:
        return Unary("not", self._not()) if self._take("not") else self._relation()

    def _relation(self) -> Expression:
        left = self._sum()
        sign = self._take("==", "!=", "<", "<=", ">", ">=")
        return left if sign is None else Binary(sign, left, self._sum())

    def _sum(self) -> Expression:
        sign = self._take("+", "-")
        left = Unary("-", self._product()) if sign == "-" else self._product()
        while (sign := self._take("+", "-")) is not None:
            left = Binary(sign, left, self._product())
        return left

    def _product(self) -> Expression:
        left = self._power()
        while (sign := self._take("*", "/")) is not None:
            left = Binary(sign, left, self._power())
        return left

    def _power(self) -> Expression:
        if self._take("-"):
            return Unary("-", self._power())
        if self._take("+"):
            return self._power()
        base = self._atom()
        return Binary("**", base, self._power()) if self._take("**") else base

    def _atom(self) -> Expression:
        if self.place >= len(self.tokens):
            raise ExpressionError("the expression ends too early")
        kind, token = self.tokens[self.place]
        self.place += 1
        if kind == "number":
            return Number(token)
        if kind == "sign":
            if token != "(":
                raise ExpressionError(f"{token!r} is not expected there")
            inner = self._or()
            self._close()
            return inner
        if not self._take("("):
            return Name(token)
        if token in ELEMENTS:
            return self._indexed(token)
        return self._call(token)

    def _close(self) -> None:
        if not self._take(")"):
            raise ExpressionError("a bracket is not closed")

    def _indexed(self, name: str) -> Expression:
        start = self.place
        while self.place < len(self.tokens) and self._peek() != ")":
            self.place += 1
        index = "".join(token for _, token in self.tokens[start : self.place])
        self._close()
        return self.element("EPS" if name == "ERR" else name, index)

    def _call(self, token: str) -> Expression:
        name = _SAME.get(token, token)
        arguments = [self._or()]
        while self._take(","):
            arguments.append(self._or())
        self._close()
        if name not in FUNCTIONS:
            raise ExpressionError(f"{token} is no function that is known here")
        if name in ("MIN", "MAX") and len(arguments) > 2:
            while len(arguments) > 2:
                arguments[-2:] = [Call(name, (arguments[-2], arguments[-1]))]
        if len(arguments) != FUNCTIONS[name]:
            raise ExpressionError(f"{token} takes {FUNCTIONS[name]} arguments, not {len(arguments)}")
        return Call(name, tuple(arguments))


def children(expression: Expression) -> tuple[Expression, ...]:
    """Return the parts of an expression."""
    match expression:
        case Call(_, arguments):
            return arguments
        case Unary(_, operand):
            return (operand,)
        case Binary(_, left, right):
            return left, right
        case Where(condition, yes, no):
            return condition, yes, no
        case _:
            return ()


def walk(expression: Expression) -> Iterator[Expression]:
    """Yield an expression and everything in it."""
    yield expression
    for child in children(expression):
        yield from walk(child)


def rebuilt(expression: Expression, change: Callable[[Expression], Expression | None]) -> Expression:
    """Return an expression in which ``change`` was asked for another one at every place, from the outside inwards."""
    changed = change(expression)
    if changed is not None:
        return changed
    match expression:
        case Call(function, arguments):
            return Call(function, tuple(rebuilt(argument, change) for argument in arguments))
        case Unary(operator, operand):
            return Unary(operator, rebuilt(operand, change))
        case Binary(operator, left, right):
            return Binary(operator, rebuilt(left, change), rebuilt(right, change))
        case Where(condition, yes, no):
            return Where(rebuilt(condition, change), rebuilt(yes, change), rebuilt(no, change))
        case _:
            return expression
