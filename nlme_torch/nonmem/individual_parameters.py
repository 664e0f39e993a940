"""Parameters: which THETA and ETA make an individual parameter, and what the others are declared as.

``THETA * EXP(ETA)`` is ``LogNormal``, ``THETA + ETA`` is ``Normal``, and powers and shifts of covariates join them
where nothing else uses what they are made of. Every other ETA is an effect with typical value 0.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nlme_torch.data.table.columns import DATE_NAMES, NONMEM_NAMES
from nlme_torch.nonmem.algebra import derivative, factors, product, simplified, terms, total
from nlme_torch.nonmem.declared import number_text
from nlme_torch.nonmem.expressions import Binary, Call, Element, Expression, Name, Number, rebuilt, walk
from nlme_torch.nonmem.flow import Definition, Program
from nlme_torch.nonmem.live import Declarations, live_definitions
from nlme_torch.nonmem.table_columns import TableColumns
from nlme_torch.nonmem.values import Theta, Values


@dataclass
class Found:
    """A definition that is an individual parameter.

    Attributes:
        kind: ``"LogNormal"`` or ``"Normal"``.
        typical: Number of the THETA of the typical value.
        on_log: Whether the THETA is the logarithm of the typical value.
        effects: Text of covariate effects.
        used: Numbers of all THETAs in it.
        rest: What else it is multiplied with (added to it), None for nothing.
        eta: Number of the effect between subjects.
        occasions: Numbers of the effects of the occasions in order, empty for none.
    """

    kind: str
    typical: int
    on_log: bool
    eta: int
    effects: list[str] = field(default_factory=list)
    used: set[int] = field(default_factory=set)
    rest: Expression | None = None
    occasions: tuple[int, ...] = ()


class ParameterRecognition:
    """Recognises individual parameters among definitions.

    Args:
        program: The definitions; those that are recognised are replaced.
        columns: What depends on data items alone.
        values: Initial values.
        roots: Expressions that are needed.
        priors: Number of a THETA to mean and standard deviation of its prior.
    """

    def __init__(
        self,
        program: Program,
        columns: TableColumns,
        values: Values,
        roots: Sequence[Expression],
        priors: Mapping[int, tuple[float, float]],
    ) -> None:
        self.program, self.columns, self.values = program, columns, values
        self.roots, self.priors = roots, priors
        self.out = Declarations()
        self.blocks = {index: block for block in values.omegas for index in block.effects}
        self.live = live_definitions(program, roots)
        everything = [*roots, *(definition.value for definition in self.live)]
        self.counts = Counter(part for value in everything for part in walk(value) if isinstance(part, Element | Name))

    # ------------------------------------------------------------------ recognition

    def read(self) -> list[tuple[Definition, Found]]:
        """Return the definitions that are individual parameters."""
        found: list[tuple[Definition, Found]] = []
        for definition in self.live:
            match = self._individual(definition)
            # a variable that is made of another one alone is no parameter a second time
            if match is not None and all(match.eta != other.eta for _, other in found):
                found.append((definition, match))
        return self._with_occasions(found)

    def is_zero(self, index: int) -> bool:
        """Whether the variance of an effect is fixed at 0."""
        block = self.blocks[index]
        return block.fixed and not block.matrix[index - block.first].any()

    def _inlined(self, expression: Expression) -> Expression:
        """A variable that is used once, replaced by what it is."""
        while isinstance(expression, Name) and expression in self.program.definitions:
            value = self.program.definitions[expression].value
            if self.counts[expression] != 1 and not self.columns.only_data(value):
                return expression
            expression = self.program.definitions[expression].value
        return expression

    def _opened_factors(self, expression: Expression) -> list[Expression]:
        found: list[Expression] = []
        for factor in factors(expression):
            inner = self._inlined(factor)
            if inner == factor:
                found.append(self._opened_exponential(factor))
            else:
                found += self._opened_factors(inner)
        return found

    def _opened_exponential(self, factor: Expression) -> Expression:
        match factor:
            case Call("EXP", (argument,)):
                return Call("EXP", (total(self._opened_terms(argument)),))
        return factor

    def _opened_terms(self, expression: Expression) -> list[Expression]:
        found: list[Expression] = []
        for term in terms(expression):
            inner = self._inlined(term)
            if inner == term:
                found.append(term)
            else:
                found += self._opened_terms(inner)
        return found

    def _individual(self, definition: Definition) -> Found | None:
        direct = [part for part in walk(definition.value) if isinstance(part, Element) and part.name == "ETA"]
        if not direct and not isinstance(definition.value, Call | Binary):
            return None
        return self._log_normal(definition) or self._normal(definition)

    def _log_normal(self, definition: Definition) -> Found | None:
        pieces = self._opened_factors(definition.value)
        exponents: list[Expression] = []
        others: list[Expression] = []
        for piece in pieces:
            match piece:
                case Call("EXP", (argument,)):
                    exponents += terms(argument)
                case _:
                    others.append(piece)
        between = [e for e in exponents if isinstance(e, Element) and e.name == "ETA"]
        etas = [e for e in between if self.counts[e] == 1 and not self.repeats(e.index) and not self.is_zero(e.index)]
        if len(etas) != 1:
            return None
        exponents = [e for e in exponents if e != etas[0]]
        opened: list[Expression] = []
        for exponent in exponents:
            match exponent:
                case Call("LOG", (argument,)):
                    others += self._opened_factors(argument)
                case _:
                    opened.append(exponent)
        found = Found("LogNormal", 0, False, etas[0].index)
        rest: list[Expression] = []
        for piece in others:
            if self._typical(found, piece, False) or self._covariate(found, piece):
                continue
            rest.append(piece)
        left: list[Expression] = []
        occasions: list[Expression] = []
        for piece in opened:
            if self._typical(found, piece, True) or self._shift(found, piece):
                continue
            if self._has_repeated(piece):
                occasions.append(piece)
                continue
            left.append(piece)
        if not found.typical:
            return None
        if occasions:
            found.occasions = self._occasions(occasions) or ()
            left += [] if found.occasions else occasions
        if left:
            rest.append(Call("EXP", (total(left),)))
        found.rest = product(rest) if rest else None
        return found

    def _normal(self, definition: Definition) -> Found | None:
        pieces = self._opened_terms(definition.value)
        etas = [e for e in pieces if isinstance(e, Element) and e.name == "ETA"]
        etas = [e for e in etas if self.counts[e] == 1 and not self.repeats(e.index) and not self.is_zero(e.index)]
        thetas = [e for e in pieces if isinstance(e, Element) and e.name == "THETA" and self.counts[e] == 1]
        if len(etas) != 1 or not thetas:
            return None
        found = Found("Normal", thetas[0].index, False, etas[0].index, used={thetas[0].index})
        rest = [piece for piece in pieces if piece not in (etas[0], thetas[0])]
        found.rest = total(rest) if rest else None
        return found

    def _typical(self, found: Found, piece: Expression, on_log: bool) -> bool:
        if found.typical or not isinstance(piece, Element) or piece.name != "THETA" or self.counts[piece] != 1:
            return False
        theta = self.values.thetas[piece.index - 1]
        if on_log and (piece.index in self.priors or abs(theta.value) > 300):
            return False
        if not on_log and (theta.value <= 0 or -math.inf < theta.lower < 0):
            return False
        found.typical, found.on_log = piece.index, on_log
        found.used.add(piece.index)
        return True

    def _free_theta(self, expression: Expression) -> Theta | None:
        if isinstance(expression, Element) and expression.name == "THETA" and self.counts[expression] == 1:
            return self.values.thetas[expression.index - 1] if expression.index not in self.priors else None
        return None

    def _item(self, expression: Expression) -> str | None:
        """The covariate that an expression is."""
        expression = self._inlined(expression)
        if isinstance(expression, Name) and not expression.version and expression.name in self.columns.table:
            table = self.columns.table
            constant = (table.groupby("ID")[expression.name].nunique() == 1).all()
            reserved = expression.name in (*NONMEM_NAMES.values(), *DATE_NAMES)
            return expression.name if constant and not reserved else None
        return None

    def _covariate(self, found: Found, piece: Expression) -> bool:
        """``(WT/70)**THETA(3)``, ``(WT/70)**0.75``, ``WT/70``: a power of a positive covariate."""
        match piece:
            case Binary("**", base, power):
                base = self._inlined(base)
            case _:
                return False
        item, reference = None, 1.0
        match base:
            case Binary("/", covariate, Number() as number):
                item, reference = self._item(covariate), number.value
            case _:
                item = self._item(base)
        if item is None or not reference > 0 or not (self.columns.table[item] > 0).all():
            return False
        if any(f'"{item}"' in effect for effect in found.effects):
            return False
        theta = self._free_theta(power)
        if theta is not None and isinstance(power, Element):
            fixed = ", fixed=True" if theta.fixed else ""
            found.effects.append(f'nlme.Power("{item}", ref={reference:g}, exponent={number_text(theta.value)}{fixed})')
            found.used.add(power.index)
            return True
        if isinstance(power, Number):
            found.effects.append(f'nlme.Power("{item}", ref={reference:g}, exponent={power.value:g}, fixed=True)')
            return True
        return False

    def _shift(self, found: Found, piece: Expression) -> bool:
        """``THETA(3)*SEX``, ``THETA(3)*(AGE-50)``, ``THETA(3)*LOG(WT/70)`` in an exponent."""
        match piece:
            case Binary("*", left, right):
                pair = (left, right) if isinstance(left, Element) else (right, left)
            case _:
                return False
        theta = self._free_theta(pair[0])
        if theta is None or not isinstance(pair[0], Element):
            return False
        inner = self._inlined(pair[1])
        match inner:
            case Call("LOG", (argument,)):
                return self._covariate(found, Binary("**", argument, pair[0]))
            case Binary("-", covariate, Number() as number):
                item, reference = self._item(covariate), number.value
            case _:
                item, reference = self._item(inner), 0.0
        if item is None or any(f'"{item}"' in effect for effect in found.effects):
            return False
        fixed = ", fixed=True" if theta.fixed else ""
        at = f", ref={reference:g}" if reference else ""
        found.effects.append(f'nlme.Shift("{item}"{at}, coefficient={number_text(theta.value)}{fixed})')
        found.used.add(pair[0].index)
        return True

    # ------------------------------------------------------------------ occasions

    def repeats(self, index: int) -> bool:
        """Whether an effect stands in a block that others repeat, or that repeats another."""
        block = self.blocks[index]
        first = block.first if block.repeats is None else block.repeats
        return block.repeats is not None or any(other.repeats == first for other in self.values.omegas)

    def _has_repeated(self, piece: Expression) -> bool:
        return any(
            isinstance(p, Element) and p.name == "ETA" and self.repeats(p.index) for p in walk(self._all_open(piece))
        )

    def _all_open(self, expression: Expression) -> Expression:
        def change(part: Expression) -> Expression | None:
            if isinstance(part, Name) and part in self.program.definitions:
                return self._all_open(self.program.definitions[part].value)
            return None

        return rebuilt(expression, change)

    def _occasions(self, pieces: Sequence[Expression]) -> tuple[int, ...] | None:
        """The effects of one parameter's occasions, where at every row of the data exactly one of them is added."""
        opened = self._all_open(total(pieces))
        etas = sorted({p.index for p in walk(opened) if isinstance(p, Element) and p.name == "ETA"})
        block = self.blocks[etas[0]]
        source = block.first if block.repeats is None else block.repeats
        chain = [b for b in self.values.omegas if b.first == source or b.repeats == source]
        place = etas[0] - block.first
        if etas != [b.first + place for b in chain] or any(self._uses(index, pieces) for index in etas):
            return None
        weights = self._weights(opened, etas)
        if weights is None:
            return None
        ids = self.columns.table["ID"].to_numpy()
        chosen = weights.argmax(0).astype(float)
        column = self._occasion_column(chosen, ids)
        if column is None:
            return None
        if self.out.occasion not in (None, column):
            return None
        self.out.occasion = column
        return tuple(etas)

    def _uses(self, index: int, pieces: Sequence[Expression]) -> bool:
        """Whether an effect is used anywhere else than in some pieces."""
        inside = sum(1 for piece in pieces for p in walk(self._all_open(piece)) if p == Element("ETA", index))
        everywhere = sum(
            1 for root in self.roots for p in walk(self._all_open(root)) if p == Element("ETA", index)
        )  # fmt: skip
        once = sum(1 for root in self.roots for p in walk(root) if p == Element("ETA", index))
        return bool(once) or (inside == 0 and everywhere > 0) or self.counts[Element("ETA", index)] > inside

    def _weights(self, opened: Expression, etas: Sequence[int]) -> np.ndarray | None:
        rows = []
        for index in etas:
            slope = derivative(opened, Element("ETA", index))
            if slope is None:
                return None
            slope = self.columns.reached(simplified(slope), np.ones(len(self.columns.table), dtype=bool))
            if not self.columns.only_data(slope):
                return None
            rows.append(self.columns.values(slope))
        weights = np.stack(rows)
        one = ((weights == 0) | (weights == 1)).all() and (weights.sum(0) == 1).all()
        return weights if one else None

    def _occasion_column(self, chosen: np.ndarray, ids: np.ndarray) -> str | None:
        """A column that tells the occasions apart as the effects do."""
        table = self.columns.table
        for name in table:
            values = table[name].to_numpy()
            if name in ("ID", "TIME", "DV") or values.dtype.kind not in "if":
                continue
            if len(np.unique(values)) == len(np.unique(chosen)) == len({*zip(values, chosen, strict=True)}):
                return str(name)
        return None

    def _with_occasions(self, found: list[tuple[Definition, Found]]) -> list[tuple[Definition, Found]]:
        """Keep occasions where every effect of their blocks has found its parameter."""
        have = {index for _, match in found for index in match.occasions}
        kept = []
        for definition, match in found:
            if match.occasions:
                source = self.blocks[match.occasions[0]]
                needed = {i for b in self.values.omegas if b.first == source.first or b.repeats == source.first
                          for i in b.effects}  # fmt: skip
                if not needed <= have:
                    continue
            kept.append((definition, match))
        if not any(match.occasions for _, match in kept):
            self.out.occasion = None
        return kept
