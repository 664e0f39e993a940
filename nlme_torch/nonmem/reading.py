"""A control stream read as a whole: data, values, code."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nlme_torch.nonmem.abbreviations import Abbreviations, read_abbreviations
from nlme_torch.nonmem.control_stream import ControlStream, Record, read_control_stream
from nlme_torch.nonmem.data_record import DataFile, Input, data_path, read_data_record, read_input
from nlme_torch.nonmem.expressions import Binary, Element, Expression, Name, Number, Where
from nlme_torch.nonmem.flow import Program
from nlme_torch.nonmem.method import likelihood_flag, read_method
from nlme_torch.nonmem.naming import word_of
from nlme_torch.nonmem.priors import read_priors
from nlme_torch.nonmem.statements import read_statements
from nlme_torch.nonmem.subroutines import Structure, read_structure
from nlme_torch.nonmem.table import read_table
from nlme_torch.nonmem.values import Block, Values, read_values

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class Reading:
    """What a stream holds.

    Attributes:
        stream: Its records.
        inputs: The columns of the data.
        file: $DATA.
        source_of_data: The file that is read, or a table in its place.
        table: The data as NONMEM reads them.
        structure: Compartments.
        values: Initial values.
        priors: Number of a THETA to mean and standard deviation of its prior.
        program: All code.
        initial: Compartment to its initial value.
        derivatives: Of every compartment, of models with $DES.
        method: The method as Python code.
        likelihood: 0 where Y is a prediction, 1 a likelihood, 2 a -2 log-likelihood.
        notes: What a reader should know.
        code_line: Line of $ERROR or $PRED.
        added: Column that is added to the table to the text that makes it.
    """

    stream: ControlStream
    inputs: Input
    file: DataFile
    source_of_data: Path | pd.DataFrame
    table: pd.DataFrame
    structure: Structure
    values: Values
    priors: Mapping[int, tuple[float, float]]
    program: Program
    method: str
    likelihood: int
    initial: dict[int, Expression] = field(default_factory=dict)
    derivatives: list[Expression] | None = None
    notes: list[str] = field(default_factory=list)
    code_line: int = 1
    added: dict[str, str] = field(default_factory=dict)

    @property
    def observed(self) -> NDArray[np.bool_]:
        """``(row,)``, where something is observed."""
        seen = np.ones(len(self.table), dtype=bool)
        if "MDV" in self.table:
            seen &= (self.table["MDV"] == 0).to_numpy()
        if self.structure.advan is not None:
            seen &= ~self.dosed
            if "EVID" in self.table:
                seen &= (self.table["EVID"] == 0).to_numpy()
        return seen

    @property
    def set_back(self) -> bool:
        """Whether TIME runs back within a subject, as it may at a reset."""
        time = self.table["TIME"]
        return time.dtype.kind == "f" and bool((time.groupby(self.table["ID"]).diff() < 0).any())

    @property
    def dosed(self) -> NDArray[np.bool_]:
        """``(row,)``, where a dose is given."""
        none = np.zeros(len(self.table), dtype=bool)
        if "EVID" in self.table:
            return self.table["EVID"].isin([1, 4]).to_numpy()
        return none | (self.table["AMT"] != 0).to_numpy() if "AMT" in self.table else none


def read(path: str | Path, estimates: str | Path | None, data: "str | Path | pd.DataFrame | None") -> Reading:
    """Read a stream, its data and its code."""
    stream = read_control_stream(path)
    inputs = read_input(stream)
    file = read_data_record(stream, inputs)
    structure = read_structure(stream)
    notes: list[str] = []
    estimation = read_method(stream, notes)
    values, priors = read_priors(stream, read_values(stream, estimates), estimation, notes)
    source: Path | pd.DataFrame = data_path(stream, file) if data is None else data  # type: ignore[assignment]
    source = source if isinstance(source, pd.DataFrame) else Path(source)
    if isinstance(source, Path) and not source.is_file():
        stream.refuse(file.line, f"there is no data file {source.name} where $DATA has it; name it with data=")
    table = read_table(source, column_names(inputs, file), ignore=rules(file), accept=file.accept, rows=file.records)
    if "ID" not in table:
        stream.refuse(inputs.line, "$INPUT has no ID")
    if "TIME" not in table:
        if structure.advan is not None:
            stream.refuse(inputs.line, "$INPUT has no TIME")
        table["TIME"] = table.groupby("ID").cumcount().astype(float)
    left_out = ", ".join(f"${name}" for name in stream.not_needed)
    if left_out:
        notes.append(f"{left_out} say nothing about model, data and method.")
    words = _abbreviations(stream, inputs, structure, values)
    program = Program(stream, tuple(map(str, table.columns)), words.words, inputs.synonyms)
    program.notes = notes
    reading = Reading(stream, inputs, file, source, table, structure, values, priors, program, estimation.method,
                      likelihood_flag(stream), notes=notes)  # fmt: skip
    _run(reading, words)
    return reading


def column_names(inputs: Input, file: DataFile) -> list[str]:
    """Names of the columns of the file as ``read_table`` takes them."""
    used = " ".join((*file.ignore, *file.accept))
    names = []
    for name, dropped in zip(inputs.columns, inputs.dropped, strict=True):
        asked = dropped and f"{dropped}." in used
        names.append(name if name is not None else f"-{dropped}" if asked else "-")
    return names


def rules(file: DataFile) -> list[str]:
    """What ``read_table`` leaves out."""
    return [*([file.mark] if file.mark else []), *file.ignore]


def _abbreviations(stream: ControlStream, inputs: Input, structure: Structure, values: Values) -> Abbreviations:
    labels = {
        "THETA": _labels([(theta.label, theta.comment) for theta in values.thetas]),
        "ETA": _labels([each for block in values.omegas for each in zip(block.labels, block.comments, strict=True)]),
        "EPS": _labels([each for block in values.sigmas for each in zip(block.labels, block.comments, strict=True)]),
        "A": dict(structure.labels or {}),
    }
    counts = {
        "THETA": len(values.thetas), "ETA": _size(values.omegas), "EPS": _size(values.sigmas),
        "A": len(structure.states),
    }  # fmt: skip
    return read_abbreviations(stream, inputs.items, labels, counts)


def _labels(given: "Sequence[tuple[str, str]]") -> dict[str, int]:
    found: dict[str, int] = {}
    for place, (_, comment) in enumerate(given, 1):
        word = word_of(comment).upper()
        if word:
            found.setdefault(word, place)
    return found | {label: place for place, (label, _) in enumerate(given, 1) if label}


def _size(blocks: "Sequence[Block]") -> int:
    return sum(block.size for block in blocks)


def _run(reading: Reading, words: Abbreviations) -> None:
    """Run $PK, $DES and $ERROR, or $PRED."""
    stream, program = reading.stream, reading.program

    def code(name: str) -> None:
        for record in stream.named(name):
            first_line = read_statements(stream, record, words.element)
            free = {"DES": ("T",), "ERROR": ("F",), "PK": (), "PRED": ()}[name]
            program.run(first_line, name, free)

    if reading.structure.advan is None:
        reading.code_line = next(stream.named("PRED")).line
        code("PRED")
        return
    for needed in ("PK", "ERROR"):
        if not stream.has(needed):
            stream.refuse(reading.structure.line, f"there is no ${needed}")
    _called_once(reading, next(stream.named("PK")))
    code("PK")
    program.first = {}
    states = range(1, len(reading.structure.states) + 1)
    reading.initial = {k: program.current[f"A_0({k})"] for k in states if f"A_0({k})" in program.current}
    after_pk = dict(program.current)
    if stream.has("DES"):
        code("DES")
        line = next(stream.named("DES")).line
        found = [program.current.get(f"DADT({k})") for k in states]
        for k, value in enumerate(found, 1):
            if value is None:
                stream.refuse(line, f"DADT({k}) is given no value, and $MODEL has {len(found)} compartments")
        reading.derivatives = [value for value in found if value is not None]
        program.current = after_pk
    reading.code_line = next(stream.named("ERROR")).line
    program.define("F", _prediction(reading), reading.code_line, "ERROR")
    code("ERROR")


def _called_once(reading: Reading, record: Record) -> None:
    """CALLFL=1: $PK sees the first record of each subject alone."""
    called = re.search(r"\bCALLFL\s*=\s*(-?\d)", record.text, re.IGNORECASE)
    if called is None or called[1].startswith("-"):
        return
    if called[1] != "1":
        reading.stream.refuse(record.line, f"CALLFL={called[1]} cannot be converted")
    table = reading.table
    for item in list(table.columns):
        changes = (table.groupby("ID")[item].nunique() > 1).any()
        if changes and re.search(rf"\b{item}\b", record.text, re.IGNORECASE):
            name = f"FIRST_{item}"
            reading.added[name] = f'table.groupby("ID")["{item}"].transform("first")'
            table[name] = table.groupby("ID")[item].transform("first")
            reading.program.first[str(item)] = name
    reading.program.items = tuple(map(str, table.columns))


def _prediction(reading: Reading) -> Expression:
    """F: the amount in the compartment that is observed, by its scale."""

    def scaled(k: int) -> Expression:
        amount = Element("A", k)
        scale = reading.program.current.get(f"S{k}")
        if scale is None and k == reading.structure.observed:
            scale = reading.program.current.get("SC")
        return amount if scale is None else Binary("/", amount, scale)

    seen = [reading.structure.observed]
    if "CMT" in reading.table:
        given = reading.table["CMT"][reading.observed].astype(int)
        seen = sorted({int(k) or reading.structure.observed for k in given})
    if not seen:
        reading.stream.refuse(reading.code_line, "no row of the data is an observation")
    value = scaled(seen[-1])
    for k in reversed(seen[:-1]):
        test: Expression = Binary("==", Name("CMT"), Number(str(k)))
        if k == reading.structure.observed:
            test = Binary("or", test, Binary("==", Name("CMT"), Number("0")))
        value = Where(test, scaled(k), value)
    return value
