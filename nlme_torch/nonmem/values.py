"""Initial values: $THETA, $OMEGA, $SIGMA, and final ones from the table of estimates (.ext)."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nlme_torch.errors import ModelError
from nlme_torch.nonmem.control_stream import ControlStream, Line, Record

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][-+]?\d+)?|[-+]?INF(?:INITY)?"
_REPEAT = re.compile(r"\s*\)?\s*[xX]\s*(\d+)")
INFINITE = 1e6
"""Bounds from here on are none, as in NONMEM."""


@dataclass(frozen=True)
class Theta:
    """One THETA: value, bounds (infinite where there are none), whether it is fixed, and what its comment says."""

    value: float
    lower: float
    upper: float
    fixed: bool
    line: int
    comment: str = ""
    label: str = ""


@dataclass(frozen=True)
class Block:
    """A block of OMEGA or SIGMA: random effects that may covary.

    Attributes:
        first: Number of its first effect, from 1.
        matrix: ``(effect, effect)`` covariances.
        fixed: Whether they are kept.
        diagonal: Whether it was written as a diagonal one.
        repeats: Number of the first effect of the block that this one is the same as; None if it has its own values.
        comments: Comment at each effect.
        labels: Name of each effect, empty where there is none.
        line: Where it begins.
    """

    first: int
    matrix: NDArray[np.float64]
    fixed: bool
    diagonal: bool
    repeats: int | None
    comments: tuple[str, ...]
    labels: tuple[str, ...]
    line: int

    @property
    def size(self) -> int:
        """Number of effects."""
        return len(self.matrix)

    @property
    def effects(self) -> range:
        """Numbers of its effects."""
        return range(self.first, self.first + self.size)


def number(text: str) -> float:
    """Return a number of a control stream: 1.D0, INF."""
    upper = text.upper().replace("D", "E")
    return math.copysign(math.inf, -1.0 if upper.startswith("-") else 1.0) if "INF" in upper else float(upper)


def read_thetas(stream: ControlStream, name: str = "THETA") -> tuple[Theta, ...]:
    """Read all $THETA records."""
    found: list[Theta] = []
    for record in stream.named(name):
        labels = _labels(record)
        start = len(found)
        for line, text in _pieces(record):
            text = re.sub(r"\bNAMES\s*\([^)]*\)", " ", text, flags=re.IGNORECASE)
            found += _thetas_of(stream, line, text)
        for place, label in enumerate(labels[: len(found) - start]):
            found[start + place] = replace(found[start + place], label=label)
    return tuple(found)


def _labels(record: Record) -> list[str]:
    named = re.search(r"\bNAMES\s*\(([^)]*)\)", record.text, re.IGNORECASE)
    return re.split(r"[\s,]+", named[1].strip().upper()) if named else []


def _pieces(record: Record) -> list[tuple[Line, str]]:
    """Lines, with those joined whose brackets stay open; the last line's comment and number count."""
    pieces: list[tuple[Line, str]] = []
    held = ""
    for line in record.lines:
        text = f"{held} {line.text.rstrip().removesuffix('&')}"
        if text.count("(") > text.count(")"):
            held = text
            continue
        held = ""
        pieces.append((line, text))
    if held.strip():
        pieces.append((record.lines[-1], held))
    return pieces


def _thetas_of(stream: ControlStream, line: Line, text: str) -> list[Theta]:
    item = re.compile(
        rf"\s*,?\s*(?:(?P<label>[A-Za-z_]\w*)\s*=\s*)?(?:\((?P<inside>[^()]*)\)(?:\s*[xX]\s*(?P<times>\d+))?"
        rf"|(?P<plain>{_NUMBER}))\s*(?P<fixed>FIX(?:ED)?)?",
        re.IGNORECASE,
    )
    found: list[Theta] = []
    place = 0
    while place < len(text) and text[place:].strip(" \t,"):
        skipped = re.compile(r"\s*(ABORT|NOABORT|NOABORTFIRST|UNINT|NUMBERPOINTS?\s*=\s*\d+)\b", re.IGNORECASE).match(
            text, place
        )
        if skipped:
            place = skipped.end()
            continue
        match = item.match(text, place)
        if match is None or match.end() == place:
            stream.refuse(line.number, f"{text[place:].strip()[:30]!r} is no initial value of a THETA")
        theta = _theta(stream, line, match["inside"], match["plain"], bool(match["fixed"]))
        if match["label"]:
            theta = replace(theta, label=match["label"].upper())
        found += [theta] * int(match["times"] or 1)
        place = match.end()
    if found:
        found[-1] = replace(found[-1], comment=line.comment)
    return found


