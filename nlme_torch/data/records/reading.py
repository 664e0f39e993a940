"""From the user's table to a table whose parts are known: the steps in their order."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from nlme_torch.data.covariates.missing import fill_missing
from nlme_torch.data.events.classic_events import read_classic_events
from nlme_torch.data.events.clock import in_hours, read_clock
from nlme_torch.data.outcomes.quantification import Limit, Quantification, read_quantification
from nlme_torch.data.records.table import Table, read_table
from nlme_torch.data.table.columns import Columns, resolve_columns
from nlme_torch.data.table.frames import cell_problems
from nlme_torch.data.table.problems import Problem, locate
from nlme_torch.data.table.row_names import RowNames
from nlme_torch.data.table.row_rules import stray_rows
from nlme_torch.data.table.suspects import ask_of_infusions


@dataclass(frozen=True)
class Reading:
    """A table that was read.

    Attributes:
        frame: the user's table, with what it says in other dialects (dates, codes of nlmixr2, ``<0.5``) written in
            NONMEM's columns.
        columns: the parts of its columns.
        table: what they say.
    """

    frame: pd.DataFrame
    columns: Columns
    table: Table


def read_frame(
    frame: pd.DataFrame,
    rows: RowNames,
    *,
    lloq: Limit | Mapping[str, Limit] = None,
    blq: float | str | None = None,
    missing: Mapping[str, Any] | None = None,
    **columns: Any,
) -> tuple[Reading | None, list[Problem]]:
    """Read a table and collect everything that is wrong with it.

    Args:
        frame: the table, as :func:`as_frame` returns it.
        rows: what its rows are called.
        lloq: see :meth:`Dataset.from_frame`.
        blq: see :meth:`Dataset.from_frame`.
        missing: see :meth:`Dataset.from_frame`.
        **columns: the other arguments of :meth:`Dataset.from_frame`.

    Returns:
        The table, None where its columns cannot be told apart, and all problems; it must not be used when one of them
        is an error.
    """
    problems = cell_problems(frame)
    if problems:
        return None, problems
    parts, problems = resolve_columns(frame, **columns)
    parts = replace(parts, rows=rows)
    problems = problems or stray_rows(frame, parts) or ask_of_infusions(frame, parts)
    if problems:
        return None, problems
    own, parts = read_clock(frame, parts, problems)
    unit = [in_hours(parts)] if own is not frame else []
    own, parts = read_classic_events(own, parts, problems)
    own, parts = read_quantification(own, parts, Quantification(lloq, blq), problems)
    if columns.get("limit") is not None and parts.get("cens") is None:
        say = (
            "limit= is the other end of the interval of a censored value, and nothing is censored: give cens= or lloq=."
        )
        problems.append(Problem("LIMIT", say, column=parts.get("limit")))
    own, filled = fill_missing(own, parts, missing, problems)
    if problems:
        ids = list(own[parts.parts["id"]])
        return None, locate(problems, ids)
    table, problems = read_table(own, parts)
    table = replace(table, covariates=replace(table.covariates, filled=filled))
    return Reading(own, parts, replace(table, warnings=(*table.warnings, *unit))), problems
