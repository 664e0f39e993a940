"""$ABBREVIATED REPLACE and labels: what THETA(CL), ETA(OCC_V) and A(DEPOT) stand for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nlme_torch.nonmem.control_stream import ControlStream
from nlme_torch.nonmem.expressions import Before, Binary, Element, Expression, ExpressionError, Name, Number, Where

_HARMLESS = re.compile(
    r"(DECLARE\b.*?|DERIV[12]?\s*=\s*\w+|COMRES\s*=\s*-?\d+|COMSAV\s*=\s*\d+|PROTECT|FASTDER|NOFASTDER|CHECKMU|"
    r"NOCHECKMU)(\s+|$)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Abbreviations:
    """What indices in words stand for.

    Attributes:
        replaced: ``THETA(CL)`` to the numbers of the elements it stands for.
        words: Whole words that are replaced by others.
        labels: Kind of element (THETA, ETA, EPS, A) to label to number.
        counts: Kind of element to how many there are.
    """

    replaced: Mapping[str, tuple[str, tuple[int, ...]]]
    words: Mapping[str, str]
    labels: Mapping[str, Mapping[str, int]]
    counts: Mapping[str, int]
    items: Sequence[str]

    def element(self, name: str, index: str) -> Expression:
        """Return what an indexed name stands for; raises ExpressionError."""
        key = f"{name}({index})"
        if key in self.replaced:
            target, places = self.replaced[key]
            return self._selected(key, index, target, places)
        if name == "OMEGA" or (name == "SIGMA" and len(set(index.split(","))) != 1):
            raise ExpressionError(f"{key} in code cannot be converted")
        if name == "SIGMA":
            self._checked("EPS", int(index.split(",")[0]))
            return Element("SIGMA", int(index.split(",")[0]))
        if re.fullmatch(r"\d+", index):
            return self._checked(name, int(index))
        kind = {"DADT": "A", "A_0": "A"}.get(name, name)
        known = self.labels.get(kind, {})
        if index in known:
            return self._checked(name, known[index])
        raise ExpressionError(f"{key}: {index!r} is neither a number nor a label")

    def _checked(self, name: str, place: int) -> Element:
        kind = {"DADT": "A", "A_0": "A"}.get(name, name)
        if kind in self.counts and not 1 <= place <= self.counts[kind]:
            record = {"THETA": "$THETA", "ETA": "$OMEGA", "EPS": "$SIGMA", "A": "the model's compartments"}[kind]
            raise ExpressionError(f"{name}({place}) is out of range: {record} gives {self.counts[kind]}")
        return Element(name, place)

    def _selected(self, key: str, index: str, target: str, places: tuple[int, ...]) -> Expression:
        """One element, or the one that the data item before the underscore chooses: ETA(OCC_CL)=ETA(4,5)."""
        if len(places) == 1:
            return self._checked(target, places[0])
        item = max((item for item in self.items if index.startswith(f"{item}_")), key=len, default=None)
        if item is None:
            raise ExpressionError(f"{key} stands for several elements, but no data item begins its name")
        chosen: Expression = Before(key, 0)
        for level, place in reversed(list(enumerate(places, 1))):
            chosen = Where(Binary("==", Name(item), Number(str(level))), self._checked(target, place), chosen)
        return chosen


def read_abbreviations(
    stream: ControlStream,
    items: Sequence[str],
    labels: Mapping[str, Mapping[str, int]],
    counts: Mapping[str, int],
) -> Abbreviations:
    """Read $ABBREVIATED.

    Args:
        stream: The stream.
        items: Names of the data items.
        labels: Kind of element to label to number.
        counts: Kind of element to how many there are.
    """
    replaced: dict[str, tuple[str, tuple[int, ...]]] = {}
    words: dict[str, str] = {}
    for record in stream.named("ABBREVIATED"):
        for line in record.lines:
            text = line.text.strip().rstrip("&").strip()
            while text:
                found = re.match(r"REPLACE\s+(.*?)(?=\s+(?:REPLACE|DECLARE|DERIV2?|COMRES|COMSAV)\b|$)", text, re.I)
                if found is None:
                    other = _HARMLESS.match(text)
                    if other is None or re.match(r"(DECLARE\s+.*[()]|FUNCTION|VECTOR)", text, re.I):
                        stream.refuse(line.number, f"$ABBREVIATED {text[:40]!r} cannot be converted")
                    text = text[other.end() :].strip() if not other[1].upper().startswith("DECLARE") else ""
                    continue
                _replacement(stream, line.number, found[1].strip(), replaced, words)
                text = text[found.end() :].strip()
    return Abbreviations(replaced, words, labels, counts, items)


def _replacement(
    stream: ControlStream,
    line: int,
    text: str,
    replaced: dict[str, tuple[str, tuple[int, ...]]],
    words: dict[str, str],
) -> None:
    left, _, right = (part.strip().strip("\"'").upper() for part in text.partition("="))
    source = re.fullmatch(r"(THETA|ETA|EPS|ERR|A|DADT|A_0)\s*\(\s*([^)]*?)\s*\)", left)
    target = re.fullmatch(r"(THETA|ETA|EPS|ERR|A|DADT|A_0)\s*\(\s*([^)]*?)\s*\)", right)
    if source and target:
        places = _places(target[2])
        if places is None:
            stream.refuse(line, f"{right} is no list of elements")
        kind = "EPS" if target[1] == "ERR" else target[1]
        index = re.sub(r"\s+", "", source[2])
        replaced[f"{'EPS' if source[1] == 'ERR' else source[1]}({index})"] = kind, places
    elif re.fullmatch(r"[A-Z_]\w*", left) and target is not None and target[2].isdigit():
        kind = "EPS" if target[1] == "ERR" else target[1]
        if kind not in ("THETA", "ETA", "EPS"):
            stream.refuse(line, f"$ABBREVIATED REPLACE {text[:40]!r} cannot be converted")
        words[left] = f"{kind}({target[2]})"
    elif re.fullmatch(r"[A-Z_]\w*", left) and re.fullmatch(r"[A-Z_]\w*", right):
        words[left] = right
    else:
        stream.refuse(line, f"$ABBREVIATED REPLACE {text[:40]!r} cannot be converted")


def _places(text: str) -> tuple[int, ...] | None:
    """``4``, ``4,5,6``, ``4 TO 6``, ``4 TO 8 BY 2``, ``,4 TO 6``."""
    found: list[int] = []
    for part in text.split(","):
        part = part.strip()
        if not part:
            continue
        several = re.fullmatch(r"(\d+)\s*(?:TO|:)\s*(\d+)(?:\s*BY\s*(\d+))?", part)
        if several:
            found += range(int(several[1]), int(several[2]) + 1, int(several[3] or 1))
        elif part.isdigit():
            found.append(int(part))
        else:
            return None
    return tuple(found) or None
