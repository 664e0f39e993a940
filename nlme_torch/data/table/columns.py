"""Which column of the user's table plays which part."""

import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import pandas as pd

from nlme_torch.data.table.closest import closest
from nlme_torch.data.table.problems import Problem
from nlme_torch.data.table.row_names import RowNames

Interpolation: TypeAlias = Literal["locf", "nocb", "linear"]
Name: TypeAlias = Hashable | None
"""A column as the user names it; pandas has columns of any kind of name, which are read as text."""
Names: TypeAlias = Hashable | Sequence[Hashable]
Outputs: TypeAlias = Hashable | Sequence[Hashable] | Mapping[str, Any] | None
TimeVarying: TypeAlias = Hashable | Sequence[Hashable] | Mapping[str, str]

NONMEM_NAMES = {
    "id": "ID", "time": "TIME", "dv": "DV", "mdv": "MDV", "dvid": "DVID", "cens": "CENS", "limit": "LIMIT",
    "evid": "EVID", "amt": "AMT", "cmt": "CMT", "rate": "RATE", "dur": "DUR", "ii": "II", "addl": "ADDL",
    "ss": "SS", "occasion": "OCC",
}  # fmt: skip
"""Part to the column that plays it unless the user says otherwise, matched without regard to case."""

MEANINGS = {
    "id": "which subject a row belongs to", "time": "the time, which the methods of a model get as t",
    "dv": "the observed value", "mdv": "1 where a row has no value", "dvid": "which outcome a value is of",
    "cens": "1 where a value is censored", "limit": "the other end of a censored interval", "evid": "the kind of a row",
    "amt": "the amount of a dose, which acts on the states by itself", "cmt": "the compartment of a dose",
    "rate": "the rate of an infusion", "dur": "the duration of an infusion", "ii": "the interval of doses",
    "addl": "the number of further doses", "ss": "1 where a dose is at steady state",
    "occasion": "the occasion, as nlme.Occasions uses it", "date": "the date",
    "lloq": "the lower limit of quantification",
}  # fmt: skip
"""What the column of a part means."""

DATE_NAMES = ("DATE", "DAT1", "DAT2", "DAT3")
"""Columns that hold dates unless the user says otherwise; the name says in which order (see ``clock``)."""


@dataclass(frozen=True)
class Columns:
    """The parts that columns play: part to column name, and which columns are outputs and covariates.

    Attributes:
        parts: part (``"id"``, ``"time"``, ``"amt"``, ...) to the column's name, for the parts that the table
            has.
        outputs: what the user asked for, normalised: None (one value column, split by DVID if that has
            several labels), or output name to column name or DVID label.
        covariates: declared covariates, constant within subjects; None to take every column that qualifies.
        time_varying: time-varying covariate to its interpolation rule.
        ignore: columns left out altogether.
        levels: text covariate to its levels, for those whose order the user states.
        start: the time at which subjects begin whose first row is later; None: at their first row.
        rows: what rows are called while the table is read.
        units: ``"time"``, output, covariate or column to its unit.
    """

    parts: Mapping[str, str]
    outputs: Mapping[str, Any] | None = None
    covariates: tuple[str, ...] | None = None
    time_varying: Mapping[str, Interpolation] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    start: float | None = None
    rows: RowNames = field(default_factory=RowNames, compare=False)
    units: Mapping[str, str] = field(default_factory=dict, compare=False)

    def get(self, part: str) -> str | None:
        """Name of the column that plays a part, or None."""
        return self.parts.get(part)