def _theta(stream: ControlStream, line: Line, inside: str | None, plain: str | None, fixed: bool) -> Theta:
    if plain is not None:
        return Theta(number(plain), -math.inf, math.inf, fixed, line.number)
    text = inside or ""
    if re.search(r"\bFIX(ED)?\b", text, re.IGNORECASE):
        fixed, text = True, re.sub(r"\bFIX(ED)?\b", " ", text, flags=re.IGNORECASE)
    text = re.sub(r"\bUNINT\b", " ", text, flags=re.IGNORECASE)
    parts = [part.strip() for part in (text.split(",") if "," in text else text.split())]
    while parts and not parts[-1]:
        parts.pop()
    for part in parts:
        if part and not re.fullmatch(_NUMBER, part, re.IGNORECASE):
            stream.refuse(line.number, f"{part!r} is no number")
    numbers = [number(part) if part else None for part in parts]
    if not numbers or len(numbers) > 3:
        stream.refuse(line.number, f"({text.strip()}) holds {len(numbers)} numbers; a THETA has one, two or three")
    given: list[float | None] = [None, *numbers, None] if len(numbers) == 1 else [*numbers, None]
    lower, value, upper = given[:3]
    if value is None:
        if lower is None or upper is None:
            stream.refuse(line.number, f"({text.strip()}) has no initial value")
        value = (lower + upper) / 2
    low = -math.inf if lower is None or lower <= -INFINITE else lower
    high = math.inf if upper is None or upper >= INFINITE else upper
    if not fixed and lower is not None and lower == upper == value:
        fixed = True
    if not low <= value <= high:
        stream.refuse(line.number, f"the initial value {value:g} is not between the bounds {low:g} and {high:g}")
    return Theta(value, low, high, fixed, line.number)


def read_blocks(stream: ControlStream, name: str) -> tuple[Block, ...]:
    """Read all $OMEGA or $SIGMA records."""
    blocks: list[Block] = []
    for record in stream.named(name):
        for block in _blocks_of(stream, record, blocks):
            blocks.append(block)
    return tuple(blocks)


_OPTION = re.compile(
    r"\s*,?\s*(?:(?P<block>BLOCK\s*(?:\(\s*(?P<size>\d+)\s*\))?)|(?P<diagonal>DIAG(?:ONAL)?\s*(?:\(\s*\d+\s*\))?)"
    r"|(?P<same>SAME(?:\s*\(\s*(?P<times>\d+)\s*\))?)"
    r"|(?P<values>VALUES\s*\(\s*(?P<on>[^,()]+),\s*(?P<off>[^,()]+)\))|(?P<names>NAMES\s*\((?P<list>[^)]*)\))"
    r"|(?P<word>FIX(?:ED)?|UNINT|STANDARD|SD|VARIANCE|CORRELATON|CORRELATION|CORR|COVARIANCE|CHOLESKY|UNITNORM)\b"
    rf"|(?P<inside>\([^()]*\))(?:\s*[xX]\s*(?P<repeat>\d+))?|(?:(?P<label>[A-Za-z_]\w*)\s*=\s*)?(?P<plain>{_NUMBER}))",
    re.IGNORECASE,
)


@dataclass
class _Reading:
    """What a record of a matrix has said so far."""

    block: bool = False
    size: int | None = None
    same: int = 0
    fixed: bool = False
    scale: str = "variance"
    off: str = "covariance"
    filled: tuple[float, float] | None = None


