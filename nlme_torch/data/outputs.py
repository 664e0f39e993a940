"""Which column, and which DVID label in it, holds the values of each output."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .cells import as_label, read_labels
from .columns import Columns
from .problems import Problem


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
        return {output: Source(column, candidates) for output, column in wanted.items()}
    dv = columns.get("dv")
    if dv is None:
        have = ", ".join(map(str, frame))
        say = f"no column DV. Name what was observed with outputs= (or dv=); the table has {have}."
        problems.append(Problem("outputs", say))
        return {}
    if wanted is None:
        if len(labels) < 2:
            return {dv: Source(dv, candidates)}
        wanted = {label if isinstance(label, str) else f"{dv}{label}": label for label in labels}
    sources = {}
    for output, value in wanted.items():
        if as_label(value) not in labels:
            have = ", ".join(map(str, labels)) or "none"
            say = f"output {output!r}: {value!r} is neither a column nor a DVID label (there are: {have})."
            problems.append(Problem("outputs", say))
        here = np.asarray([cell is not None and cell == as_label(value) for cell in cells], dtype=bool)
        sources[output] = Source(dv, candidates & here)
    return sources


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
