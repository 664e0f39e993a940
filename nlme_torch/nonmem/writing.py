"""From what was read to the text of a Python file."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from nlme_torch.data.table.columns import DATE_NAMES, NONMEM_NAMES
from nlme_torch.nonmem.algebra import factors, product, simplified
from nlme_torch.nonmem.data_code import data_lines
from nlme_torch.nonmem.declarations import DeclarationWriter
from nlme_torch.nonmem.declared import number_text, root_text
from nlme_torch.nonmem.expressions import ZERO, Before, Element, Expression, Name, Number, Where, rebuilt, walk
from nlme_torch.nonmem.individual_parameters import ParameterRecognition
from nlme_torch.nonmem.live import Declarations, live_definitions
from nlme_torch.nonmem.movement import closed, derivatives, dosing
from nlme_torch.nonmem.naming import Namer, word_of
from nlme_torch.nonmem.outcomes import LikelihoodLeaf, NormalLeaf, Outcome, read_outcomes
from nlme_torch.nonmem.reading import Reading
from nlme_torch.nonmem.source import ClassWriter, Pieces, expressions_of
from nlme_torch.nonmem.table_columns import NEWIND, TableColumns, refuse_before


@dataclass(frozen=True)
class Written:
    """A Python file, the name of its class, and notes."""

    source: str
    title: str
    notes: tuple[str, ...]


def write(reading: Reading) -> Written:
    """Return the Python code of a stream."""
    program, structure = reading.program, reading.structure
    _tidy(reading)
    columns = TableColumns(program, reading.table, reading.added)
    doses = dosing(reading)
    form = closed(reading)
    equations = derivatives(reading)
    others = [
        *(value for given in doses.values() for value in given.values()),
        *(form[1].values() if form else ()), *(equations or ()), *reading.initial.values(),
    ]  # fmt: skip
    _settle(reading, columns, [*others, *(program.current[k] for k in ("Y", "F_FLAG") if k in program.current)])
    outcomes = read_outcomes(
        program, columns, reading.values.sigmas, reading.likelihood, reading.observed, reading.code_line
    )
    outcomes = tuple(_unit_errors(reading, outcome) for outcome in outcomes)
    _check_levels(reading, outcomes)
    _choose_method(reading, outcomes)
    if structure.advan is None:
        outcomes = _predicted(reading, outcomes)
    roots = [*others, *(part for outcome in outcomes for part in expressions_of(outcome.kind))]
    for root in roots:
        for part in walk(root):
            if isinstance(part, Before):
                refuse_before(reading.stream, part, reading.code_line)
    live = live_definitions(program, roots)
    _pool_without_effects(reading, [*roots, *(d.value for d in live)])
    taken = {d.name.name.lower() for d in live} | set(structure.states)
    namer = Namer(taken)
    recognition = ParameterRecognition(program, columns, reading.values, roots, reading.priors)
    DeclarationWriter(recognition, namer, structure.states).declare(recognition.read())
    declarations = recognition.out
    _check_used(reading, roots)
    _declare_errors(reading, outcomes, roots, namer, declarations)
    if any(part == Name("NEWIND") for each in (*roots, *(d.value for d in live)) for part in walk(each)):
        columns.added["NEWIND"] = NEWIND
        columns.table["NEWIND"] = columns.values(Name("NEWIND"))
    names = _outcome_names(outcomes, columns, reading)
    covariate = {str(item): _covariate_name(str(item)) for item in columns.table}
    pieces = Pieces(structure, program, declarations, dict(zip(names, outcomes, strict=True)), reading.initial,
                    equations, form, doses, covariate)  # fmt: skip
    pieces.set_back = reading.set_back
    if reading.set_back and any(part == Name("T") for d in live for part in walk(d.value)):
        reading.stream.refuse(reading.structure.line, "T in $DES, where the data set TIME back, cannot be converted")
    title = _title(reading.stream.path.stem)
    writer = ClassWriter(pieces, title, _description(reading))
    body = writer.write()
    covariates = _covariates(body, covariate)
    data = data_lines(reading, columns, pieces, covariates)
    source = _file(reading, body, data)
    notes = tuple(dict.fromkeys((*reading.notes, *declarations.notes)))
    return Written(source, title, notes)


# ---------------------------------------------------------------------- what is needed


def _tidy(reading: Reading) -> None:
    """Leave out effects whose variance is fixed at 0, and take factors that all branches share out of a choice."""
    zero = {
        block.first + k
        for block in reading.values.omegas
        for k in range(block.size)
        if block.fixed and not block.matrix[k].any()
    }

    def change(part: Expression) -> Expression | None:
        return ZERO if isinstance(part, Element) and part.name == "ETA" and part.index in zero else None

    for name, definition in reading.program.definitions.items():
        value = simplified(rebuilt(definition.value, change)) if zero else definition.value
        reading.program.definitions[name] = replace(definition, value=_shared_factor(value))
    reading.initial = {k: simplified(rebuilt(value, change)) for k, value in reading.initial.items()}
    if reading.derivatives is not None:
        reading.derivatives = [simplified(rebuilt(value, change)) for value in reading.derivatives]


def _shared_factor(value: Expression) -> Expression:
    """``Where(c, V*(1 + x), V)`` as ``V * Where(c, 1 + x, 1)``."""
    if not isinstance(value, Where):
        return value
    value = Where(value.condition, _shared_factor(value.yes), _shared_factor(value.no))
    yes, no = factors(value.yes), factors(value.no)
    shared = [part for part in yes if part in no and isinstance(part, Name | Element)]
    if not shared:
        return value
    for part in shared:
        yes.remove(part)
        no.remove(part)
    return product([*shared, Where(value.condition, product(yes), product(no))])


def _settle(reading: Reading, columns: TableColumns, roots: list[Expression]) -> None:
    """Give every variable that is needed a value on all rows."""
    program = reading.program
    everywhere = np.ones(len(reading.table), dtype=bool)
    for definition in live_definitions(program, roots):
        if definition.name.name in ("Y", "F_FLAG"):
            continue
        if not any(isinstance(part, Before) for part in walk(definition.value)):
            continue
        if any(isinstance(part, Element) and part.name == "EPS" for part in walk(definition.value)):
            continue
        rows = everywhere if definition.section in ("PK", "PRED", "DES") else reading.observed
        value = columns.settled(definition, rows)
        program.definitions[definition.name] = replace(definition, value=value)
    program.items = tuple(map(str, columns.table.columns))


def _unit_errors(reading: Reading, outcome: Outcome) -> Outcome:
    """Residual errors whose variance is fixed at 1 are not written."""
    unit = {b.first + k for b in reading.values.sigmas for k in range(b.size) if b.fixed and b.matrix[k, k] == 1}

    def change(part: Expression) -> Expression | None:
        return Number("1") if isinstance(part, Element) and part.name == "SD" and part.index in unit else None

    if isinstance(outcome.kind, LikelihoodLeaf):
        return outcome
    kind = NormalLeaf(outcome.kind.mean, simplified(rebuilt(outcome.kind.deviation, change)))
    return replace(outcome, kind=kind)


def _check_levels(reading: Reading, outcomes: tuple[Outcome, ...]) -> None:
    """Refuse L2 where it means anything: records of one L2 share their residual errors."""
    if "L2" not in reading.table:
        return
    used = [
        {p.index for e in expressions_of(o.kind) for p in walk(e) if isinstance(p, Element) and p.name == "SD"}
        for o in outcomes
    ]
    shared = len(used) < 2 or any(a & b for k, a in enumerate(used) for b in used[:k])
    if shared or any(not block.diagonal and block.size > 1 for block in reading.values.sigmas):
        reading.stream.refuse(
            reading.inputs.line, "L2 makes residual errors of several records depend on each other, which is not read"
        )


def _pool_without_effects(reading: Reading, values: Sequence[Expression]) -> None:
    """Take the pooled likelihood where no ETA is left: NONMEM's objective is the same by every method."""
    if not any(isinstance(part, Element) and part.name == "ETA" for value in values for part in walk(value)):
        reading.notes.append(f"there is no ETA to integrate: nlme.Pooled() stands for {reading.method}.")
        reading.method = "nlme.Pooled()"


