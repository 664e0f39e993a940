r"""What is observed: Y as normal distributions, censored ones, and likelihoods.

NONMEM linearises Y in the residual errors, by every method:

.. math:: y = f + \sum_k g_k \varepsilon_k, \quad g_k = \partial Y / \partial \varepsilon_k |_{\varepsilon = 0}
          \quad\Rightarrow\quad y \sim N\Big(f, \sum_{kl} g_k g_l \Sigma_{kl}\Big)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nlme_torch.nonmem.algebra import contains, derivative, simplified
from nlme_torch.nonmem.expressions import (
    ZERO,
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
    walk,
)
from nlme_torch.nonmem.flow import Program
from nlme_torch.nonmem.table_columns import TableColumns, refuse_before
from nlme_torch.nonmem.values import Block

Rows: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class NormalLeaf:
    """A normal distribution: mean and standard deviation."""

    mean: Expression
    deviation: Expression


@dataclass(frozen=True)
class LikelihoodLeaf:
    """A log-likelihood of the value, ``DV``."""

    log_density: Expression


@dataclass(frozen=True)
class Split:
    """One thing where a condition holds, another elsewhere."""

    condition: Expression
    yes: "Tree"
    no: "Tree"


Tree: TypeAlias = NormalLeaf | LikelihoodLeaf | Split


@dataclass(frozen=True)
class Outcome:
    """One outcome.

    Attributes:
        conditions: On data items, with whether they hold, where a row is of this outcome; empty for all rows.
        kind: Its distribution.
        censored: Condition of values below a limit, and the limit; None without.
    """

    conditions: tuple[tuple[Expression, bool], ...]
    kind: NormalLeaf | LikelihoodLeaf
    censored: tuple[Expression, Expression] | None = None


def read_outcomes(
    program: Program, columns: TableColumns, sigmas: Sequence[Block], flags: int, rows: Rows, line: int
) -> tuple[Outcome, ...]:
    """Read Y.

    Args:
        program: The definitions.
        columns: What depends on data items alone.
        sigmas: The blocks of SIGMA.
        flags: 0 where Y is a prediction, 1 a likelihood (LIKE), 2 a -2 log-likelihood.
        rows: ``(row,)``, where something is observed.
        line: Of the code, for messages.
    """
    y = program.current.get("Y")
    if y is None:
        program.stream.refuse(line, "Y is given no value")
    flag = program.current.get("F_FLAG", Number(str(flags)))
    reader = _Reader(program, columns, _covariances(sigmas), line)
    flag = rebuilt(reader.opened(flag, lambda _: True), lambda p: ZERO if isinstance(p, Before) else None)
    y = reader.opened(y, lambda value: reader.has_errors(value) or contains(value, lambda p: isinstance(p, Before)))
    if isinstance(y, Name) and y in program.definitions:
        y = program.definitions[y].value
    tree = reader.tree(y, simplified(flag), rows)
    return tuple(reader.outcomes(tree, rows, ()))


def _covariances(sigmas: Sequence[Block]) -> dict[tuple[int, int], float]:
    """Entries of SIGMA that are not 0, by the number of the residual errors; of repeated blocks the first's."""
    found = {}
    for block in sigmas:
        for i in range(block.size):
            for j in range(i + 1):
                if block.matrix[i, j]:
                    found[block.first + i, block.first + j] = float(block.matrix[i, j])
    return found


