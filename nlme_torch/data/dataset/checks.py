"""Checks of a table that has been read: what is legal but suspicious, and what a model makes of it."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nlme_torch.data.dosing.doses import DoseKind, find_state
from nlme_torch.data.records.reading import read_frame
from nlme_torch.data.records.table import Table
from nlme_torch.data.table.columns import Columns
from nlme_torch.data.table.frames import as_frame
from nlme_torch.data.table.problems import Problem, locate, problem_table
from nlme_torch.data.table.row_names import RowNames
from nlme_torch.errors import DataError

MISSING_CODES = (-9.0, -99.0, -999.0, -9999.0)
"""Numbers that tables use for missing values; NONMEM and this library read them as numbers."""

SINCE_1970 = 5e8
"""Seconds from 1970 to 1985; no study lasts so many of any unit."""


def check_frame(frame: Any, **columns: Any) -> pd.DataFrame:
    """Everything that is wrong with a table, without raising.

    Args:
        frame: the table.
        **columns: as in :meth:`Dataset.from_frame`.

    Returns:
        One line for each finding: severity (``error``: :meth:`Dataset.from_frame` refuses the table;
            ``warning``: it
        is read but should be looked at), rule, subject, row (its label in the index), column, message.

    Example:
        >>> import pandas as pd
        >>> import nlme_torch.data as data
        >>> frame = pd.DataFrame({"ID": [1, 1], "TIME": [0.0, 1.0], "DV": [1.0, "high"]})
        >>> data.check_frame(frame)[["severity", "row", "column", "message"]].values.tolist()
        [['error', 1, 'DV', "'high' is not a number. Write a number, or '.' where the value is missing."]]
    """
    try:
        own, names = as_frame(frame), RowNames.of(frame)
    except DataError as error:
        return problem_table([Problem("table", str(error))], RowNames())
    reading, problems = read_frame(own, names, **columns)
    if reading is None or any(problem.severity == "error" for problem in problems):
        return problem_table(problems, names)
    return problem_table(suspicions(reading.table, reading.columns), names)


def suspicions(table: Table, columns: Columns) -> list[Problem]:
    """Warnings about a table that could be read, in row order."""
    found = list(table.warnings)
    for name, question in table.covariates.questions.items():
        found.append(Problem("column", question, column=name, severity="warning"))
    late = np.flatnonzero(table.time >= SINCE_1970)
    if len(late):
        text = (
            f"is {table.time[late[0]]:.10g}, as large as seconds since 1970, and is read as that number. Subtract the "
            "subject's first time, in the unit of the model's rates, if it is a time stamp."
        )
        found.append(Problem("time stamp as a number", text, int(late[0]), columns.get("time"), severity="warning"))
    found += _spelling(table)
    values = table.observations.values
    for output, value in values.items():
        seen = np.flatnonzero(np.isfinite(value))
        same = (np.diff(table.subject[seen]) == 0) & (np.diff(table.time[seen]) == 0)
        for row in seen[1:][same]:
            text = f"{output} is observed a second time at time {table.time[row]:g}."
            found.append(Problem("repeated observation", text, int(row), severity="warning"))
    if table.doses is not None:
        is_dose = table.doses.kind != DoseKind.NONE
        for position in np.setdiff1d(table.subject, table.subject[is_dose]):
            row = int(np.flatnonzero(table.subject == position)[0])
            text = "the subject has no dose, though others have."
            found.append(Problem("no dose", text, row, columns.get("amt"), severity="warning"))
        found += _repeated_doses(table, columns)
        observed = np.flatnonzero(table.observations.observed)
        previous = np.maximum(observed - 1, 0)
        at_dose = is_dose[previous] & (table.time[previous] == table.time[observed])
        for row in observed[at_dose & (table.subject[previous] == table.subject[observed])]:
            text = "observed at the time of a dose that stands above it, hence after the dose. Right?"
            found.append(Problem("order at equal times", text, int(row), severity="warning"))
    return locate(found, [table.ids[position] for position in table.subject])


def _repeated_doses(table: Table, columns: Columns) -> list[Problem]:
    """Doses that stand in the table twice."""
    doses = table.doses
    assert doses is not None
    given = np.flatnonzero((doses.kind != DoseKind.NONE) & (doses.amount > 0))
    one, two = given[:-1], given[1:]
    columns_of_doses = (table.subject, table.time, doses.amount, doses.compartment, doses.kind, doses.rate)
    same = np.all([column[one] == column[two] for column in columns_of_doses], axis=0)
    return [
        Problem(
            "repeated dose", f"the dose of {doses.amount[row]:g} is given a second time at time {table.time[row]:g}.",
            int(row), columns.get("amt"), severity="warning",
        )
        for row in two[same]
    ]  # fmt: skip


def _spelling(table: Table) -> list[Problem]:
    """Numbers that may stand for missing values, and levels that may be one level."""
    found = []
    columns = {table.observations.sources[name]: value for name, value in table.observations.values.items()}
    numbers = {name: v for name, v in table.covariates.values.items() if name not in table.covariates.categories}
    for name, value in {**columns, **numbers}.items():
        seen = value[np.isfinite(value)]
        codes = np.isin(seen, MISSING_CODES)
        if codes.any() and not codes.all() and bool((seen[~codes] >= 0).all()):
            row = int(np.flatnonzero(np.isin(value, MISSING_CODES))[0])
            text = (
                f"is {value[row]:g}, as missing values are often written, and is read as that number. Write '.' if so."
            )
            found += [Problem("missing as a number", text, row, name, severity="warning")]
    for name, levels in table.covariates.categories.items():
        plain = [level.casefold().replace(" ", "") for level in levels]
        same = [level for level, one in zip(levels, plain, strict=True) if plain.count(one) > 1]
        if same:
            text = f"the levels {', '.join(map(repr, same))} differ in their writing only. Write one level in one way."
            found.append(Problem("levels", text, column=name, severity="warning"))
    return found


def spoken(found: Sequence[Problem], names: RowNames) -> tuple[str, ...]:
    """Warnings as sentences, one for each rule and column, with the first row and how many there are.

    Censoring without LIMIT is what Monolix and NONMEM's M3 do every day, and is not among them.
    """
    groups: dict[tuple[str, str | None], list[Problem]] = {}
    for problem in found:
        if problem.rule != "CENS without LIMIT":
            groups.setdefault((problem.rule, problem.column if problem.row is None else None), []).append(problem)
    return tuple(
        f"data: {group[0].told(names)}" + (f" ({len(group)} rows like this)" if len(group) > 1 else "")
        for group in groups.values()
    )


def misfits(
    table: Table,
    columns: Columns,
    *,
    states: Sequence[str] | None = None,
    positive: Collection[str] = (),
    modelled_rate: Collection[str] | None = None,
    modelled_duration: Collection[str] | None = None,
) -> list[Problem]:
    """Errors in the light of a model, in row order.

    Args:
        table: a table without errors.
        columns: the parts of its columns.
        states: the model's states; a dose must enter one of them.
        positive: outputs whose error model lives on positive values (log-normal).
        modelled_rate: states for which the model gives a rate: RATE -1 belongs there and nowhere else; None
            to accept any.
        modelled_duration: the same for durations and RATE -2.

    Raises:
        DataError: if ``positive`` names an output that the data lack.
    """
    found: list[Problem] = []
    for output in positive:
        if output not in table.observations.values:
            have = ", ".join(table.observations.values)
            raise DataError(f"there is no output {output!r}; the outputs are {have}.")
        value = table.observations.values[output]
        for row in np.flatnonzero(value <= 0):
            text = (
                f"{output} is {value[row]:g}, but its log-normal error takes positive values only. Give it "
                "an additive part, or mark the row as censored (CENS 1, with the limit as the value)."
            )
            found.append(Problem("value not positive", text, int(row), table.observations.sources[output]))
    doses = table.doses
    if doses is None or states is None:
        return locate(found, [table.ids[position] for position in table.subject])
    modelled = {
        DoseKind.MODELLED_RATE: ("RATE is -1", "rate", modelled_rate),
        DoseKind.MODELLED_DURATION: ("RATE is -2", "duration", modelled_duration),
    }
    known = ", ".join(f"{number} {name}" for number, name in enumerate(states, 1))
    for row in np.flatnonzero(doses.kind != DoseKind.NONE):
        compartment = doses.compartments[doses.compartment[row]]
        index = find_state(compartment, states)
        if index is None:
            text = f"a dose enters compartment {compartment!r}, but the model's states are {known}."
            found.append(Problem("unknown compartment", text, int(row), columns.get("cmt")))
        elif doses.kind[row] in modelled:
            code, what, given = modelled[DoseKind(doses.kind[row])]
            if given is not None and states[index] not in given:
                text = f"{code}, but the model's dosing gives no {what} for {states[index]}."
                found.append(Problem(f"no modelled {what}", text, int(row), columns.get("rate")))
    return locate(found, [table.ids[position] for position in table.subject])