def _choose_method(reading: Reading, outcomes: tuple[Outcome, ...]) -> None:
    """Laplace's method where an outcome is not normal, as NONMEM demands it."""
    plain = all(isinstance(outcome.kind, NormalLeaf) and outcome.censored is None for outcome in outcomes)
    if not plain and reading.method in ("nlme.FO()", "nlme.FOCE()", "nlme.FOCEI()"):
        reading.notes.append(f"{reading.method} needs normal outcomes; nlme.Laplace() is taken.")
        reading.method = "nlme.Laplace()"


def _predicted(reading: Reading, outcomes: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
    """Of $PRED: a mean that is an expression becomes a variable, which ``predict`` returns."""
    found = []
    for outcome in outcomes:
        kind = outcome.kind
        if isinstance(kind, NormalLeaf) and not isinstance(kind.mean, Name):
            name = reading.program.define("PREDICTION", kind.mean, reading.code_line, "OUTCOME")
            mean = kind.mean
            deviation = rebuilt(kind.deviation, lambda p, mean=mean, name=name: name if p == mean else None)  # type: ignore[misc]
            kind = NormalLeaf(name, deviation)
        found.append(replace(outcome, kind=kind))
    return tuple(found)


def _check_used(reading: Reading, roots: list[Expression]) -> None:
    """Refuse amounts where there are no compartments, and elements that are not known."""
    live = live_definitions(reading.program, roots)
    count = len(reading.structure.states)
    for definition in live:
        for part in walk(definition.value):
            if isinstance(part, Element) and part.name == "A" and not 1 <= part.index <= count:
                reading.stream.refuse(
                    definition.line, f"compartment {part.index} (of the output, by CMT) cannot be converted"
                )
            if isinstance(part, Element) and part.name == "A" and definition.section == "PK":
                reading.stream.refuse(definition.line, f"A({part.index}) in $PK cannot be converted")
            if isinstance(part, Element) and part.name in ("P", "MTIME", "MPAST", "MNEXT", "MTDIFF"):
                reading.stream.refuse(definition.line, f"{part.name}({part.index}) cannot be converted")
            if isinstance(part, Before):
                refuse_before(reading.stream, part, definition.line)


# ---------------------------------------------------------------------- residual errors


def _declare_errors(
    reading: Reading,
    outcomes: tuple[Outcome, ...],
    roots: list[Expression],
    namer: Namer,
    declarations: Declarations,
) -> None:
    used = {part for root in roots for part in walk(root) if isinstance(part, Element)}
    used |= {p for d in live_definitions(reading.program, roots) for p in walk(d.value) if isinstance(p, Element)}
    deviations = sorted({part.index for part in used if part.name in ("SD", "SIGMA")})
    firsts: dict[int, int] = {}
    for block in reading.values.sigmas:
        for k in range(block.size):
            firsts[block.first + k] = block.first + k if block.repeats is None else block.repeats + k
    several = len({firsts[index] for index in deviations}) > 1
    named: dict[int, str] = {}
    for index in deviations:
        source = firsts[index]
        block = next(b for b in reading.values.sigmas if index in b.effects)
        k = index - block.first
        variance = float(block.matrix[k, k])
        if source not in named:
            comment = next(b for b in reading.values.sigmas if source in b.effects).comments[k]
            word = word_of(comment)
            wishes = [f"sigma_{word}"] if word and word.lower() != "sigma" else []
            name = namer.name(*wishes, *([] if several else ["sigma"]), f"sigma{source}")
            fixed = ", fixed=True" if block.fixed else ""
            note = f"  # {comment}" if comment else ""
            declarations.lines.append(f"self.{name} = nlme.Positive({root_text(variance)}{fixed}){note}")
            named[source] = name
        declarations.texts[Element("SD", index)] = declarations.texts[Element("SIGMA", index)] = named[source]
    for part in sorted((p for p in used if p.name == "COR"), key=lambda p: p.index):
        i, j = divmod(part.index, 1000)
        block = next(b for b in reading.values.sigmas if i in b.effects)
        a, b = i - block.first, j - block.first
        value = block.matrix[a, b] / np.sqrt(block.matrix[a, a] * block.matrix[b, b])
        name = namer.name(f"correlation_{i}_{j}")
        fixed = ", fixed=True" if block.fixed else ""
        declarations.lines.append(f"self.{name} = nlme.Bounded({number_text(value)}, -1.0, 1.0{fixed})")
        declarations.texts[part] = name


# ---------------------------------------------------------------------- names


def _outcome_names(outcomes: tuple[Outcome, ...], columns: TableColumns, reading: Reading) -> list[str]:
    """DV, or names by the data item that tells outcomes apart: DVID1, CMT3."""
    if len(outcomes) == 1:
        return ["DV"]
    found: list[str] = []
    for place, outcome in enumerate(outcomes, 1):
        rows = reading.observed
        items: dict[str, None] = {}
        for condition, holds in outcome.conditions:
            rows = rows & ((columns.values(condition) != 0) == holds)
            items |= {part.name: None for part in walk(columns.inlined(condition)) if isinstance(part, Name)}
        name = f"Y{place}"
        for item in items:
            values = set(columns.table[item][rows]) if item in columns.table else set()
            if len(values) == 1 and item not in ("DV", "TIME"):
                name = re.sub(r"\W", "_", f"{item}{next(iter(values)):g}")
                break
        found.append(name if name not in found else f"{name}_{place}")
    return found


def _covariate_name(item: str) -> str:
    taken = {*NONMEM_NAMES.values(), *DATE_NAMES}
    return f"ROW_{item}" if item in taken else item


def _title(stem: str) -> str:
    words = [word for word in re.split(r"[^A-Za-z0-9]+", stem) if word]
    title = "".join(word[0].upper() + word[1:] for word in words) or "Converted"
    title = f"{title}Model" if title == "Likelihood" else title  # a class of nlme_torch that the file may import
    return title if title[0].isalpha() else f"Run{title}"


def _description(reading: Reading) -> str:
    record = next(reading.stream.named("PROBLEM"), None)
    said = record.lines[0].text.strip() if record is not None else ""
    said = re.sub(r'["\\]', "'", said)
    return f"{said or 'Converted'}: {reading.stream.path.name}."


def _covariates(body: str, covariate: Mapping[str, str]) -> list[str]:
    """Data items that the class reads."""
    return [
        item
        for item, name in covariate.items()
        if re.search(rf"\bcov\.{re.escape(name)}\b", body) or f'nlme.Power("{name}"' in body
        or f'nlme.Shift("{name}"' in body
    ]  # fmt: skip


def _file(reading: Reading, body: str, data: list[str]) -> str:
    text = "\n".join(data)
    imports = ["import math"] if "math." in body + text else []
    imports += ["import numpy as np"] if "np." in text else []
    imports += ["import pandas as pd"] if re.search(r"\bpd\.", text) else []
    imports += ["import pyro.distributions as dist"] if "dist." in body else []
    imports += ["import torch"] if "torch." in body else []
    imports += ["from scipy import special"] if "special." in text else []
    standard = [line for line in imports if line == "import math"]
    others = sorted(line for line in imports if line != "import math")
    own = ["import nlme_torch as nlme", "from nlme_torch.nonmem import Likelihood, read_table"
           if "Likelihood(" in body else "from nlme_torch.nonmem import read_table"]  # fmt: skip
    heads = ["\n".join(group) for group in (standard, others, own) if group]
    default = _default_path(reading)
    lines = "\n".join(f"    {line}" for line in data)
    return (
        f'"""{_description(reading)}"""\n\n' + "\n\n".join(heads) + f"\n\n\n{body}\n\n"
        f'def data(path="{default}"):\n    """Read the data as NONMEM does."""\n{lines}\n\n\n'
        f"method = {reading.method}\n"
    )


def _default_path(reading: Reading) -> str:
    source = reading.source_of_data
    return reading.file.path if isinstance(source, pd.DataFrame) else source.as_posix()
