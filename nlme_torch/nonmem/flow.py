"""What code does, as definitions: every assignment its own name, every IF an expression.

Abbreviated code is run once with expressions in place of numbers. A variable that is assigned again is another one
(``Name(CL, 1)``, ``Name(CL, 2)``); after an IF block it is ``Where(condition, a, b)``. Where no branch assigns it, it
keeps the value of the record before, as in NONMEM: ``Before``.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from nlme_torch.nonmem.algebra import simplified
from nlme_torch.nonmem.control_stream import ControlStream
from nlme_torch.nonmem.expressions import Before, Element, Expression, Name, Number, Where, rebuilt, walk
from nlme_torch.nonmem.statements import Assignment, Exit, If, Refused, Statement

CONSTANTS = {"ICALL": "2", "COMACT": "0", "COMSAV": "0", "IREP": "0", "A_0FLG": "1", "SIMEPS": "0", "NPROB": "1",
             "NPDE_MODE": "0"}  # fmt: skip
"""Variables of NONMEM's that have one value while a model is fitted."""


@dataclass(frozen=True)
class Definition:
    """A variable and what it is."""

    name: Name
    value: Expression
    line: int
    section: str


@dataclass
class Program:
    """The definitions of all blocks of code.

    Attributes:
        stream: For messages.
        items: Data items that code may read.
        definitions: Variable to its definition, in order.
        current: What a variable (or ``DADT(1)``) is at this point of the code.
        words: Whole words that stand for others.
        notes: What a reader should know.
        free: Variables that the present block may read without having been given a value.
        first: Data item to the one of the subject's first record, for a $PK that is called once per subject.
    """

    stream: ControlStream
    items: Sequence[str]
    words: Mapping[str, str]
    synonyms: Mapping[str, str]
    definitions: dict[Name, Definition] = field(default_factory=dict)
    current: dict[str, Expression] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    free: tuple[str, ...] = ()
    first: dict[str, str] = field(default_factory=dict)

    def run(self, statements: Sequence[Statement], section: str, free: tuple[str, ...] = ()) -> None:
        """Run a block of code.

        Args:
            statements: The code.
            section: Name of the record.
            free: Variables that the block may read without having been given a value: T, F, TIME.
        """
        self.free = (*free, "NEWIND")
        for statement in statements:
            scope: dict[str, tuple[Expression, int]] = {}
            self._step(statement, scope, lambda key: self.current.get(key))
            for key, (value, line) in scope.items():
                self.define(key, value, line, section)

    def define(self, key: str, value: Expression, line: int, section: str) -> Name:
        """Give a variable a value under a new version."""
        version = 1 + max((name.version for name in self.definitions if name.name == key), default=0)
        name = Name(key, version)
        self.definitions[name] = Definition(name, simplified(value), line, section)
        self.current[key] = name
        return name

    def _step(
        self,
        statement: Statement,
        scope: dict[str, tuple[Expression, int]],
        outside: Callable[[str], Expression | None],
    ) -> None:
        def known(key: str) -> Expression | None:
            return scope[key][0] if key in scope else outside(key)

        match statement:
            case Assignment(target, value, line):
                key = f"{target.name}({target.index})" if isinstance(target, Element) else self._word(target.name)
                scope[key] = self._resolved(value, line, known), line
            case Refused(message, line):
                self.stream.refuse(line, message)
            case Exit(line):
                self.notes.append(f"line {line}: EXIT is left out; estimates must not need it.")
            case If():
                self._branch(statement, scope, known)

    def _branch(
        self, statement: If, scope: dict[str, tuple[Expression, int]], known: Callable[[str], Expression | None]
    ) -> None:
        done: list[tuple[Expression, dict[str, tuple[Expression, int]]]] = []
        ended = False
        for condition, body in statement.branches:
            test = simplified(self._resolved(condition, statement.line, known))
            if isinstance(test, Number) and not test.value:
                continue
            inner: dict[str, tuple[Expression, int]] = {}
            for each in body:
                self._step(each, inner, known)
            done.append((test, inner))
            if isinstance(test, Number):
                ended = True
                break
        last: dict[str, tuple[Expression, int]] = {}
        if not ended:
            for each in statement.otherwise:
                self._step(each, last, known)
        keys = dict.fromkeys(key for inner in (*(inner for _, inner in done), last) for key in inner)
        merged: dict[str, tuple[Expression, int]] = {}
        for key in keys:
            before = known(key)
            kept: Expression = Before(key, statement.line) if before is None else self._kept(before)
            value = last[key][0] if key in last else kept
            line = next(inner[key][1] for inner in (*(inner for _, inner in done), last) if key in inner)
            for test, inner in reversed(done):
                value = Where(test, inner[key][0] if key in inner else kept, value)
            merged[key] = simplified(value), line
        scope.update(merged)

    def _kept(self, value: Expression) -> Expression:
        """What a variable keeps where a branch does not assign it: written out while some rows may have no value."""
        definition = self.definitions.get(value) if isinstance(value, Name) else None
        if definition is not None and any(isinstance(part, Before) for part in walk(definition.value)):
            return definition.value
        return value

    def _word(self, name: str) -> str:
        name = self.words.get(name, name)
        return self.synonyms.get(name, name)

    def _resolved(self, value: Expression, line: int, known: Callable[[str], Expression | None]) -> Expression:
        def change(part: Expression) -> Expression | None:
            if isinstance(part, Element) and part.name in ("A_0", "DADT"):
                return known(f"{part.name}({part.index})") or Before(f"{part.name}({part.index})", line)
            if isinstance(part, Before):
                return Before(part.name, line)
            if not isinstance(part, Name) or part.version:
                return None
            name = self._word(part.name)
            element = re.fullmatch(r"(THETA|ETA|EPS)\((\d+)\)", name)
            if element is not None:
                return Element(element[1], int(element[2]))
            found = known(name)
            if found is not None:
                return found
            if name in CONSTANTS:
                return Number(CONSTANTS[name])
            if name in self.items or name in self.free:
                return Name(self.first.get(name, name))
            return Before(name, line)

        return rebuilt(value, change)
