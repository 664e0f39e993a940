"""What is wrong with a table: every problem with its row, reported all at once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from nlme_torch.data.table.row_names import RowNames
from nlme_torch.errors import DataError

_SHOWN = 10
"""Problems of a table that a message shows: a screen of them."""


@dataclass(frozen=True)
class Problem:
    """One finding about a table.

    Attributes:
        rule: short name of the rule that was broken, e.g. ``"time order"``.
        message: what is wrong and what to do about it, without the place.
        row: 0-based row of the table, or None when the whole table or column is meant.
        column: the column's name as the user wrote it, or None.
        subject: the subject's id, or None.
        severity: ``"error"`` when the table cannot be used, ``"warning"`` when it can but should be looked
            at.
    """

    rule: str
    message: str
    row: int | None = None
    column: str | None = None
    subject: Any = None
    severity: Literal["error", "warning"] = "error"

    def told(self, names: RowNames) -> str:
        """The finding in a sentence that begins with its place.

        Args:
            names: of the rows of the table.
        """
        place = []
        if self.row is not None:
            place.append(names.name(self.row))
        if self.subject is not None:
            place.append(f"subject {self.subject}")
        if self.column is not None:
            place.append(f"column {self.column}")
        return f"{', '.join(place)}: {self.message}" if place else self.message


def locate(problems: Iterable[Problem], subjects: Sequence[Any]) -> list[Problem]:
    """The problems in row order, each with the id that stands in its row."""
    placed = [replace(p, subject=subjects[p.row]) if p.subject is None and p.row is not None else p for p in problems]
    return sorted(placed, key=lambda p: -1 if p.row is None else p.row)


def raise_errors(problems: Sequence[Problem], names: RowNames) -> None:
    """Raise one DataError that lists the errors (the first ten, and how many more there are), if any.

    Args:
        problems: what was found.
        names: of the rows of the table.

    Raises:
        DataError: if any of the problems is an error.
    """
    errors = [problem for problem in problems if problem.severity == "error"]
    if not errors:
        return
    count = "1 problem" if len(errors) == 1 else f"{len(errors)} problems"
    lines = [f"The table has {count} ({names.said}):"]
    lines += [f"  {problem.told(names)}" for problem in errors[:_SHOWN]]
    if len(errors) > _SHOWN:
        lines.append(f"  ... and {len(errors) - _SHOWN} more")
    raise DataError("\n".join(lines))


def problem_table(problems: Iterable[Problem], names: RowNames) -> pd.DataFrame:
    """The problems as a table: severity, rule, subject, row (line of the file, or label of the index), column, message.

    Args:
        problems: what was found.
        names: of the rows of the table.
    """
    rows = [
        (p.severity, p.rule, p.subject, None if p.row is None else names.label(p.row), p.column, p.message)
        for p in problems
    ]
    table = pd.DataFrame(rows, columns=["severity", "rule", "subject", "row", "column", "message"])
    whole = all(row[3] is None or isinstance(row[3], int) for row in rows)
    return table.astype({"row": "Int64"}) if whole else table