class _Reader:
    def __init__(
        self, program: Program, columns: TableColumns, covariances: Mapping[tuple[int, int], float], line: int
    ) -> None:
        self.program, self.columns, self.covariances, self.line = program, columns, covariances, line

    def has_errors(self, expression: Expression) -> bool:
        """Whether an expression depends on residual errors."""
        for part in walk(expression):
            if isinstance(part, Element) and part.name == "EPS":
                return True
            definition = self.program.definitions.get(part) if isinstance(part, Name) else None
            if definition is not None and self.has_errors(definition.value):
                return True
        return False

    def depends_on_value(self, expression: Expression) -> bool:
        """Whether an expression depends on DV."""
        for part in walk(expression):
            if isinstance(part, Name):
                if part.name == "DV" and not part.version:
                    return True
                if part in self.program.definitions and self.depends_on_value(self.program.definitions[part].value):
                    return True
        return False

    def opened(self, expression: Expression, when: Callable[[Expression], bool]) -> Expression:
        """Return an expression with those variables replaced by what they are for whose value ``when`` holds."""

        def change(part: Expression) -> Expression | None:
            if isinstance(part, Name) and part in self.program.definitions:
                value = self.program.definitions[part].value
                return self.opened(value, when) if when(value) else None
            return None

        return rebuilt(expression, change)

    def tree(self, y: Expression, flag: Expression, rows: Rows) -> Tree | None:
        """The distributions, by conditions; None where no row is."""
        if not rows.any():
            return None
        y = self.columns.reached(y, rows)
        where = self._first_choice(flag) or self._first_choice(y, errors=isinstance(flag, Number) and not flag.value)
        if where is None:
            return self._leaf(y, flag)
        condition = where.condition
        yes_rows, no_rows = rows, rows
        if self.columns.only_data(condition):
            holds = self.columns.values(condition) != 0
            yes_rows, no_rows = rows & holds, rows & ~holds
        yes = self.tree(_given(y, condition, True), _given(flag, condition, True), yes_rows)
        no = self.tree(_given(y, condition, False), _given(flag, condition, False), no_rows)
        if yes is None or no is None or yes == no:
            return yes if no is None else no
        return Split(condition, yes, no)

    def _first_choice(self, expression: Expression, errors: bool = True) -> Where | None:
        """The outermost choice: of a prediction one that residual errors depend on, of a likelihood none."""
        if isinstance(expression, Number) or not errors:
            return None
        for part in walk(expression):
            if isinstance(part, Where) and (not self._is_y(expression) or self.has_errors(part)):
                return part
        return None

    def _is_y(self, expression: Expression) -> bool:
        return self.has_errors(expression)

    def _leaf(self, y: Expression, flag: Expression) -> Tree:
        before = next((part for part in walk(y) if isinstance(part, Before)), None)
        if before is not None:
            refuse_before(self.program.stream, before, self.line)
        if not isinstance(flag, Number) or flag.value not in (0, 1, 2):
            self.program.stream.refuse(self.line, "F_FLAG must be 0, 1 or 2")
        if flag.value:
            if self.has_errors(y):
                self.program.stream.refuse(self.line, "a likelihood may not depend on EPS")
            return LikelihoodLeaf(Call("LOG", (y,)) if flag.value == 1 else _from_minus_two(y))
        return self._normal(y)

    def _normal(self, y: Expression) -> NormalLeaf:
        errors = sorted({p.index for p in walk(y) if isinstance(p, Element) and p.name == "EPS"})

        def at_zero(expression: Expression) -> Expression:
            return simplified(
                rebuilt(expression, lambda p: ZERO if isinstance(p, Element) and p.name == "EPS" else None)
            )

        slopes: dict[int, Expression] = {}
        for index in errors:
            slope = derivative(y, Element("EPS", index))
            if slope is None:
                self.program.stream.refuse(self.line, f"Y cannot be differentiated by EPS({index})")
            at = at_zero(slope)
            if at != ZERO and (index, index) in self.covariances:
                slopes[index] = at
        if not slopes:
            self.program.stream.refuse(self.line, "Y has no residual error EPS with a variance above 0")
        return NormalLeaf(at_zero(y), self._deviation(slopes))

    def _deviation(self, slopes: Mapping[int, Expression]) -> Expression:
        """The standard deviation; ``SD(k)`` is that of a residual error, ``COR`` a correlation."""
        parts = {index: simplified(Binary("*", Element("SD", index), slope)) for index, slope in slopes.items()}
        if len(parts) == 1:
            return next(iter(parts.values()))
        two = Number("2")
        found: Expression | None = None
        for part in parts.values():
            square: Expression = Binary("**", part, two)
            found = square if found is None else Binary("+", found, square)
        for i in parts:
            for j in parts:
                if (i, j) in self.covariances and i > j:
                    mixed = Binary("*", Binary("*", Binary("*", two, Element("COR", 1000 * i + j)), parts[i]), parts[j])
                    found = mixed if found is None else Binary("+", found, mixed)
        assert found is not None
        return Call("SQRT", (found,))

    # ------------------------------------------------------------------ outcomes

    def outcomes(
        self, tree: Tree | None, rows: Rows, conditions: tuple[tuple[Expression, bool], ...]
    ) -> Iterator[Outcome]:
        """Split a tree into outcomes where data items tell them apart."""
        if tree is None:
            self.program.stream.refuse(self.line, "no row of the data is an observation")
        if not isinstance(tree, Split):
            yield Outcome(conditions, tree)
            return
        families = {type(leaf) for leaf in _leaves(tree)}
        only_data = self.columns.only_data(tree.condition)
        censored = self._censored(tree) if only_data and len(families) > 1 else None
        if censored is not None:
            yield Outcome(conditions, censored[0], (censored[1], censored[2]))
            return
        if only_data and (len(families) > 1 or self._tells_outcomes(tree.condition, rows)):
            holds = self.columns.values(tree.condition) != 0
            yield from self.outcomes(tree.yes, rows & holds, (*conditions, (tree.condition, True)))
            yield from self.outcomes(tree.no, rows & ~holds, (*conditions, (tree.condition, False)))
            return
        if len(families) > 1:
            self.program.stream.refuse(
                self.line, "whether Y is a prediction or a likelihood (F_FLAG) must depend on data items alone"
            )
        inner = [list(self.outcomes(branch, rows, ())) for branch in (tree.yes, tree.no)]
        if any(len(found) > 1 or found[0].censored for found in inner):
            self.program.stream.refuse(self.line, "the conditions on Y mix data items and predictions; separate them")
        yes, no = inner[0][0].kind, inner[1][0].kind
        yield Outcome(conditions, _either(tree.condition, yes, no))

    def _tells_outcomes(self, condition: Expression, rows: Rows) -> bool:
        """Whether a condition on data items changes within subjects and compares an item, not DV or time, by =."""
        inner = self.columns.inlined(condition)
        items = {part.name for part in walk(inner) if isinstance(part, Name)}
        if items & {"DV", "TIME", "NEWIND", "AMT", "EVID", "MDV"} or not items:
            return False
        if any(isinstance(p, Binary) and p.operator in ("<", "<=", ">", ">=") for p in walk(inner)):
            return False
        holds = self.columns.values(condition) != 0
        ids = self.columns.table["ID"].to_numpy()[rows]
        seen = holds[rows]
        return any(len(set(seen[ids == each])) > 1 for each in np.unique(ids)) or len(items & {"DVID", "CMT"}) > 0

    def _censored(self, tree: Split) -> tuple[NormalLeaf, Expression, Expression] | None:
        """The normal distribution, the condition and the limit, where one branch is PHI((limit - f) / sd)."""
        for normal, other, below in ((tree.no, tree.yes, True), (tree.yes, tree.no, False)):
            if not isinstance(normal, NormalLeaf) or not isinstance(other, LikelihoodLeaf):
                continue
            inner = self._written_out(other.log_density)
            match inner:
                case Call("LOG", (Call("PHI", (Binary("/", Binary("-", limit, mean), deviation),)),)):
                    same = mean == self._written_out(normal.mean) and deviation == self._without_unit(normal.deviation)
                    if same and self.columns.only_data(limit):
                        condition = tree.condition if below else Binary("==", tree.condition, ZERO)
                        return normal, condition, limit
        return None

    def _written_out(self, expression: Expression) -> Expression:
        return simplified(self.opened(expression, lambda _: True))

    def _without_unit(self, deviation: Expression) -> Expression:
        """A deviation written out, residual errors of variance 1 left out and SD(k) as the root of SIGMA(k,k)."""

        def change(part: Expression) -> Expression | None:
            if isinstance(part, Element) and part.name == "SD":
                variance = self.covariances[part.index, part.index]
                return Number("1") if variance == 1 else Call("SQRT", (Element("SIGMA", part.index),))
            return None

        return simplified(rebuilt(self._written_out(deviation), change))


