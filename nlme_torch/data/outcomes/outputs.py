"""Which column, and which DVID label in it, holds the values of each output."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nlme_torch.data.table.cells import as_label, is_missing, read_labels
from nlme_torch.data.table.columns import Columns
from nlme_torch.data.table.problems import Problem

CODES = ("DVID", "CMT", "TYPE", "YTYPE")
"""Columns whose codes tell outcomes apart in tables of other programs."""


class Source(NamedTuple):
    """Where the values of an output stand: a column, and ``here`` ``(row,)``, True on the rows that count."""

    column: str
    here: NDArray[np.bool_]


def find_outputs(
    frame: pd.DataFrame, columns: Columns, candidates: NDArray[np.bool_], problems: list[Problem]
) -> dict[str, Source]:
    """Find the values of every output.

    An output is a column of its own (wide table), or one label of DVID in the value column (long table).
    Without ``outputs=`` it is the value column, split by DVID where that has several labels: a text label
    becomes the output's name, a number k the name DVk.

    Args:
        frame: the table.
        columns: the parts of its columns, with the outputs wanted.
        candidates: ``(row,)``, True on rows that may hold an observation.
        problems: receives what is wrong with the outputs wanted.

    Returns:
        Output name to its :class:`Source`; empty where the outputs cannot be found.
    """
    name = columns.get("dvid")
    cells: list[Any] = [None] * len(frame) if name is None else read_labels(frame[name])
    open_cells = [cell for cell, here in zip(cells, candidates, strict=True) if here and cell is not None]
    labels = list(dict.fromkeys(open_cells))
    wanted = columns.outputs
    if wanted is not None and _are_columns(frame, wanted, labels, problems):
        _check_not_pooled(columns, wanted, labels, problems)
        if len(wanted) == 1:
            problems += _unused_codes(frame, columns, next(iter(wanted.values())), candidates)
        return {output: Source(column, candidates) for output, column in wanted.items()}
    dv = columns.get("dv")
    if dv is None:
        have = ", ".join(map(str, frame))
        say = f"no column DV. Name what was observed with outputs= (or dv=); the table has {have}."
        problems.append(Problem("outputs", say))
        return {}
    if wanted is None:
        if len(labels) < 2:
            problems += _unused_codes(frame, columns, dv, candidates)
            return {dv: Source(dv, candidates)}
        wanted = {label if isinstance(label, str) else f"{dv}{label}": label for label in labels}
    sources = {}
    for output, value in wanted.items():
        codes = [as_label(code) for code in (value if isinstance(value, list | tuple | set) else [value])]
        for code in codes:
            if code not in labels:
                have = ", ".join(map(str, labels)) or "none"
                say = f"output {output!r}: {code!r} is neither a column nor a DVID label (there are: {have})."
                problems.append(Problem("outputs", say + _which_column(frame, columns, wanted, candidates)))
        here = np.asarray([cell is not None and cell in codes for cell in cells], dtype=bool)
        sources[output] = Source(dv, candidates & here)
    for row in np.flatnonzero(candidates & ~is_missing(frame[dv])):
        if cells[row] is None and name is not None:
            say = f"the row has a value, but {name} is missing: of which outcome is it? Write its label, or MDV 1."
            problems.append(Problem("DVID", say, row=int(row), column=name))
    return sources


def _which_column(
    frame: pd.DataFrame, columns: Columns, wanted: Mapping[str, Any], candidates: NDArray[np.bool_]
) -> str:
    """What to pass where the table has no column that tells outcomes apart."""
    if columns.get("dvid") is not None:
        return ""
    codes = {as_label(value) for value in wanted.values() if not isinstance(value, list | tuple | set)}
    fit = [name for name in map(str, frame) if codes <= set(_labels_of(frame[name], candidates))]
    return f" The table has no DVID: say which column tells outcomes apart with dvid={fit[0] if fit else 'CMT'!r}."


def _labels_of(column: pd.Series, rows: NDArray[np.bool_]) -> list[Any]:
    """The labels that stand in some rows, in order of appearance."""
    found = read_labels(column[rows])
    return list(dict.fromkeys(label for label in found if label not in (None, 0)))  # 0: the default compartment


def _unused_codes(frame: pd.DataFrame, columns: Columns, dv: str, candidates: NDArray[np.bool_]) -> list[Problem]:
    """A problem where codes of outcomes stand beside the values of what is taken for one outcome."""
    rows = candidates & ~is_missing(frame[dv])
    idle = {*columns.ignore, *(columns.covariates or ()), *columns.time_varying, dv}
    subject = frame[columns.parts["id"]].astype(str)
    for name in (name for name in map(str, frame) if name.upper() in CODES and name not in idle):
        labels = _labels_of(frame[name], rows)
        is_compartment = name == columns.get("cmt")
        if name == columns.get("dvid") or len(labels) < 2:
            continue
        if not is_compartment and not bool((frame[name][rows].astype(str).groupby(subject[rows]).nunique() > 1).any()):
            continue  # constant within subjects: a covariate
        few = ", ".join(map(str, labels[:5])) + (", ..." if len(labels) > 5 else "")
        example = ", ".join(f"'y{label}': {label!r}" for label in labels[:2])
        pooled = f"outputs={{'{dv}': {labels[:5]!r}}} with dvid={name!r}" if is_compartment else f"ignore={name!r}"
        say = (
            f"holds values with the codes {few} in {name}, which look like several outcomes. Tell them apart with "
            f"outputs={{{example}}} and dvid={name!r}, or pool them on purpose with {pooled}."
        )
        return [Problem("outputs", say, column=dv)]
    return []


def _are_columns(frame: pd.DataFrame, wanted: Mapping[str, Any], labels: list[Any], problems: list[Problem]) -> bool:
    """Whether the outputs wanted are columns rather than DVID labels; a problem if they could be both."""
    named = all(isinstance(value, str) and value in frame.columns for value in wanted.values())
    if named and all(as_label(value) in labels for value in wanted.values()):
        both = ", ".join(map(str, wanted.values()))
        say = f"{both}: both column and DVID label. Rename the columns, or leave one meaning out with ignore=."
        problems.append(Problem("outputs", say))
    return named


def _check_not_pooled(columns: Columns, wanted: Mapping[str, Any], labels: list[Any], problems: list[Problem]) -> None:
    """The value column of a long table must not be taken for one outcome when DVID says it holds several."""
    dv, dvid = columns.get("dv"), columns.get("dvid")
    if len(labels) > 1 and dv in wanted.values():
        say = (
            f"holds several outcomes, told apart by {dvid}: {', '.join(map(str, labels))}. Use outputs= with "
            f"a name for each label, or ignore={dvid!r} to pool them."
        )
        problems.append(Problem("outputs", say, column=dv))
