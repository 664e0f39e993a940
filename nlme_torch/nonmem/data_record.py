"""$INPUT and $DATA: the names of the columns, where the rows stand, and which of them count."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nlme_torch.nonmem.control_stream import ControlStream

RESERVED = (
    "ID", "L1", "L2", "DV", "MDV", "EVID", "TIME", "DATE", "DAT1", "DAT2", "DAT3", "AMT", "RATE", "SS", "II", "ADDL",
    "CMT", "PCMT", "CALL", "CONT", "RAW_", "MRG_", "RPT_",
)  # fmt: skip
"""Data items that mean something to NONMEM and PREDPP."""


@dataclass(frozen=True)
class Input:
    """The columns of the data.

    Attributes:
        columns: Name of every column of the file in order, None for those that are dropped.
        dropped: Name of every column that is dropped, empty elsewhere: rows may still be left out by its values.
        synonyms: Other names to the column's name.
        line: Where $INPUT stands.
    """

    columns: tuple[str | None, ...]
    dropped: tuple[str, ...]
    synonyms: Mapping[str, str]
    line: int

    @property
    def items(self) -> tuple[str, ...]:
        """Names of the columns that are read."""
        return tuple(name for name in self.columns if name is not None)


def read_input(stream: ControlStream) -> Input:
    """Read $INPUT."""
    columns: list[str | None] = []
    synonyms: dict[str, str] = {}
    dropped_names: list[str] = []
    first = next(stream.named("INPUT"), None)
    if first is None:
        stream.refuse(1, "there is no $INPUT, which names the columns of the data")
    for record in stream.named("INPUT"):
        for line in record.lines:
            for word in re.split(r"[\s,]+", re.sub(r"\s*=\s*", "=", line.text.strip().rstrip("&")).upper()):
                if not word:
                    continue
                names = word.split("=")
                if not all(re.fullmatch(r"[A-Z_]\w*", name) for name in names) or len(names) > 2:
                    stream.refuse(line.number, f"{word!r} is no name of a column")
                dropped = [name for name in names if name in ("DROP", "SKIP")]
                kept = [name for name in names if name not in dropped]
                if dropped and not (kept and kept[0] in ("DATE", "DAT1", "DAT2", "DAT3")):
                    columns.append(None)
                    dropped_names.append(kept[0] if kept else "")
                    continue
                dropped_names.append("")
                name = next((name for name in kept if name in RESERVED), kept[0])
                synonyms |= {other: name for other in kept if other != name}
                if name in columns:
                    stream.refuse(line.number, f"two columns are called {name}")
                columns.append(name)
    for needed in ("ID", "DV"):
        if needed not in columns and not (needed == "ID" and stream.has("PRED")):
            stream.refuse(first.line, f"$INPUT has no {needed}")
    for name in ("PCMT", "CALL", "CONT", "L1"):
        if name in columns:
            stream.refuse(first.line, f"the data item {name} cannot be converted")
    return Input(tuple(columns), tuple(dropped_names), synonyms, first.line)


@dataclass(frozen=True)
class DataFile:
    """$DATA.

    Attributes:
        path: The file, as the stream names it.
        mark: Character at which lines are left out, ``"@"`` for all letters; None if there is none.
        ignore: Conditions of which a row that is left out meets one, ``"DVID.EQ.2"``.
        accept: Conditions of which a row that is kept meets one.
        records: Number of rows that are read; None for all.
        missing: What is written for a null value.
        line: Where the record stands.
    """

    path: str
    mark: str | None
    ignore: tuple[str, ...]
    accept: tuple[str, ...]
    records: int | None
    line: int


def read_data_record(stream: ControlStream, inputs: Input) -> DataFile:
    """Read $DATA."""
    record = next(stream.named("DATA"), None)
    if record is None:
        stream.refuse(1, "there is no $DATA, which names the file of the data")
    text = " ".join(line.text.strip().removesuffix("&") for line in record.lines).strip()
    named = re.match(r"'([^']*)'|\"([^\"]*)\"|(\S+)", text)
    if named is None:
        stream.refuse(record.line, "$DATA names no file")
    path = next(part for part in named.groups() if part is not None)
    if path == "*":
        stream.refuse(record.line, "$DATA * takes the data of the problem before; name the file")
    rest = text[named.end() :]
    mark: str | None = None
    conditions: dict[str, list[str]] = {"IGNORE": [], "ACCEPT": []}
    records: int | None = None
    option = re.compile(
        r"\s*,?\s*(?:(?P<kind>IGN(?:ORE)?|ACCEPT)\s*=?\s*(?:\((?P<list>[^)]*)\)|'(?P<q>.)'|\"(?P<qq>.)\"|(?P<char>\S))"
        r"|(?P<other>NULL|RECORDS|RECS|NRECS|LAST20|TRANSLATE|PRED_IGNORE_DATA|BLANKOK|MISDAT|LRECL)\s*=?\s*(?P<value>\([^)]*\)|[^\s,]+)?"
        r"|(?P<word>NOWIDE|WIDE|CHECKOUT|NOREWIND|REWIND|NOOPEN|BLANKOK))(?=[\s,]|$)",
        re.IGNORECASE,
    )
    place = 0
    while place < len(rest) and rest[place:].strip(" ,"):
        match = option.match(rest, place)
        if match is None or match.end() == place:
            stream.refuse(record.line, f"{rest[place:].strip()[:30]!r} of $DATA is not understood")
        place = match.end()
        if match["kind"]:
            kind = "IGNORE" if match["kind"].upper().startswith("IGN") else "ACCEPT"
            if match["list"] is not None:
                conditions[kind] += _conditions(stream, record.line, match["list"], inputs)
            elif kind == "ACCEPT":
                stream.refuse(record.line, "ACCEPT takes a list of conditions in brackets")
            else:
                mark = match["q"] or match["qq"] or match["char"]
        elif match["other"]:
            name, value = match["other"].upper(), match["value"] or ""
            if name in ("RECORDS", "RECS", "NRECS") and value.isdigit():
                records = int(value)
            elif not (name == "NULL" and value in ("0", ".")) and name not in ("LAST20", "BLANKOK", "LRECL"):
                stream.refuse(record.line, f"{name}={value} of $DATA cannot be converted")
    return DataFile(path, mark, tuple(conditions["IGNORE"]), tuple(conditions["ACCEPT"]), records, record.line)


_CONDITION = re.compile(
    r"([A-Z_]\w*)\s*(?:\.\s*(EQN?|NEN?|LT|LE|GT|GE)\s*\.|(==?|/=|<=|>=|<|>))\s*(\"[^\"]*\"|'[^']*'|[^\s,]+)",
    re.IGNORECASE,
)
_SIGNS = {"==": "EQ", "=": "EQ", "/=": "NE", "<": "LT", "<=": "LE", ">": "GT", ">=": "GE"}


def _conditions(stream: ControlStream, line: int, text: str, inputs: Input) -> list[str]:
    found = []
    for part in text.split(","):
        if not part.strip():
            continue
        match = _CONDITION.fullmatch(part.strip())
        if match is None:
            plain = re.fullmatch(r"([A-Z_]\w*)\s+(\S+)|([A-Z_]\w*)\s*=\s*(\S+)", part.strip(), re.IGNORECASE)
            if plain is None:
                stream.refuse(line, f"{part.strip()!r} is no condition of $DATA")
            name, sign, value = plain[1] or plain[3], "EQ", plain[2] or plain[4]
        else:
            name, sign, value = match[1], match[2] or _SIGNS[match[3]], match[4]
        name = inputs.synonyms.get(name.upper(), name.upper())
        if name not in inputs.columns and name not in inputs.dropped:
            stream.refuse(line, f"{part.strip()!r} of $DATA names {name}, which $INPUT does not")
        found.append(f"{name}.{sign.upper()}.{value.strip(chr(34) + chr(39))}")
    return found


def data_path(stream: ControlStream, record: DataFile) -> Path:
    """Where the file of the data lies: the stream's own folder counts."""
    given = Path(record.path)
    return given if given.is_absolute() else stream.path.parent / given