def _from_minus_two(y: Expression) -> Expression:
    """The log-likelihood of -2 log-likelihood."""
    match y:
        case Unary("-", Binary("*", Number() as two, inner)) if two.value == 2:
            return inner
        case Binary("*", Unary("-", Number() as two), inner) if two.value == 2:
            return inner
        case Binary("*", Number() as two, inner) if two.value == 2:
            return Unary("-", inner)
    return Binary("*", Number("-0.5"), y)


def _given(expression: Expression, condition: Expression, holds: bool) -> Expression:
    """An expression where it is known whether a condition holds."""

    def change(part: Expression) -> Expression | None:
        if isinstance(part, Where) and part.condition == condition:
            return rebuilt(part.yes if holds else part.no, change)
        return None

    return simplified(rebuilt(expression, change))


def _leaves(tree: Tree) -> Iterator[NormalLeaf | LikelihoodLeaf]:
    if isinstance(tree, Split):
        yield from _leaves(tree.yes)
        yield from _leaves(tree.no)
    else:
        yield tree


def _either(
    condition: Expression, yes: NormalLeaf | LikelihoodLeaf, no: NormalLeaf | LikelihoodLeaf
) -> NormalLeaf | LikelihoodLeaf:
    if isinstance(yes, NormalLeaf) and isinstance(no, NormalLeaf):
        return NormalLeaf(
            simplified(Where(condition, yes.mean, no.mean)), simplified(Where(condition, yes.deviation, no.deviation))
        )
    assert isinstance(yes, LikelihoodLeaf) and isinstance(no, LikelihoodLeaf)
    return LikelihoodLeaf(simplified(Where(condition, yes.log_density, no.log_density)))