def _blocks_of(stream: ControlStream, record: Record, before: Sequence[Block]) -> list[Block]:
    said = _Reading()
    entries: list[tuple[float, bool, str, str, int]] = []  # value, fixed, scale, comment, line
    labels: list[str] = _labels(record)
    for line, text in _pieces(record):
        place, count = 0, len(entries)
        while place < len(text) and text[place:].strip(" \t,"):
            match = _OPTION.match(text, place)
            if match is None or match.end() == place:
                stream.refuse(line.number, f"{text[place:].strip()[:30]!r} is not understood in ${record.name}")
            place = match.end()
            if match["block"]:
                said.block, said.size = True, int(match["size"]) if match["size"] else None
            elif match["same"]:
                said.same = int(match["times"] or 1)
            elif match["values"]:
                said.filled = number(match["on"].strip()), number(match["off"].strip())
            elif match["word"]:
                _option(said, match["word"].upper(), entries)
            elif match["inside"]:
                entries += _entry(stream, line, match["inside"][1:-1]) * int(match["repeat"] or 1)
            elif match["plain"]:
                entries.append((number(match["plain"]), False, "", "", line.number))
                if match["label"]:
                    labels += [""] * (len(entries) - 1 - len(labels)) + [match["label"].upper()]
        if len(entries) > count:
            entries[-1] = (*entries[-1][:3], line.comment, entries[-1][4])
    first = before[-1].first + before[-1].size if before else 1
    if said.same:
        return _repeated(stream, record, before, said)
    if said.block:
        return [_full(stream, record, first, said, entries, labels)]
    found = []
    labels += [""] * len(entries)
    for place, (value, fixed, scale, comment, line_number) in enumerate(entries):
        variance = value**2 if (scale or said.scale) in ("sd", "cholesky") else value
        if variance < 0 or (variance == 0 and not (fixed or said.fixed)):
            stream.refuse(line_number, f"a variance of {value:g} in ${record.name} is not positive")
        found.append(
            Block(first + place, np.array([[variance]]), fixed or said.fixed, True, None, (comment,), (labels[place],),
                  line_number)
        )  # fmt: skip
    return found


def _option(said: _Reading, word: str, entries: list[tuple[float, bool, str, str, int]]) -> None:
    if word.startswith("FIX"):
        if entries and not said.block:
            entries[-1] = (entries[-1][0], True, *entries[-1][2:])
        else:
            said.fixed = True
    elif word in ("SD", "STANDARD"):
        if entries and not said.block:
            entries[-1] = (*entries[-1][:2], "sd", *entries[-1][3:])
        else:
            said.scale = "sd"
    elif word in ("VARIANCE", "UNINT", "UNITNORM", "COVARIANCE"):
        return
    elif word.startswith("CORR"):
        said.off = "correlation"
    elif word == "CHOLESKY":
        said.scale = "cholesky"


def _entry(stream: ControlStream, line: Line, inside: str) -> list[tuple[float, bool, str, str, int]]:
    """``(0.1 FIX)``, ``(FIX SD 0.3)``."""
    words = re.split(r"[\s,]+", inside.strip().upper())
    values = [word for word in words if re.fullmatch(_NUMBER, word, re.IGNORECASE)]
    others = [word for word in words if word not in values]
    if any(word not in ("FIX", "FIXED", "SD", "STANDARD", "VARIANCE") for word in others):
        stream.refuse(line.number, f"({inside}) is not understood")
    scale = "sd" if {"SD", "STANDARD"} & set(others) else ""
    return [(number(value), bool({"FIX", "FIXED"} & set(others)), scale, "", line.number) for value in values]


def _repeated(stream: ControlStream, record: Record, before: Sequence[Block], said: _Reading) -> list[Block]:
    if not before:
        stream.refuse(record.line, f"${record.name} ... SAME has no block before it")
    last = before[-1]
    if said.size is not None and said.size != last.size:
        stream.refuse(record.line, f"BLOCK({said.size}) SAME follows a block of size {last.size}")
    source = last.first if last.repeats is None else last.repeats
    size, start = last.size, last.first + last.size
    return [
        Block(start + k * size, last.matrix, last.fixed, last.diagonal, source, ("",) * size, ("",) * size, record.line)
        for k in range(said.same)
    ]


