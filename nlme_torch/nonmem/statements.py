"""Statements of abbreviated code: assignments and IF blocks."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from nlme_torch.nonmem.control_stream import ControlStream, Line, Record
from nlme_torch.nonmem.expressions import Element, Expression, ExpressionError, ExpressionReader, Name


@dataclass(frozen=True)
class Assignment:
    """``target = value``."""

    target: Name | Element
    value: Expression
    line: int


@dataclass(frozen=True)
class If:
    """IF, ELSE IF ..., ELSE: conditions with what is done, and what is done where none holds."""

    branches: tuple[tuple[Expression, tuple["Statement", ...]], ...]
    otherwise: tuple["Statement", ...]
    line: int


@dataclass(frozen=True)
class Refused:
    """A statement that cannot be converted; an error unless it is never reached (``IF (ICALL.EQ.4)``)."""

    message: str
    line: int


@dataclass(frozen=True)
class Exit:
    """``EXIT n k``: the parameters are impossible, try others."""

    line: int


Statement: TypeAlias = Assignment | If | Refused | Exit

_IF = re.compile(r"\s*(ELSE\s*)?IF\s*(?=\()", re.IGNORECASE)
_OTHER = re.compile(
    r"\s*(CALL|INCLUDE|WRITE|PRINT|OPEN|CLOSE|RETURN|DO|DOWHILE|WHILE|GOTO|COMRES|READ|STOP|REWIND)\b", re.IGNORECASE
)


def read_statements(
    stream: ControlStream, record: Record, element: Callable[[str, str], Expression]
) -> tuple[Statement, ...]:
    """Read the code of a record such as $PK.

    Args:
        stream: The stream, for messages.
        record: The record.
        element: Resolves THETA(CL), ETA(OCC_V), A(DEPOT).

    Raises:
        ModelError: A line cannot be read; file and line are named.
    """
    return _Reader(stream, _joined(stream, record), element).body(())


def _joined(stream: ControlStream, record: Record) -> list[Line]:
    """Lines with text, continued ones joined."""
    lines: list[Line] = []
    continued = False
    for line in record.lines:
        text = line.text.strip()
        if text.startswith('"'):
            stream.refuse(line.number, "verbatim code cannot be converted; write it as abbreviated code")
        if not text or re.match(r"INCLUDE\s+\S*nonmem_reserved_general\b", text, re.IGNORECASE):
            continue  # that file names variables of NONMEM's, nothing else
        more = text.endswith("&")
        text = text.rstrip("&").rstrip()
        if continued:
            lines[-1] = Line(lines[-1].number, f"{lines[-1].text} {text.lstrip('&')}")
        else:
            lines.append(Line(line.number, text))
        continued = more
    return lines


class _Reader:
    def __init__(self, stream: ControlStream, lines: Sequence[Line], element: Callable[[str, str], Expression]) -> None:
        self.stream, self.lines, self.element, self.place = stream, lines, element, 0

    def body(self, ends: tuple[str, ...], opened: int = 0) -> tuple[Statement, ...]:
        """Statements up to one of some words, which stays to be read."""
        found: list[Statement] = []
        while self.place < len(self.lines):
            line = self.lines[self.place]
            word = self._block_word(line.text)
            if word is not None:
                if word in ends:
                    return tuple(found)
                self._refuse(line.number, f"{word} without IF (...) THEN")
            self.place += 1
            statement = self._statement(line.text, line.number)
            if statement is not None:
                found.append(statement)
        if ends:
            self._refuse(opened, "this IF (...) THEN has no ENDIF")
        return tuple(found)

    def _block_word(self, text: str) -> str | None:
        squeezed = re.sub(r"\s+", "", text.upper())
        if squeezed in ("ELSE", "ENDIF"):
            return squeezed
        return "ELSEIF" if re.match(r"\s*ELSE\s*IF\s*\(", text, re.IGNORECASE) else None

    def _statement(self, text: str, number: int) -> Statement | None:
        if _IF.match(text):
            return self._if(text, number)
        if re.match(r"\s*EXIT\b", text, re.IGNORECASE):
            return Exit(number)
        if _OTHER.match(text):
            return Refused(f"{text.split('(')[0].split()[0].upper()} cannot be converted", number)
        if re.match(r"\s*\(", text):
            self._option(text, number)
            return None
        target, sign, value = text.partition("=")
        if not sign:
            self._refuse(number, f"{text.strip()[:40]!r} is neither an assignment nor an IF")
        left = self._expression(target, number)
        if not isinstance(left, Name | Element):
            self._refuse(number, f"{target.strip()!r} is nothing that a value can be given to")
        return Assignment(left, self._expression(value, number), number)

    def _option(self, text: str, number: int) -> None:
        """``(ONLY OBSERVATIONS)`` and its like: when the code is called."""
        words = re.sub(r"[^A-Z]", " ", text.upper()).split()
        if "ONCE" in words or "INDIVIDUAL" in words:
            self._refuse(number, "write CALLFL=1 in place of a phrase in brackets")
        if not words or any(not re.match(r"ONLY|OBS|EVERY|EVENT|CALLFL|ONCE|PER|IND|ADD|LAG", word) for word in words):
            self._refuse(number, f"{text.strip()[:40]!r} cannot be read")

    def _if(self, text: str, number: int) -> Statement:
        condition, rest = self._condition(text, number)
        if re.sub(r"\s+", "", rest.upper()) != "THEN":
            inner = self._statement(rest, number)
            return If(((condition, () if inner is None else (inner,)),), (), number)
        branches = [(condition, self.body(("ELSE", "ELSEIF", "ENDIF"), number))]
        otherwise: tuple[Statement, ...] = ()
        while True:
            line = self.lines[self.place]
            word = self._block_word(line.text)
            self.place += 1
            if word == "ENDIF":
                return If(tuple(branches), otherwise, number)
            if word == "ELSE":
                otherwise = self.body(("ENDIF",), number)
            else:
                condition, _ = self._condition(line.text, line.number)
                branches.append((condition, self.body(("ELSE", "ELSEIF", "ENDIF"), number)))

    def _condition(self, text: str, number: int) -> tuple[Expression, str]:
        start = text.index("(")
        depth = 0
        for place in range(start, len(text)):
            depth += {"(": 1, ")": -1}.get(text[place], 0)
            if depth == 0:
                return self._expression(text[start + 1 : place], number), text[place + 1 :]
        self._refuse(number, "a bracket is not closed")

    def _expression(self, text: str, number: int) -> Expression:
        try:
            return ExpressionReader(text, lambda name, index: self.element(name, index)).read()
        except ExpressionError as error:
            self._refuse(number, str(error))

    def _refuse(self, number: int, message: str) -> NoReturn:
        self.stream.refuse(number, message)
