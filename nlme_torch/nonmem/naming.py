"""Names of parameters: from labels, comments and the variables of the code."""

import keyword
import re
from collections.abc import Iterable

from nlme_torch.model import Model

_UNIT = re.compile(r"[\[(]([^\])]*)[\])]")


def word_of(comment: str) -> str:
    """Return the name that a comment gives, empty where it gives none: ``1. CL (L/h)`` is CL."""
    tagged = re.match(r"\s*\[\s*([A-Za-z]\w*)\s*\]", comment)
    if tagged is not None and tagged[1].upper() not in ("P", "F", "A", "R", "C", "V"):
        return tagged[1]
    text = _UNIT.sub(" ", re.split(r"[;,]", comment)[0])
    text = re.sub(r"^\s*(?:THETA|ETA|OMEGA|SIGMA|EPS)?\s*\d*\s*[-.):=]*\s*", "", text, flags=re.IGNORECASE)
    words = re.findall(r"[A-Za-z_][A-Za-z0-9_]*", text)
    if words and words[0].upper() in ("IIV", "BSV", "IOV", "BOV", "PPV", "TYPICAL", "POPULATION") and len(words) > 1:
        words = words[1:]
    if not words:
        return ""
    if len(words) <= 3 and sum(map(len, words)) <= 22:
        return "_".join(words)
    return words[0] if words[0].isupper() and len(words[0]) <= 8 else ""


class Namer:
    """Gives every parameter a name of its own.

    Args:
        taken: Names that are given already: variables, states.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self.taken = set(taken)

    def name(self, *wishes: str) -> str:
        """Return the first wish that is free, else the last with a number; and take it."""
        legal = [self._legal(wish) for wish in wishes if self._legal(wish)]
        for wish in legal:
            if wish not in self.taken:
                self.taken.add(wish)
                return wish
        number = 2
        while f"{legal[-1]}{number}" in self.taken:
            number += 1
        self.taken.add(f"{legal[-1]}{number}")
        return f"{legal[-1]}{number}"

    @staticmethod
    def _legal(wish: str) -> str:
        name = re.sub(r"\W", "_", wish.lower()).strip("_")
        if not re.match(r"[a-z]", name) or keyword.iskeyword(name):
            return ""
        return f"{name}_" if hasattr(Model, name) or name in ("torch", "math", "dist", "nlme") else name
