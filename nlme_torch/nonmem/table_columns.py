"""What code makes of data items alone: evaluated on the table, or written as a column of it."""

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from nlme_torch.nonmem.algebra import contains, replaced, with_children
from nlme_torch.nonmem.control_stream import ControlStream
from nlme_torch.nonmem.expressions import (
    Before,
    Binary,
    Call,
    Element,
    Expression,
    Name,
    Number,
    Where,
    children,
    rebuilt,
    walk,
)
from nlme_torch.nonmem.flow import Definition, Program
from nlme_torch.nonmem.python_code import Printer

NEWIND = 'np.where(table["ID"] == table["ID"].shift(), 2, np.where(table.index == 0, 0, 1))'
"""NEWIND as a column: 0 on the first record of all, 1 on that of another subject, 2 on the others."""


_SCOPE = {"np": np, "pd": pd, "special": special, "math": math}


def table_text(expression: Expression) -> str:
    """Return an expression of data items as pandas and NumPy write it."""

    def leaf(part: Expression) -> str:
        assert isinstance(part, Name)
        return NEWIND if part.name == "NEWIND" else f'table["{part.name}"]'

    return Printer(leaf, "np").text(expression)


class TableColumns:
    """Variables that depend on data items alone.

    Args:
        program: The definitions.
        table: The data.
        added: Column that is added to the table to the text that makes it; more are added.
    """

    def __init__(self, program: Program, table: pd.DataFrame, added: dict[str, str]) -> None:
        self.program, self.table, self.added = program, table, added

    def only_data(self, expression: Expression) -> bool:
        """Whether an expression is made of data items and numbers; values of the record before do not count."""
        for part in walk(expression):
            if isinstance(part, Element | Before):
                return False
            if isinstance(part, Name) and part in self.program.definitions:
                if not self.only_data(self.program.definitions[part].value):
                    return False
            elif isinstance(part, Name) and part.name != "NEWIND" and not self._has_numbers(part.name):
                return False
        return True

    def _has_numbers(self, item: str) -> bool:
        return item in self.table and self.table[item].dtype.kind in "if"

    def inlined(self, expression: Expression) -> Expression:
        """Return an expression of data items with all variables replaced by what they are."""

        def change(part: Expression) -> Expression | None:
            if isinstance(part, Name) and part in self.program.definitions:
                return self.inlined(self.program.definitions[part].value)
            return None

        return rebuilt(expression, change)

    def values(self, expression: Expression) -> NDArray[np.float64]:
        """Return an expression of data items at every row, ``(row,)``."""
        text = table_text(self.inlined(expression))
        found = eval(text, {**_SCOPE, "table": self.table})  # noqa: S307  (text that was written here)
        return np.broadcast_to(np.asarray(found, dtype=np.float64), (len(self.table),))

    def settled(self, definition: Definition, rows: NDArray[np.bool_]) -> Expression:
        """Return a definition's value without values of the record before.

        A branch that no row of the data reaches is left out. What keeps data items from record to record
        (``IF (AMT.GT.0) DOSE=AMT``) becomes a column of the table.

        Args:
            definition: The definition.
            rows: ``(row,)``, where the value counts.

        Raises:
            ModelError: Anything else: the line is named.
        """
        value = self.reached(definition.value, rows)
        value = self._with_last_values(value, definition.name)
        leaves = [part for part in walk(value) if isinstance(part, Before)]
        if not leaves:
            return value
        guarded = _guarded_value(value) if definition.section == "ERROR" else None
        if guarded is not None:
            self.program.notes.append(
                f"line {definition.line}: {definition.name.name} has no value where its logarithm or quotient has "
                "none; such an observation is impossible here, and keeps the value of the record before in NONMEM."
            )
            return guarded
        name = definition.name.name
        first = leaves[0]
        own = all(leaf.name == name for leaf in leaves)
        if not own:
            wrong = next(leaf for leaf in leaves if leaf.name != name)
            refuse_before(self.program.stream, wrong, definition.line)
        filled = replaced(value, first, Name("NEWIND"))
        for leaf in leaves:
            filled = replaced(filled, leaf, Name("NEWIND"))
        final = self.program.current.get(name) == definition.name  # else the record before ended with another value
        if not final or not isinstance(value, Where) or not self.only_data(filled):
            refuse_before(self.program.stream, first, definition.line)
        chain, chosen = self.inlined(value), []
        while isinstance(chain, Where):
            chosen.append((chain.condition, chain.yes))
            chain = chain.no
        before_in = [part for pair in chosen for each in pair for part in walk(each) if isinstance(part, Before)]
        if not isinstance(chain, Before) or before_in:
            refuse_before(self.program.stream, first, definition.line)
        column = name if name not in self.table else f"{name}_KEPT"
        conditions = ", ".join(table_text(condition) for condition, _ in chosen)
        choices = ", ".join(table_text(yes) for _, yes in chosen)
        text = f"pd.Series(np.select([{conditions}], [{choices}], np.nan), table.index).ffill().fillna(0.0)"
        self.added[column] = text
        self.table[column] = eval(text, {**_SCOPE, "table": self.table})  # noqa: S307
        return Name(column)

    def _with_last_values(self, value: Expression, own: Name) -> Expression:
        """A value in which those of the record before are columns, where the code ends with data items alone.

        ``PREV`` of ``IF (NEWIND.NE.2) PREV=0 ... PREV=DV`` is DV of the record before.
        """

        def change(part: Expression) -> Expression | None:
            last = self.program.current.get(part.name) if isinstance(part, Before) else None
            if last is None or last == own or not self.only_data(last):
                return None
            assert isinstance(part, Before)
            column = f"{part.name}_BEFORE"
            if column not in self.added:
                kept = table_text(self.inlined(last))
                self.added[column] = f"pd.Series({kept}, table.index).shift().fillna(0.0)"
                self.table[column] = eval(self.added[column], {**_SCOPE, "table": self.table})  # noqa: S307
            return Name(column)

        return rebuilt(value, change)

    def reached(self, expression: Expression, rows: NDArray[np.bool_]) -> Expression:
        """Return an expression without the branches that no row reaches, as far as data items decide."""
        if not contains(expression, lambda part: isinstance(part, Before)) or isinstance(expression, Before):
            return expression
        if not isinstance(expression, Where):
            return with_children(expression, tuple(self.reached(part, rows) for part in children(expression)))
        if not self.only_data(expression.condition):
            return with_children(expression, tuple(self.reached(part, rows) for part in children(expression)))
        holds = self.values(expression.condition) != 0
        if not (rows & ~holds).any():
            return self.reached(expression.yes, rows)
        if not (rows & holds).any():
            return self.reached(expression.no, rows)
        yes, no = self.reached(expression.yes, rows & holds), self.reached(expression.no, rows & ~holds)
        return Where(expression.condition, yes, no)


def _guarded_value(value: Expression) -> Expression | None:
    """``LOG(F)`` of ``IF (F.GT.0) IPRED=LOG(F)``: what is guarded from values where it does not exist."""
    match value:
        case Where(Binary(">" | "!=", guarded, Number() as zero), yes, Before()) if zero.value == 0:
            risky = (
                part
                for part in walk(yes)
                if (isinstance(part, Call) and part.function in ("LOG", "LOG10") and part.arguments == (guarded,))
                or (isinstance(part, Binary) and part.operator == "/" and part.right == guarded)
            )
            if next(risky, None) is not None and not contains(yes, lambda part: isinstance(part, Before)):
                return yes
    return None


def refuse_before(stream: ControlStream, before: Before, line: int) -> None:
    """Refuse a value of the record before."""
    stream.refuse(
        before.line or line,
        f"{before.name} is used where it was given no value, or keeps one from record to record, which cannot be "
        "converted; give it a value on every path (ELSE), or compute it in the data",
    )
