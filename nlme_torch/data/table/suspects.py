"""Columns that play no part but have the name of one in other programs and other people's tables."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from nlme_torch.data.table.cells import parse_numbers
from nlme_torch.data.table.columns import Columns
from nlme_torch.data.table.problems import Problem

_NAMES = {
    "amt": ("DOSE", "DOSES", "DOS", "AMOUNT", "DOSEAMT", "DOSEAMOUNT", "AMTDOSE"),
    "dur": ("TINF", "DURATION", "INFDUR", "DURINF", "TINFUSION", "INFTIME", "INFUSIONTIME", "INFUSIONDURATION"),
    "rate": ("INFRATE", "RATEINF", "INFUSIONRATE"),
    "ii": ("TAU", "INTERVAL", "DOSINGINTERVAL"),
    "cmt": ("ADM", "ADMID", "ADMINISTRATION"),
    "cens": ("BLQ", "BLOQ", "BQL", "BLLOQ", "BLQFLAG", "BLQFL", "CENSOR", "CENSORED", "CENSORING"),
    "lloq": ("LLOQ", "LOQ", "ULOQ", "LLQ"),
}
_WHAT = {
    "amt": "the amount of a dose", "dur": "the duration of an infusion", "rate": "the rate of an infusion",
    "ii": "the interval of doses", "cmt": "the compartment of a dose", "cens": "a flag of censored values",
    "lloq": "a limit of quantification",
}  # fmt: skip


class Suspect(NamedTuple):
    """A part that a column seems to play: its name as an argument, and what it would be."""

    part: str
    what: str

    def question(self, name: str, read: str = "is not read") -> str:
        """What to ask the user about a column."""
        return (
            f"it {read}, and looks like {self.what}. If it is, say {self.part}={name!r}; if it is a covariate, "
            f"name it in covariates=; if neither, ignore={name!r}."
        )


def suspect(name: str, columns: Columns) -> Suspect | None:
    """The part that a column without one seems to play, None if none or if another column plays it already."""
    plain = "".join(letter for letter in name.upper() if letter.isalnum())
    part = next((part for part, names in _NAMES.items() if plain in names), None)
    if part is None or name in columns.parts.values():
        return None
    doses = columns.get("amt") is not None or columns.get("evid") is not None
    settled = {
        "amt": doses and columns.covariates is not None,
        "dur": columns.get("dur") is not None or columns.get("rate") is not None or not doses,
        "rate": columns.get("rate") is not None or columns.get("dur") is not None or not doses,
        "ii": columns.get("ii") is not None or not doses,
        "cmt": columns.get("cmt") is not None or not doses,
        "cens": columns.get("cens") is not None,
        "lloq": columns.get("cens") is not None,
    }
    return None if settled[part] else Suspect(part, _WHAT[part])


def looks_like_a_part(name: str, columns: Columns) -> bool:
    """Whether a column must not become a covariate by itself, because of its name."""
    plain = "".join(letter for letter in name.upper() if letter.isalnum())
    part = next((part for part, names in _NAMES.items() if plain in names), None)
    if part == "amt":  # without doses in the table, the dose as a covariate is how R's data sets have it
        return columns.get("amt") is not None or columns.get("evid") is not None
    return part is not None


def likely_amount(frame: pd.DataFrame, columns: Columns) -> str | None:
    """The column that by its name seems to hold the amounts of doses, in a table without AMT; or None."""
    if columns.get("amt") is not None:
        return None
    declared = {*columns.parts.values(), *columns.ignore, *(columns.covariates or ()), *columns.time_varying}
    for name in (name for name in map(str, frame.columns) if name not in declared):
        if any(word in name.upper() for word in ("AMT", "AMOUNT", "DOSE")):
            return name
    return None


def ask_of_infusions(frame: pd.DataFrame, columns: Columns) -> list[Problem]:
    """An error for a duration or a rate under another name: without it infusions would be read as boluses."""
    amount, found = columns.get("amt"), []
    if amount is None:
        return []
    idle = {*columns.ignore, *(columns.covariates or ()), *columns.time_varying}
    given = np.nan_to_num(parse_numbers(frame[amount]).value) != 0
    for name in (name for name in map(str, frame) if name not in idle):
        guess = suspect(name, columns)
        if guess is not None and guess.part in ("dur", "rate"):
            positive = np.nan_to_num(parse_numbers(frame[name]).value) > 0
            if bool((given & positive).any()):
                found.append(Problem("asked", guess.question(name), column=name))
    return found
