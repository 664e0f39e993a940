"""What a data set holds: its subjects, outputs and covariates, and what must be said about them."""

import hashlib
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nlme_torch.data.dataset.checks import spoken, suspicions
from nlme_torch.data.dataset.describe import overview
from nlme_torch.data.records.table import Table
from nlme_torch.data.table.columns import Columns


class Contents:
    """The properties of a :class:`Dataset`."""

    __slots__ = ("_columns", "_frame", "_new", "_table")

    _frame: pd.DataFrame
    _table: Table
    _columns: Columns
    _new: NDArray[np.bool_]

    @property
    def frame(self) -> pd.DataFrame:
        """A copy of the table in the user's row order and with the user's column names."""
        return self._frame.copy()

    @property
    def subjects(self) -> tuple[Any, ...]:
        """Ids of the subjects in order of appearance."""
        return self._table.ids

    @property
    def n_subjects(self) -> int:
        """Number of subjects."""
        return len(self._table.ids)

    @property
    def n_rows(self) -> int:
        """Number of rows of the table."""
        return self._table.n_rows

    @property
    def n_observations(self) -> int:
        """Number of observed values, all outputs together."""
        return int(sum(np.isfinite(value).sum() for value in self._table.observations.values.values()))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(self._table.observations.values)

    @property
    def covariate_names(self) -> tuple[str, ...]:
        """Names of all covariates, constant and time-varying."""
        return tuple(self._table.covariates.values)

    @property
    def covariates(self) -> pd.DataFrame:
        """The covariates at every subject's first row, one line for each subject."""
        first = np.flatnonzero(np.diff(self._table.subject, prepend=-1))
        index = pd.Index(self.subjects, name=self._columns.parts["id"])
        return pd.DataFrame({k: v[first] for k, v in self._table.covariates.values.items()}, index=index)

    @property
    def categories(self) -> dict[str, tuple[str, ...]]:
        """Text covariates and their levels in order: level k is the number k in a batch."""
        return dict(self._table.covariates.categories)

    @property
    def units(self) -> dict[str, str]:
        """Units by name, as far as they were given: of ``"time"``, the outputs, covariates and other columns."""
        return dict(self._columns.units)

    @property
    def start(self) -> float | None:
        """When subjects begin whose first row is later; None: at their first row (times of events: at 0)."""
        return self._columns.start

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the table can be read with but should be looked at, one sentence for each kind; fits repeat them."""
        return spoken(suspicions(self._table, self._columns), self._table.names)

    @property
    def hash(self) -> str:
        """SHA-256 of the content: equal if and only if names, records, values, doses and covariates are."""
        digest = self._table.digest()
        return digest if self.start is None else hashlib.sha256(f"{digest} {self.start!r}".encode()).hexdigest()

    @property
    def prediction_rows(self) -> NDArray[np.bool_]:
        """``(row,)``, True on rows at which to predict: those that :meth:`with_times` or a design added."""
        return self._new.copy()

    def __repr__(self) -> str:
        return overview(self._table, self.start, self.units)

    def _repr_html_(self) -> str:
        title, *lines = map(escape, overview(self._table, self.start, self.units).splitlines())
        cells = (line.strip().split("  ", 1) for line in lines)
        rows = "".join(f"<tr><th>{name}</th><td>{text.strip()}</td></tr>" for name, text in cells)
        return f"<b>{title}</b><table>{rows}</table>"

    def to_frame(self) -> pd.DataFrame:
        """The table, as :attr:`frame`: :meth:`from_frame` with the same arguments gives an equal data set."""
        return self.frame

    def __len__(self) -> int:
        return self.n_subjects

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Contents) and self.hash == other.hash

    def __hash__(self) -> int:
        return int(self.hash[:15], 16)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"A Dataset does not change: make a new one instead of setting {name!r}.")
