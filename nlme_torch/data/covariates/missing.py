"""Covariates that some subjects lack: refused, or filled by a rule that the user names, and said."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nlme_torch.data.table.cells import as_label, is_missing, parse_numbers
from nlme_torch.data.table.closest import closest
from nlme_torch.data.table.columns import Columns
from nlme_torch.data.table.problems import Problem

RULES = ("refuse", "median", "mode", "carry")


class Filled(NamedTuple):
    """A table whose covariates have a value where every subject begins.

    Attributes:
        frame: the table.
        said: covariate to what was filled, in how many subjects.
    """

    frame: pd.DataFrame
    said: dict[str, str]


def fill_missing(
    frame: pd.DataFrame, columns: Columns, missing: Mapping[str, Any] | None, problems: list[Problem]
) -> Filled:
    """Fill covariates at the first rows of the subjects that lack them; what is later missing is carried forward.

    A subject that has the value in a later row takes its own. For the others ``"median"`` and ``"mode"`` are those of
    the subjects' first known values, and a number or a text is the value itself.

    Args:
        frame: the table.
        columns: the parts of its columns.
        missing: covariate to ``"refuse"``, ``"carry"``, ``"median"``, ``"mode"`` or a value; None: all are refused.
        problems: receives what is wrong with the rules.
    """
    said: dict[str, str] = {}
    known = {*map(str, frame.columns)} - set(columns.parts.values()) - set(columns.ignore)
    declared = known if columns.covariates is None else {*columns.covariates, *columns.time_varying}
    for name, rule in (missing or {}).items():
        if name not in known or name not in declared:
            say = "given in missing= but is no covariate; name it in covariates= or time_varying=."
            problems.append(Problem("missing", say, column=str(name)))
        elif rule != "refuse":
            frame = _filled(frame, columns, str(name), rule, said, problems)
    return Filled(frame, said)


def _filled(
    frame: pd.DataFrame, columns: Columns, name: str, rule: Any, said: dict[str, str], problems: list[Problem]
) -> pd.DataFrame:
    """The table with one covariate filled."""
    column = frame[name]
    gone = np.asarray(is_missing(column))
    ids = frame[columns.parts["id"]]
    subject = (ids != ids.shift()).cumsum().to_numpy() - 1
    first = np.flatnonzero(np.diff(subject, prepend=-1))
    known = np.flatnonzero(~gone)
    start = known[np.unique(subject[known], return_index=True)[1]]
    own: NDArray[np.int64] = np.full(len(first), -1)
    own[subject[start]] = start
    lacking, carried = gone[first], gone[first] & (own >= 0)
    values: list[Any] = list(column)
    for position in np.flatnonzero(carried):
        values[first[position]] = values[own[position]]
    parts = []
    if carried.any():
        parts.append(f"carried back to the first row in {_subjects(int(carried.sum()))}")
    left = np.flatnonzero(lacking & ~carried)
    if len(left) and rule != "carry":
        value = _value(column.iloc[start], name, rule, problems)
        for position in left:
            values[first[position]] = value
        shown = f"{value:g}" if isinstance(value, int | float) else str(value)
        which = f"the {rule} {shown}" if rule in RULES else shown
        parts.append(f"filled with {which} in {len(left)} of {_subjects(len(first))}")
    if parts:
        said[name] = ", ".join(parts)
    return frame.assign(**{name: pd.Series(values, index=frame.index)})


def _value(known: pd.Series, name: str, rule: Any, problems: list[Problem]) -> Any:
    """What a subject without a value gets: a statistic of the subjects' first known values, or the rule itself."""
    if rule not in ("median", "mode"):
        problems += _unknown_rule(known, name, rule)
        return rule
    numbers = parse_numbers(known).value
    if not len(known):
        problems.append(Problem("missing", f"there is no {rule} of a covariate without any value.", column=name))
        return np.nan
    if rule == "mode":
        labels = [as_label(cell) for cell in known]
        return max(labels, key=labels.count)  # the first of those that are equally frequent
    if not np.isfinite(numbers).all():
        say = "text has no median; say missing={'" + name + "': 'mode'}."
        problems.append(Problem("missing", say, column=name))
        return np.nan
    return float(np.median(numbers))


def _unknown_rule(known: pd.Series, name: str, rule: Any) -> list[Problem]:
    """A problem where a text is neither a rule nor a value, and would become a level of its own without a word."""
    if not isinstance(rule, str) or rule in {str(as_label(cell)) for cell in known}:
        return []
    if rule.lower() == "estimate":
        say = (
            "missing= cannot estimate a covariate; fill it ('median', 'mode', 'carry' or a value), or leave those "
            "subjects out."
        )
        return [Problem("missing", say, column=name)]
    near = closest(rule, RULES)
    say = f"missing={{{name!r}: {rule!r}}} is no rule and no level. Did you mean {near!r}?"
    return [Problem("missing", say, column=name)] if near else []


def _subjects(count: int) -> str:
    return f"{count} subject{'s' * (count != 1)}"