def _full(
    stream: ControlStream,
    record: Record,
    first: int,
    said: _Reading,
    entries: Sequence[tuple[float, bool, str, str, int]],
    labels: list[str],
) -> Block:
    values = [entry[0] for entry in entries]
    size = said.size
    if size is None:
        size = round((math.sqrt(8 * len(values) + 1) - 1) / 2)
    if said.filled is not None:
        on, off = said.filled
        values = [on if row == column else off for row in range(size) for column in range(row + 1)]
    if len(values) != size * (size + 1) // 2:
        stream.refuse(
            record.line, f"${record.name} BLOCK({size}) needs {size * (size + 1) // 2} values and has {len(values)}"
        )
    lower = np.zeros((size, size))
    lower[np.tril_indices(size)] = values
    if said.scale == "cholesky":
        matrix = lower @ lower.T
    else:
        matrix = lower + np.tril(lower, -1).T
        deviation = np.diag(matrix) if said.scale == "sd" else np.sqrt(np.abs(np.diag(matrix)))
        outside = ~np.eye(size, dtype=bool)
        if said.off == "correlation":
            matrix[outside] = (matrix * np.outer(deviation, deviation))[outside]
        if said.scale == "sd":
            np.fill_diagonal(matrix, deviation**2)
    fixed = said.fixed or any(entry[1] for entry in entries)
    zero = fixed and not matrix.any()
    if not zero and np.linalg.eigvalsh(matrix).min() <= 0:
        stream.refuse(record.line, f"this block of ${record.name} is not positive definite")
    comments = [""] * size
    place = -1
    if said.filled is None:
        for row in range(size):
            place += row + 1
            comments[row] = entries[place][3]
    labels = (labels + [""] * size)[:size]
    return Block(first, matrix, fixed, False, None, tuple(comments), tuple(labels), record.line)


@dataclass(frozen=True)
class Values:
    """All initial values of a stream."""

    thetas: tuple[Theta, ...]
    omegas: tuple[Block, ...]
    sigmas: tuple[Block, ...]


def read_values(stream: ControlStream, estimates: str | Path | None) -> Values:
    """Read the initial values, or with ``estimates`` the final ones of an .ext file."""
    values = Values(read_thetas(stream), read_blocks(stream, "OMEGA"), read_blocks(stream, "SIGMA"))
    return values if estimates is None else at_estimates(values, read_estimates(estimates), Path(estimates).name)


def read_estimates(path: str | Path) -> dict[str, float]:
    """Return the final estimates of the last table of an .ext file: THETA1, OMEGA(2,1), SIGMA(1,1) to value.

    Raises:
        ModelError: The file is absent or has no line of final estimates (ITERATION -1000000000).
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"There is no file of estimates {path}.")
    names: list[str] = []
    final: dict[str, float] = {}
    for line in file.read_text().splitlines():
        cells = re.findall(r"[A-Za-z]+\(\d+,\d+\)|[^\s,;\"]+", line)
        if not cells:
            continue
        if cells[0].upper() == "ITERATION":
            names = [cell.upper() for cell in cells]
        elif names and re.fullmatch(r"-1000000000(\.0*)?|-1\.0*E\+0?9", cells[0].upper()):
            final = {name: number(cell) for name, cell in zip(names, cells, strict=False)}
    if not final:
        raise ModelError(f"{file.name} has no final estimates: no line begins with -1000000000 below ITERATION.")
    return final


def at_estimates(values: Values, estimates: dict[str, float], source: str) -> Values:
    """Return the values with those of an .ext file in their place."""

    def one(name: str) -> float:
        if name not in estimates:
            raise ModelError(f"{source} has no {name}, which the control stream has.")
        return estimates[name]

    def filled(block: Block, name: str) -> Block:
        matrix = np.array([[one(f"{name}({max(i, j)},{min(i, j)})") for j in block.effects] for i in block.effects])
        return replace(block, matrix=matrix)

    thetas = tuple(replace(theta, value=one(f"THETA{place}")) for place, theta in enumerate(values.thetas, 1))
    return Values(
        thetas,
        tuple(filled(block, "OMEGA") for block in values.omegas),
        tuple(filled(block, "SIGMA") for block in values.sigmas),
    )
