"""What a row of a table is called in messages: the line of its file, or its label in the index of its data frame."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

LINES = "nlme_torch.lines"
"""Mark in ``attrs`` of a table whose index holds the lines of the file that it was read from."""


class RowNames:
    """Names of the rows of a table.

    Args:
        labels: ``(row,)``, lines of a file or labels of an index; None counts rows from 0.
        lines: Whether they are lines of a file.
    """

    __slots__ = ("labels", "lines")

    def __init__(self, labels: Sequence[Any] | None = None, lines: bool = False) -> None:
        self.labels, self.lines = None if labels is None else list(labels), lines

    @classmethod
    def of(cls, frame: Any) -> "RowNames":
        """Return the names of a data frame's rows; rows are counted where its index repeats itself or is missing."""
        index = getattr(frame, "index", None)
        if not isinstance(index, pd.Index) or isinstance(index, pd.MultiIndex) or not index.is_unique:
            return cls()
        return cls(index.tolist(), bool(frame.attrs.get(LINES, False)))

    def take(self, rows: Sequence[int] | np.ndarray) -> "RowNames":
        """Return the names of some rows."""
        return self if self.labels is None else RowNames([self.labels[row] for row in rows], self.lines)

    def label(self, row: int) -> Any:
        """Return the line or the label of a row, given by its position from 0."""
        return row if self.labels is None or row >= len(self.labels) else self.labels[row]

    def name(self, row: int) -> str:
        """Return a row's name in a sentence, such as ``line 12`` or ``row 10``."""
        label = self.label(row)
        shown = repr(label) if isinstance(label, str) else str(label)
        return f"{'line' if self.lines else 'row'} {shown}"

    @property
    def said(self) -> str:
        """What the names mean, in a clause."""
        if self.lines:
            return "lines are those of the file"
        return "rows are counted from 0" if self.labels is None else "rows are named by the index of the data frame"

    def __reduce__(self) -> tuple[Any, ...]:
        return RowNames, (self.labels, self.lines)
