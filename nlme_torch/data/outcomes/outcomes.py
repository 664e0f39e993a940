"""What was observed: the values of every output, and the observation rows that do not count."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nlme_torch.data.events.events import Event, Events
from nlme_torch.data.outcomes.censoring import Censoring, read_censoring
from nlme_torch.data.outcomes.outputs import find_outputs
from nlme_torch.data.table.cells import read_numbers
from nlme_torch.data.table.columns import Columns
from nlme_torch.data.table.problems import Problem
from nlme_torch.data.table.suspects import likely_amount

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Observations:
    """The observed values of a table.

    Attributes:
        values: output to ``(row,)``, NaN where the output was not observed.
        sources: output to the column its values stand in.
        censoring: which values are censored, or None.
        ignored: reason to ``(row,)``, True on the observation rows that do not count for it.
    """

    values: Mapping[str, Floats]
    sources: Mapping[str, str]
    censoring: Censoring | None
    ignored: Mapping[str, NDArray[np.bool_]]

    @property
    def observed(self) -> NDArray[np.bool_]:
        """``(row,)``, True where at least one output was observed."""
        return np.any([np.isfinite(value) for value in self.values.values()], axis=0)


def read_observations(frame: pd.DataFrame, columns: Columns, events: Events, problems: list[Problem]) -> Observations:
    """Read every output; a value counts on rows with EVID 0 and MDV 0.

    Rules: values are numbers. A row that claims a value has one: with MDV every row with MDV 0 does; in a
    table with a single output and neither EVID nor MDV every row does. Elsewhere an empty cell means not
    observed.
    """
    is_observation = events.code == Event.OBSERVATION
    candidates = is_observation & ~events.no_value
    sources = find_outputs(frame, columns, candidates, problems)
    used = dict.fromkeys(source.column for source in sources.values())
    read = {name: read_numbers(frame[name], problems) for name in used}
    problems += _censored_without_value(frame, columns, is_observation & events.no_value)
    values: dict[str, Floats] = {}
    claimed = np.zeros(len(frame), dtype=bool)
    filled = np.zeros(len(frame), dtype=bool)
    for output, (column, here) in sources.items():
        values[output] = np.where(here, read[column].value, np.nan)
        claimed |= here
        filled |= here & ~read[column].missing
    empty = claimed & ~filled
    written = np.any([np.nan_to_num(numbers.value) != 0 for numbers in read.values()], axis=0)
    if columns.get("mdv") is not None or (len(sources) == 1 and not events.flagged):
        message = "the observation is missing. Leave the row out, or mark it as one without a value: MDV 1."
        amount = likely_amount(frame, columns)
        several = amount is not None and empty.sum() > 1
        if several:
            count, first = int(empty.sum()), int(np.flatnonzero(empty)[0])
            say = f"{count} rows have no value of {', '.join(read)}, the first of them {columns.rows.name(first)}. "
            say += f"Are they doses? Name the dose column with amt={amount!r}; else leave them out, or mark them MDV 1."
            problems.append(Problem("no dose column", say))
        for row in () if several else np.flatnonzero(empty):
            problems.append(Problem("missing observation", message, int(row), ", ".join(read)))
    return Observations(
        values=values,
        sources={output: source.column for output, source in sources.items()},
        censoring=read_censoring(frame, columns, values, candidates, problems),
        ignored={
            "MDV is 1 on an observation row": is_observation & events.no_value,
            "DVID is not one of the outputs": candidates & ~claimed,
            "no value of any output": empty,
            "value other than 0 on a row that is no observation (EVID 1 to 4)": ~is_observation & written,
        },
    )


def _censored_without_value(frame: pd.DataFrame, columns: Columns, left_out: NDArray[np.bool_]) -> list[Problem]:
    """A warning for rows that are marked as censored, and as rows without a value."""
    name = columns.get("cens")
    if name is None or not left_out.any():
        return []
    flag = np.nan_to_num(read_numbers(frame[name], []).value) != 0
    message = "CENS on a row with MDV 1, which is left out. Write MDV 0 if the value is below the limit."
    return [
        Problem("CENS with MDV", message, int(row), name, severity="warning") for row in np.flatnonzero(flag & left_out)
    ]