def resolve_columns(
    frame: pd.DataFrame,
    *,
    outputs: Outputs = None,
    covariates: Names | None = None,
    time_varying: TimeVarying = (),
    ignore: Names = (),
    levels: Mapping[str, Sequence[str]] | None = None,
    start: float | None = None,
    by: Name = None,
    **named: Name,
) -> tuple[Columns, list[Problem]]:
    """Find the column for every part: the one the user names, else the one with NONMEM's name.

    Args:
        frame: the table.
        outputs: see :meth:`Dataset.from_frame`.
        covariates: see :meth:`Dataset.from_frame`.
        time_varying: see :meth:`Dataset.from_frame`.
        ignore: columns that play no part.
        levels: see :meth:`Dataset.from_frame`.
        start: see :meth:`Dataset.from_frame`.
        by: another name of the argument ``dvid``.
        **named: part to column name, as the user gave them (None: not given).

    Returns:
        The parts, and what is wrong: columns missing, duplicated or ambiguous. If anything is, the table
        cannot be read.
    """
    problems: list[Problem] = []
    names = [str(name) for name in frame.columns]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(Problem("columns", f"{names.count(name)} columns share this name. Rename them.", column=name))

    if by is not None and named.get("dvid") not in (None, by):
        problems.append(Problem("columns", f"by={by!r} and dvid={named['dvid']!r} are one argument. Leave one out."))
    named["dvid"] = named.get("dvid") if by is None else by
    ignore = _as_names(ignore)
    parts: dict[str, str] = {}
    for part, standard in NONMEM_NAMES.items():
        given = None if named.get(part) is None else str(named[part])
        if given is not None:
            problems += _absent([given], names, f"given as {part}=")
            parts[part] = given
            continue
        matches = [name for name in dict.fromkeys(names) if name.upper() == standard and name not in ignore]
        if len(matches) > 1:
            say = f"{' and '.join(matches)} could both be {standard}. Say which with {part}=, or ignore= one."
            problems.append(Problem("columns", say))
        elif matches:
            parts[part] = matches[0]
    for part in ("id", "time"):
        if part not in parts:
            have = ", ".join(names)
            say = f"no column {NONMEM_NAMES[part]}. Name yours with {part}=; the table has {have}."
            if len(names) == 1:
                say += " One column only: is the separator another (sep=)?"
            problems.append(Problem("columns", say))

    problems += _find_dates(named.get("date"), names, ignore, parts)
    declared = None if covariates is None else _as_names(covariates)
    varying = _time_varying(time_varying, problems)
    problems += _absent(declared or (), names, "given in covariates=")
    problems += _absent(varying, names, "given in time_varying=")
    problems += _absent(ignore, names, "given in ignore=")
    problems += _repeated(declared or (), "covariate")
    if declared is not None:  # what changes is a covariate too, and may be named in both
        declared = tuple(name for name in declared if name not in varying)
    if levels is not None and not isinstance(levels, Mapping):
        say = f"levels={levels!r:.60} is no dictionary: write {{'SEX': ['female', 'male']}}."
        problems.append(Problem("columns", say))
        levels = None
    stated = {name: tuple(map(str, order)) for name, order in (levels or {}).items()}
    for name, order in stated.items():
        if name not in (*(declared or ()), *varying):
            say = "given in levels= but in neither covariates= nor time_varying=."
            problems.append(Problem("columns", say, column=name))
        problems += _repeated(order, "level", name)
    wanted = _outputs(outputs, names, problems)
    if start is not None and not (isinstance(start, int | float) and abs(start) <= sys.float_info.max):
        problems.append(
            Problem("start", f"start={start!r:.60} is no time: write a number in the unit of the time column.")
        )
        start = None
    return Columns(parts, wanted, declared, varying, ignore, stated, start), problems


def _find_dates(given: Name, names: Sequence[str], ignore: Sequence[str], parts: dict[str, str]) -> list[Problem]:
    """Put the column of dates among the parts, if there is one."""
    found = [str(given)] if given is not None else [n for n in names if n.upper() in DATE_NAMES and n not in ignore]
    if len(found) > 1:
        say = f"{' and '.join(found)} are all dates. Say which with date=, and leave the others out with ignore=."
        return [Problem("columns", say)]
    if found:
        parts["date"] = found[0]
    return _absent(found, names, "given as date=")


def _outputs(outputs: Outputs, names: Sequence[str], problems: list[Problem]) -> dict[str, Any] | None:
    """Output name to column name or DVID label; lists of columns are checked to exist."""
    if outputs is None:
        return None
    if isinstance(outputs, Mapping):
        wanted = {str(name): value for name, value in outputs.items()}
        labels = list(wanted.values())
        for label in {str(value): value for value in labels if labels.count(value) > 1}.values():
            problems.append(Problem("outputs", f"two outputs are both read from {label!r}."))
    else:
        listed = _as_names(outputs)
        problems += _absent(listed, names, "given in outputs=")
        problems += _repeated(listed, "output")
        wanted = {name: name for name in listed}
    if not wanted:
        problems.append(Problem("outputs", "outputs= is empty. Name at least one column or DVID value."))
    return wanted


def _time_varying(time_varying: TimeVarying, problems: list[Problem]) -> dict[str, Interpolation]:
    """Covariate to interpolation rule; LOCF where only names were given."""
    rules: dict[str, Interpolation] = {rule: rule for rule in get_args(Interpolation)}
    wanted = time_varying
    if not isinstance(wanted, Mapping):
        wanted = dict.fromkeys(_as_names(wanted), "locf")
    for name in (name for name, rule in wanted.items() if rule not in rules):
        say = f"{wanted[name]!r} is not one of {', '.join(rules)}."
        problems.append(Problem("columns", say, column=name))
    return {name: rules.get(rule, "locf") for name, rule in wanted.items()}


def _as_names(names: Any) -> tuple[str, ...]:
    """Names as texts; columns of a data frame may be numbers."""
    several = isinstance(names, Iterable) and not isinstance(names, str) and getattr(names, "ndim", 1) > 0
    return tuple(map(str, names)) if several else (str(names),)


def _absent(wanted: Iterable[str], names: Sequence[str], where: str) -> list[Problem]:
    """A problem for every wanted column that the table lacks, with the closest name it has."""
    found = []
    for name in wanted:
        if name not in names:
            hint = closest(name, names)
            advice = f"Did you mean {hint!r}?" if hint else f"The table has {', '.join(names)}."
            found.append(Problem("columns", f"no such column, {where}. {advice}", column=name))
    return found


def _repeated(names: Sequence[str], what: str, column: str | None = None) -> list[Problem]:
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if column is not None:
        return [Problem("columns", f"{name!r} is named twice as {what}.", column=column) for name in twice]
    return [Problem("columns", f"named twice as {what}.", column=name) for name in twice]
