"""A control stream cut into its records, with the number of every line."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from nlme_torch.errors import ModelError

READ = (
    "PROBLEM", "INPUT", "DATA", "SUBROUTINES", "MODEL", "ABBREVIATED", "PRED", "PK", "DES", "ERROR", "THETA", "OMEGA",
    "SIGMA", "PRIOR", "THETAP", "THETAPV", "OMEGAP", "OMEGAPD", "SIGMAP", "SIGMAPD", "OLKJDF", "OVARF", "SLKJDF",
    "SVARF", "TTDF", "ESTIMATION",
)  # fmt: skip
"""Records that are understood."""

NOT_NEEDED = (
    "COVARIANCE", "TABLE", "SCATTERPLOT", "SIMULATION", "SIZES", "WARNINGS", "NONPARAMETRIC", "FORMAT", "ETAS", "PHIS",
    "ANNEAL", "RCOV", "RCOVI", "CHAIN", "TOL", "DEFAULT", "THETAI", "THETAR",
)  # fmt: skip
"""Records that say nothing about model, data and method; the notes of a conversion name them."""

REFUSED = {
    "MIX": "mixtures of subpopulations do not exist here",
    "LEVEL": "effects of groups of subjects ($LEVEL) are not read",
    "MSFI": "the values stand in another file; give the stream with values in $THETA, $OMEGA and $SIGMA",
    "AES": "algebraic equations (ADVAN9, ADVAN15, ADVAN17) are not read",
    "AESINITIAL": "algebraic equations (ADVAN9, ADVAN15, ADVAN17) are not read",
    "CONTR": "user-written objective functions are not read",
    "INFN": "blocks of code that run once ($INFN) are not read",
    "BIND": "data items that PREDPP sees under other names ($BIND) are not read",
    "INDEX": "indices of data items for user-written routines are not read",
    "INCLUDE": "other files are not read in; paste them into the stream",
    "DESIGN": "optimal design is not read",
    "SUPER": "superproblems are not read",
}
"""Records that would change model or data, to why they are refused."""

_SYNONYMS = {"INFILE": "DATA", "SUBS": "SUBROUTINES", "ESTM": "ESTIMATION", "ESTIMATE": "ESTIMATION",
             "SIML": "SIMULATION", "SIMULATE": "SIMULATION", "COVR": "COVARIANCE", "INDXS": "INDEX", "THI": "THETAI",
             "THR": "THETAR"}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One line of a record: its number in the file, its text without comment, and the comment."""

    number: int
    text: str
    comment: str = ""


@dataclass(frozen=True)
class Record:
    """One record: its full name and its lines, the first without the name."""

    name: str
    lines: tuple[Line, ...]

    @property
    def line(self) -> int:
        """Number of the line on which the record begins."""
        return self.lines[0].number

    @property
    def text(self) -> str:
        """The text of all lines, without comments."""
        return "\n".join(line.text for line in self.lines)


@dataclass(frozen=True)
class ControlStream:
    """A file of NM-TRAN records.

    Attributes:
        path: The file.
        records: Its records in order.
    """

    path: Path
    records: tuple[Record, ...]

    def named(self, *names: str) -> Iterator[Record]:
        """Return the records of some names, in order."""
        return (record for record in self.records if record.name in names)

    def has(self, name: str) -> bool:
        """Whether there is such a record."""
        return any(True for _ in self.named(name))

    def refuse(self, line: int, message: str) -> NoReturn:
        """Raise a ModelError that names file and line."""
        raise ModelError(f"{self.path.name}, line {line}: {message}.")

    @property
    def not_needed(self) -> tuple[str, ...]:
        """Names of the records that are left out because they say nothing about the model."""
        return tuple(dict.fromkeys(record.name for record in self.records if record.name in NOT_NEEDED))


def read_control_stream(path: str | Path) -> ControlStream:
    """Read a control stream.

    Args:
        path: The file, with a suffix such as ``.mod`` or ``.ctl``.

    Raises:
        ModelError: The file is absent, a record is unknown, or is one that cannot be converted.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"There is no control stream {path}.")
    text = file.read_bytes().decode("utf-8-sig", errors="replace")
    found: list[tuple[str, list[Line]]] = []
    empty = ControlStream(file, ())
    for number, raw in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        given, _, comment = raw.partition(";")
        start = re.match(r"\s*\$\s*([A-Za-z]+)(.*)$", given)
        if start is not None:
            name = _full_name(empty, start[1].upper(), number)
            found.append((name, [Line(number, start[2], comment.strip())]))
        elif found:
            found[-1][1].append(Line(number, given.rstrip(), comment.strip()))
        elif given.strip():
            empty.refuse(number, f"{given.strip()[:40]!r} stands before the first record, which begins with $")
    if not found:
        raise ModelError(
            f"{file.name} holds no record: a control stream has lines that begin with $PROBLEM, $INPUT, ..."
        )
    records = tuple(Record(name, tuple(lines)) for name, lines in found)
    if sum(record.name == "PROBLEM" for record in records) > 1:
        second = [record for record in records if record.name == "PROBLEM"][1]
        empty.refuse(second.line, "a second $PROBLEM; give each problem a file of its own")
    return ControlStream(file, records)


def _full_name(stream: ControlStream, name: str, line: int) -> str:
    """The record's name written out; NM-TRAN takes three letters and more."""
    name = _SYNONYMS.get(name, name)
    known = (*READ, *NOT_NEEDED, *REFUSED)
    full = name if name in known else next((k for k in known if len(name) >= 3 and k.startswith(name)), None)
    if full is None:
        stream.refuse(line, f"${name} is no record that is known here")
    if full in REFUSED:
        stream.refuse(line, f"${full}: {REFUSED[full]}")
    return full
