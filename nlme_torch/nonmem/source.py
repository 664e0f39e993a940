"""The Python file: a model class, the data and the method, as a person would write them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nlme_torch.nonmem.expressions import Element, Expression, Name, Number, rebuilt, walk
from nlme_torch.nonmem.flow import Definition, Program
from nlme_torch.nonmem.live import Declarations, live_definitions
from nlme_torch.nonmem.naming import Namer
from nlme_torch.nonmem.outcomes import LikelihoodLeaf, NormalLeaf, Outcome
from nlme_torch.nonmem.python_code import Printer
from nlme_torch.nonmem.subroutines import Structure

_LOCAL = ("p", "y", "t", "cov", "self", "dv", "math", "torch", "dist", "nlme", "np", "pd")


@dataclass
class Pieces:
    """What the methods of the class are made of.

    Attributes:
        structure: Compartments.
        program: Definitions, recognised parameters replaced.
        declarations: What ``__init__`` declares.
        outcomes: Names to what is observed.
        initial: Compartment to its initial value.
        derivatives: Of every compartment; None with a closed form.
        closed: Class and arguments of a closed form; None without.
        dosing: Compartment to ``lag``, ``bioavailability``, ``rate``, ``duration`` to what it is.
        covariate: Data item to the covariate that holds it.
        names: Variable to its name in Python.
        set_back: Whether time is set back within subjects: ``t`` is not TIME then.
    """

    structure: Structure
    program: Program
    declarations: Declarations
    outcomes: Mapping[str, Outcome]
    initial: Mapping[int, Expression]
    derivatives: Sequence[Expression] | None
    closed: tuple[str, Mapping[str, Expression]] | None
    dosing: Mapping[int, Mapping[str, Expression]]
    covariate: Mapping[str, str]
    names: dict[Name, str] = field(default_factory=dict)
    set_back: bool = False


class ClassWriter:
    """Writes the class.

    Args:
        pieces: What it is made of.
        title: Name of the class.
        description: First line of its docstring.
    """

    def __init__(self, pieces: Pieces, title: str, description: str) -> None:
        self.pieces, self.title, self.description = pieces, title, description
        self.program = pieces.program
        self.exported: dict[str, str] = {}  # name in p to its text in ``individual``
        self.individual_names: set[Name] = set()

    # ------------------------------------------------------------------ what is needed where

    def write(self) -> str:
        """Return the source of the class."""
        pieces = self.pieces
        roots = [kind for outcome in pieces.outcomes.values() for kind in expressions_of(outcome.kind)]
        elsewhere = [
            *pieces.initial.values(),
            *(pieces.derivatives or ()),
            *(pieces.closed[1].values() if pieces.closed else ()),
            *(value for given in pieces.dosing.values() for value in given.values()),
        ]
        self._resolve_aliases()
        live = live_definitions(self.program, [self._plain(root) for root in (*roots, *elsewhere)])
        self._name(live)
        self.individual_names = {d.name for d in live if self._is_individual(d)}
        observe = self._outcome_lines()
        dynamics = self._dynamics_lines()
        middle = [*self._initial_lines(), *self._dosing_lines(), *dynamics, *observe]
        individual = self._individual_lines(live)
        out = [f"class {self.title}(nlme.Model):", f'    """{self.description}"""', ""]
        if pieces.structure.states:
            states = ", ".join(f'"{state}"' for state in pieces.structure.states)
            out += [f"    states = ({states}{',' if len(pieces.structure.states) == 1 else ''})", ""]
        out += ["    def __init__(self):", "        super().__init__()"]
        out += [f"        {line}" for line in pieces.declarations.lines]
        for block in (individual, middle):
            out += block
        return "\n".join(out) + "\n"

    def _resolve_aliases(self) -> None:
        """Variables that are nothing but another one, a number or a parameter are not written."""
        definitions = self.program.definitions
        for name, definition in list(definitions.items()):
            definitions[name] = Definition(name, self._plain(definition.value), definition.line, definition.section)

    def _plain(self, expression: Expression) -> Expression:
        def change(part: Expression) -> Expression | None:
            if isinstance(part, Name) and part in self.program.definitions:
                value = self.program.definitions[part].value
                written_out = part.name.startswith(("DADT(", "A_0("))
                if written_out or isinstance(value, Name | Number | Element):
                    return self._plain(value)
            return None

        return rebuilt(expression, change)

    def _name(self, live: Sequence[Definition]) -> None:
        last: dict[str, int] = {}
        for definition in live:
            last[definition.name.name] = max(last.get(definition.name.name, 0), definition.name.version)
        taken = set(_LOCAL)
        for definition in sorted(live, key=lambda d: d.name.version != last[d.name.name]):
            name = definition.name
            base = Namer._legal(name.name) or f"{name.name.lower()}_"
            if name.version != last[name.name]:
                base = f"{base}_{name.version}"
            while base in taken:
                base = f"{base}_"
            taken.add(base)
            self.pieces.names[name] = base

    def _is_individual(self, definition: Definition) -> bool:
        if definition.section == "PK":
            return True
        return definition.section == "PRED" and not self._depends_on(definition.value, ("TIME", "DV"))

    def _depends_on(self, expression: Expression, items: Sequence[str]) -> bool:
        for part in walk(expression):
            if isinstance(part, Name):
                if part.name in items and not part.version:
                    return True
                definition = self.program.definitions.get(part)
                if definition is not None and self._depends_on(definition.value, items):
                    return True
        return False

    # ------------------------------------------------------------------ text of leaves

    def _element(self, element: Element) -> str:
        if element.name == "A":
            return f"y.{self.pieces.structure.states[element.index - 1]}"
        text = self.pieces.declarations.texts[element]
        if element.name == "SIGMA":
            return f"p.{text}**2" if text != "1.0" else "1.0"
        return text if not text.isidentifier() else f"p.{text}"

    def _in_individual(self, part: Expression) -> str:
        if isinstance(part, Element):
            return self._element(part)
        assert isinstance(part, Name)
        return self.pieces.names[part] if part in self.pieces.names else f"cov.{self.pieces.covariate[part.name]}"

    def _outside(self, local: set[Name], time: str | None = "TIME", value: bool = False) -> "Printer":
        def leaf(part: Expression) -> str:
            if isinstance(part, Element):
                return self._element(part)
            assert isinstance(part, Name)
            if part in local:
                return self.pieces.names[part]
            if part in self.individual_names:
                name = self.pieces.names[part]
                self.exported[name] = name
                return f"p.{name}"
            if part in self.program.definitions:
                return self.pieces.names[part]
            if part.name == "T" or (part.name == time and not self.pieces.set_back):
                return "t"
            if value and part.name == "DV":
                return "dv"
            covariate = self.pieces.covariate[part.name]
            self.exported[covariate] = f"cov.{covariate}"
            return f"p.{covariate}"

        return Printer(leaf)

    # ------------------------------------------------------------------ methods

    def _individual_lines(self, live: Sequence[Definition]) -> list[str]:
        wanted = [d for d in live if d.name in self.individual_names]
        needed = {d.name for d in live_definitions(self.program, [
            n for n in self.individual_names if self.pieces.names[n] in self.exported
        ])}  # fmt: skip
        wanted = [d for d in wanted if d.name in needed]
        if not self.exported:
            return []
        printer = Printer(self._in_individual)
        out = ["", "    def individual(self, p, cov):"]
        entries = dict(self.exported)
        uses = [p for d in wanted for p in walk(d.value)]
        for definition in wanted:
            name = self.pieces.names[definition.name]
            text = printer.text(definition.value)
            if uses.count(definition.name) == 0 and name in entries:
                entries[name] = text
            else:
                out.append(f"        {name} = {text}")
        out += _returned_dict(entries)
        return out

    def _initial_lines(self) -> list[str]:
        if not self.pieces.initial:
            return []
        printer = self._outside(set(), time=None)
        states = range(1, len(self.pieces.structure.states) + 1)
        texts = [printer.text(self._plain(self.pieces.initial.get(state, Number("0.0")))) for state in states]
        return ["", "    def initial(self, p):", f"        return {_tuple(texts)}"]

    def _dosing_lines(self) -> list[str]:
        if not self.pieces.dosing:
            return []
        printer = self._outside(set(), time=None)
        out = ["", "    def dosing(self, p):", "        return {"]
        for state, given in self.pieces.dosing.items():
            parts = ", ".join(f"{key}={printer.text(self._plain(value))}" for key, value in given.items())
            out.append(f'            "{self.pieces.structure.states[state - 1]}": nlme.Dosing({parts}),')
        return [*out, "        }"]

    def _dynamics_lines(self) -> list[str]:
        if self.pieces.closed is not None:
            printer = self._outside(set(), time=None)
            kind, arguments = self.pieces.closed
            parts = [f"{key}={printer.text(self._plain(value))}" for key, value in arguments.items()]
            call = f"nlme.compartments.{kind}({', '.join(parts)})"
            if len(call) > 100:
                inner = "".join(f"            {part},\n" for part in parts)
                call = f"nlme.compartments.{kind}(\n{inner}        )"
            return ["", "    def compartments(self, p):", f"        return {call}"]
        if self.pieces.derivatives is None:
            return self._predict_lines()
        derivatives = [self._plain(value) for value in self.pieces.derivatives]
        local = [d for d in live_definitions(self.program, derivatives) if d.name not in self.individual_names]
        printer = self._outside({d.name for d in local}, time=None)
        out = ["", "    def dynamics(self, t, y, p):"]
        for definition in local:
            out.append(f"        {self.pieces.names[definition.name]} = {printer.text(definition.value)}")
        return [*out, *_returned_tuple([printer.text(value) for value in derivatives])]

    def _predict_lines(self) -> list[str]:
        """``predict`` of $PRED: what depends on time and is needed by ``observe``."""
        self.passed = self._passed()
        chain = live_definitions(self.program, self.passed)
        local = [d for d in chain if d.name not in self.individual_names]
        printer = self._outside({d.name for d in local})
        out = ["", "    def predict(self, t, p, cov):"]
        inside = [p for d in local for p in walk(d.value)]
        for definition in local:
            if len(self.passed) == 1 and definition.name == self.passed[0] and definition.name not in inside:
                return [*out, f"        return {printer.text(definition.value)}"]
            out.append(f"        {self.pieces.names[definition.name]} = {printer.text(definition.value)}")
        texts = [self.pieces.names[name] for name in self.passed] or ["t"]
        return [*out, f"        return {', '.join(texts)}"]

    def _passed(self) -> list[Name]:
        """Variables that depend on time and that outcomes are written in."""
        found: dict[Name, None] = {}
        for outcome in self.pieces.outcomes.values():
            for expression in expressions_of(outcome.kind):
                for part in walk(self._value_open(self._plain(expression))):
                    if (
                        isinstance(part, Name)
                        and part in self.program.definitions
                        and part not in self.individual_names
                    ):
                        found[part] = None
        return list(found)

    def _value_open(self, expression: Expression) -> Expression:
        """An expression with those variables written out that depend on DV."""

        def change(part: Expression) -> Expression | None:
            definition = self.program.definitions.get(part) if isinstance(part, Name) else None
            if definition is not None and self._depends_on(definition.value, ("DV",)):
                return self._value_open(self._plain(definition.value))
            return None

        return rebuilt(expression, change)

    def _outcome_lines(self) -> list[str]:
        by_prediction = self.pieces.structure.advan is None
        kinds = {name: outcome.kind for name, outcome in self.pieces.outcomes.items()}
        opened = {
            name: [self._value_open(self._plain(e)) for e in expressions_of(kind)] for name, kind in kinds.items()
        }
        out = ["", "    def observe(self, t, y, p):"]
        if by_prediction:
            passed = self._passed()
            if len(passed) == 1:
                self.pieces.names[passed[0]], kept = "y", self.pieces.names[passed[0]]
            elif passed:
                out.append(f"        {', '.join(self.pieces.names[name] for name in passed)} = y")
            printer = self._outside(set(passed))
            plain, valued = printer, self._outside(set(passed), value=True)
        else:
            chain = live_definitions(self.program, [e for each in opened.values() for e in each])
            local = [d for d in chain if d.name not in self.individual_names]
            plain = self._outside({d.name for d in local})
            valued = self._outside({d.name for d in local}, value=True)
            for definition in local:
                out.append(f"        {self.pieces.names[definition.name]} = {plain.text(definition.value)}")
        entries = {}
        for name, kind in kinds.items():
            if isinstance(kind, NormalLeaf):
                mean, deviation = (plain.text(part) for part in opened[name])
                entries[name] = f"dist.Normal({mean}, {deviation})"
            else:
                entries[name] = f"Likelihood(lambda dv: {valued.text(opened[name][0])})"
        if by_prediction and len(passed) == 1:
            self.pieces.names[passed[0]] = kept
        return [*out, *_returned_dict(entries)]


def expressions_of(kind: NormalLeaf | LikelihoodLeaf) -> tuple[Expression, ...]:
    """Return what a distribution is written in."""
    return (kind.mean, kind.deviation) if isinstance(kind, NormalLeaf) else (kind.log_density,)


def _tuple(texts: Sequence[str]) -> str:
    return f"({texts[0]},)" if len(texts) == 1 else ", ".join(texts)


def _returned_tuple(texts: Sequence[str]) -> list[str]:
    line = f"        return {_tuple(texts)}"
    if len(line) <= 110:
        return [line]
    return ["        return (", *(f"            {text}," for text in texts), "        )"]


def _returned_dict(entries: Mapping[str, str]) -> list[str]:
    line = "        return {" + ", ".join(f'"{key}": {text}' for key, text in entries.items()) + "}"
    if len(line) <= 110:
        return [line]
    return ["        return {", *(f'            "{key}": {text},' for key, text in entries.items()), "        }"]
