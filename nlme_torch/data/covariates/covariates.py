"""Covariates: constant within subjects, or varying in time with a stated rule between records."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nlme_torch.data.table.cells import as_label, is_missing, parse_numbers, read_numbers
from nlme_torch.data.table.columns import NONMEM_NAMES, Columns, Interpolation
from nlme_torch.data.table.problems import Problem
from nlme_torch.data.table.suspects import looks_like_a_part, suspect

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

HAS_GAPS = "has missing values"


@dataclass(frozen=True)
class Covariates:
    """The covariates of a table.

    Attributes:
        values: covariate to ``(row,)``, missing cells filled by the covariate's rule (last value carried
            forward for constant ones).
        interpolation: time-varying covariate to its rule.
        categories: text covariate to its levels, alphabetical unless stated; level k is the number k.
        unused: column that is none of the parts, to why it is no covariate either.
        filled: covariate that some subjects lack, to what they were given.
        questions: column that seems to be something else than it is read as, to what to ask the user.
    """

    values: Mapping[str, Floats]
    interpolation: Mapping[str, Interpolation]
    categories: Mapping[str, tuple[str, ...]]
    unused: Mapping[str, str]
    questions: Mapping[str, str] = field(default_factory=dict)
    filled: Mapping[str, str] = field(default_factory=dict)


def read_covariates(
    frame: pd.DataFrame,
    columns: Columns,
    subject: Ints,
    time: Floats,
    taken: set[str],
    problems: list[Problem],
) -> Covariates:
    """Read declared covariates; where none were declared, every other column that qualifies.

    Rules: cells are numbers, or all of them text (then a category); a value stands in a subject's first row
    (with ``"nocb"`` in some row); a constant covariate does not vary.

    Args:
        frame: the table.
        columns: the parts of its columns.
        subject: ``(row,)``.
        time: ``(row,)``.
        taken: columns that are outputs.
        problems: receives what is wrong with declared covariates.
    """
    values: dict[str, Floats] = {}
    categories: dict[str, tuple[str, ...]] = {}
    for name in (*(columns.covariates or ()), *columns.time_varying):
        rule = columns.time_varying.get(name)
        value, levels = _read_column(frame[name], columns.levels.get(name), problems)
        values[name] = _fill(value, subject, time, rule)
        if levels:
            categories[name] = levels
            if rule == "linear":
                say = "a category cannot be interpolated linearly: use 'locf' or 'nocb'."
                problems.append(Problem("covariate", say, column=name))
        problems += _first_rows(frame[name], values[name], subject, rule)
        if rule is None:
            problems += _variations(frame[name], value, subject)
    unused: dict[str, str] = {}
    questions: dict[str, str] = {}
    others = [n for n in map(str, frame.columns) if n not in taken | set(columns.parts.values()) | set(values)]
    for name in others:
        reason = _why_unfit(frame[name], subject, time)
        guess = suspect(name, columns)
        if name not in columns.ignore and guess is not None and not parse_numbers(frame[name]).missing.all():
            questions[name] = guess.question(name)
        if name in columns.ignore:
            unused[name] = "named in ignore="
        elif columns.covariates is not None:
            unused[name] = "not among covariates="
        elif is_missing(frame[name]).all():
            unused[name] = "is empty"
        elif looks_like_a_part(name, columns) or (guess is not None and reason is not None):
            unused[name] = "has a name that asks to be explained" if guess is None else f"looks like {guess.what}"
        elif reason is not None:
            unused[name] = reason
            if reason == HAS_GAPS:
                questions[name] = (
                    f"it could be a covariate, but {_gaps(frame[name], subject, columns)}. Fill them and it is one, by "
                    f"missing={{{name!r}: 'median'}} for example, or leave it out with ignore={name!r}."
                )
        else:
            values[name] = _fill(read_numbers(frame[name], []).value, subject, time, None)
            if guess is not None:
                questions[name] = guess.question(name, "is read as a covariate")
    return Covariates(values, dict(columns.time_varying), categories, unused, questions)


def value_between(value: Floats, time: Floats, when: Floats, before: Ints, after: Ints, rule: Interpolation) -> Floats:
    """A time-varying covariate at times between rows.

    Args:
        value: ``(row,)``, the covariate, without gaps.
        time: ``(row,)``.
        when: ``(entry,)``, the times wanted.
        before: ``(entry,)``, the subject's last row at or before ``when``.
        after: ``(entry,)``, the subject's first row at or after ``when``; its last row where there is none.
        rule: what holds between rows; at a row's own time its own value does.

    Returns:
        ``(entry,)``.
    """
    start, end = value[before], value[after]
    length = time[after] - time[before]
    share = np.divide(when - time[before], length, out=np.zeros_like(when), where=length > 0)
    between = {"locf": start, "nocb": end, "linear": start + share * (end - start)}[rule]
    return np.where(when == time[before], start, np.where(when == time[after], end, between))


def _read_column(
    column: pd.Series, levels: tuple[str, ...] | None, problems: list[Problem]
) -> tuple[Floats, tuple[str, ...]]:
    """The numbers of a column, or the codes and levels of one that holds no number at all."""
    value, missing = parse_numbers(column)
    is_text = not np.isfinite(value).any() and all(isinstance(cell, str) for cell in column[~missing])
    if levels is None and (missing.all() or not is_text):
        return read_numbers(column, problems).value, ()
    text = ["" if gone else str(as_label(c)) for c, gone in zip(column, missing, strict=True)]
    levels = levels or tuple(sorted({c for c, gone in zip(text, missing, strict=True) if not gone}))
    number = {level: float(code) for code, level in enumerate(levels)}
    for row in np.flatnonzero(~missing):
        if text[row] not in number:
            say = f"{text[row]!r} is none of the levels {', '.join(levels)}. Mend the cell or levels=."
            problems.append(Problem("level", say, row=int(row), column=str(column.name)))
    return np.asarray([number.get(c, np.nan) for c in text]), levels


def _fill(value: Floats, subject: Ints, time: Floats, rule: Interpolation | None) -> Floats:
    """``(row,)`` with missing cells filled within each subject by the rule; NaN where it gives no value."""
    if not np.isnan(value).any():
        return value
    groups = pd.Series(value).groupby(subject)
    forward: Floats = np.asarray(groups.ffill(), dtype=np.float64)
    if rule == "nocb":
        backward: Floats = np.asarray(groups.bfill(), dtype=np.float64)
        return np.where(np.isnan(backward), forward, backward)
    if rule == "linear":
        filled = forward.copy()
        for rows in np.split(np.arange(len(value)), np.flatnonzero(np.diff(subject)) + 1):
            known = rows[np.isfinite(value[rows])]
            gaps = rows[np.isnan(value[rows]) & np.isfinite(forward[rows])]
            if len(known) and len(gaps):
                filled[gaps] = np.interp(time[gaps], time[known], value[known])
        return filled
    return forward


def _first_rows(column: pd.Series, filled: Floats, subject: Ints, rule: Interpolation | None) -> list[Problem]:
    """A problem for every subject whose first row has no value."""
    first = np.flatnonzero(np.diff(subject, prepend=-1))
    missing = is_missing(column)
    say = "the covariate is missing in all of the subject's rows." if rule == "nocb" else (
        "the covariate is missing at the subject's first row: there is nothing to carry forward. Fill it in, or say "
        f"missing={{{str(column.name)!r}: 'median'}} ('mode', 'carry' back from a later row, or a value)."
    )  # fmt: skip
    return [
        Problem("covariate missing", say, row=int(row), column=str(column.name))
        for row in first
        if missing[row] and np.isnan(filled[row])
    ]


def _variations(column: pd.Series, value: Floats, subject: Ints) -> list[Problem]:
    """A problem for the first row of every subject in which a constant covariate changes."""
    found, reported = [], set()
    for row in _changes(value, subject):
        if subject[row] not in reported:
            reported.add(subject[row])
            say = (
                f"the covariate changes within the subject (to {column.iloc[row]}). Declare it with "
                "time_varying= if it does, or mend the row."
            )
            found.append(Problem("covariate varies", say, row=int(row), column=str(column.name)))
    return found


def _changes(value: Floats, subject: Ints) -> Ints:
    """Rows whose value differs from the subject's first known one."""
    known = pd.Series(value).groupby(subject).transform("first").to_numpy()
    return np.flatnonzero(np.isfinite(value) & (value != known))


def _gaps(column: pd.Series, subject: Ints, columns: Columns) -> str:
    """How much of a column is missing."""
    missing = is_missing(column)
    rows, subjects = int(missing.sum()), len(np.unique(subject[missing]))
    first = columns.rows.name(int(np.flatnonzero(missing)[0]))
    return f"{rows} of its cells are missing, in {subjects} subject{'s' if subjects > 1 else ''}, the first in {first}"


def _why_unfit(column: pd.Series, subject: Ints, time: Floats) -> str | None:
    """Why a column that nobody declared is no covariate, or None when it qualifies."""
    value, missing = parse_numbers(column)
    if str(column.name).upper() in NONMEM_NAMES.values():
        return "has the name of another part of the table"
    if not np.isfinite(value[~missing]).all():
        return "holds text (declare it in covariates= to read it as a category)"
    if len(_changes(value, subject)):
        return "varies within subjects (declare it in time_varying= to use it)"
    if len(_first_rows(column, _fill(value, subject, time, None), subject, None)):
        return HAS_GAPS
    return None
