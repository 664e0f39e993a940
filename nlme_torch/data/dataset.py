"""The data set: a table, the parts its columns play, and the ways to look at it and to cut it."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ..errors import DataError
from .batch import Batch
from .columns import Columns, Outputs, TimeVarying, resolve_columns
from .new_times import Times, insert_times
from .problems import raise_errors
from .table import Table, read_table
from .tensors import to_batch


class Dataset:
    """Longitudinal data of several subjects, read from a NONMEM-style table; it never changes.

    Make one with :meth:`from_frame` or :meth:`from_csv`. Every row of the table is a record: an observation,
    a dose, a reset, or a time at which to predict. Rows keep their order; at equal times file order decides
    what comes first.

    Example:
        >>> import pandas as pd
        >>> import nlme_torch.data as data
        >>> frame = pd.DataFrame({"ID": [1, 1, 2], "TIME": [0.0, 1.0, 0.5], "DV": [3.0, 2.0, 4.0], "WT": [70, 70, 55]})
        >>> data.Dataset.from_frame(frame)
        Dataset of 2 subjects, 3 rows
          observations  DV 3
          covariates    WT
    """

    __slots__ = ("_columns", "_frame", "_new", "_table")

    _frame: pd.DataFrame
    _table: Table
    _columns: Columns
    _new: NDArray[np.bool_]

    def __init__(
        self, frame: pd.DataFrame, table: Table, columns: Columns, new: NDArray[np.bool_] | None = None
    ) -> None:
        """Internal: users call :meth:`from_frame`."""
        new = np.zeros(len(frame), dtype=bool) if new is None else new
        for name, value in (("_frame", frame), ("_table", table), ("_columns", columns), ("_new", new)):
            object.__setattr__(self, name, value)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        id: str | None = None,
        time: str | None = None,
        outputs: Outputs = None,
        covariates: str | Sequence[str] | None = None,
        time_varying: TimeVarying = (),
        occasion: str | None = None,
        ignore: str | Sequence[str] = (),
        dv: str | None = None,
        dvid: str | None = None,
        mdv: str | None = None,
        cens: str | None = None,
        limit: str | None = None,
        evid: str | None = None,
        amt: str | None = None,
        cmt: str | None = None,
        rate: str | None = None,
        dur: str | None = None,
        ii: str | None = None,
        addl: str | None = None,
        ss: str | None = None,
    ) -> "Dataset":
        """Read a data frame.

        A column plays the part that its name says in NONMEM (ID, TIME, DV, AMT, ..., without regard to case)
        unless the keyword of that part names another one. Missing cells are empty, ``.``, ``NA`` or NaN.

        Args:
            frame: one row for each record, all rows of a subject together, times in order within a subject.
            id: the subject column.
            time: the time column, numbers in any unit.
            outputs: what was observed: a column or several (``"conc"``, ``["CP", "PCA"]``); or, by name,
                ``{"yPK": "CP"}`` columns or ``{"yPK": 1, "yPD": 2}`` labels of the DVID column, the values
                standing in DV. Without it: DV, one output for each DVID label if there are several.
            covariates: constant covariates, in any unit; text becomes a category (see :attr:`categories`).
                Without it: every other numeric column that is complete and constant within subjects.
            time_varying: covariates that change within subjects; the last value is carried forward
                (``"locf"``) unless a mapping says ``"nocb"`` (the next value holds backward) or ``"linear"``.
            occasion: column of occasions (OCC), for inter-occasion variability.
            ignore: columns to leave out, e.g. one that has the name of a part but another meaning.
            dv: the value column of a table with DVID.
            dvid: which outcome the value of a row is, a number or a name.
            mdv: 1 where a row has no observed value.
            cens: 0 observed, 1 the truth lies below the value, -1 above it.
            limit: the other end of the interval in which a censored value lies.
            evid: 0 observation, 1 dose, 2 other, 3 reset, 4 reset and dose.
            amt: amount of the dose.
            cmt: compartment of the dose, a state's name or its number from 1; missing: the first.
            rate: rate of an infusion; -1 the model gives the rate, -2 the model gives the duration.
            dur: duration of an infusion.
            ii: interval between repeated doses.
            addl: number of further doses, every ``ii``.
            ss: 1 the dose has reached steady state, 2 its steady state is added.

        Returns:
            The data set.

        Raises:
            DataError: if anything is wrong with the table; the message lists all of it by row.
        """
        parts = {"id": id, "time": time, "dv": dv, "dvid": dvid, "mdv": mdv, "cens": cens, "limit": limit,
                 "evid": evid, "amt": amt, "cmt": cmt, "rate": rate, "dur": dur, "ii": ii, "addl": addl, "ss": ss,
                 "occasion": occasion}  # fmt: skip
        own = frame.reset_index(drop=True).copy()
        own.columns = pd.Index([str(name) for name in frame.columns])
        columns = resolve_columns(
            own, outputs=outputs, covariates=covariates, time_varying=time_varying, ignore=ignore, **parts
        )
        table, problems = read_table(own, columns)
        raise_errors(problems)
        return cls(own, table, columns)

    @classmethod
    def from_csv(cls, path: str | Path, *, sep: str = ",", **columns: Any) -> "Dataset":
        """Read a text file with one header line.

        Args:
            path: the file.
            sep: what separates columns, e.g. ``","``, ``";"``, or ``r"\\s+"`` for white space.
            **columns: as in :meth:`from_frame`.

        Returns:
            The data set.

        Raises:
            DataError: if the file is absent or empty, or anything is wrong with the table.
        """
        if not Path(path).is_file():
            raise DataError(f"There is no file {path}.")
        try:
            # read the header as data: pandas would rename a second column of the same name in silence
            raw = pd.read_csv(path, sep=sep, header=None, nrows=1, dtype=str, skipinitialspace=True)
            frame = pd.read_csv(
                path, sep=sep, skiprows=1, header=None, na_values=["."], skipinitialspace=True
            )
        except pd.errors.EmptyDataError:
            raise DataError(f"The file {path} has no rows, hence no subjects.") from None
        except (pd.errors.ParserError, UnicodeDecodeError) as error:
            raise DataError(
                f"The file {path} cannot be read as a table with separator {sep!r}: {error}"
            ) from error
        names = [str(name).strip() for name in raw.iloc[0]]
        if len(names) != frame.shape[1]:
            raise DataError(
                f"The file {path} has {len(names)} column names but {frame.shape[1]} columns. Is {sep!r} its separator?"
            )
        frame.columns = pd.Index(names)
        return cls.from_frame(frame, **columns)

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
        """Text covariates and their levels in alphabetical order: level k is the number k in a batch."""
        return dict(self._table.covariates.categories)

    @property
    def hash(self) -> str:
        """SHA-256 of the content: equal if and only if names, records, values, doses and covariates are."""
        table, digest = self._table, hashlib.sha256()
        spoken = (table.ids, self.outputs, self.covariate_names, sorted(table.covariates.interpolation.items()),
                  sorted(table.covariates.categories.items()), table.doses and table.doses.compartments)  # fmt: skip
        digest.update(repr(spoken).encode())
        for name, array in table.arrays():
            digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def batch(self, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Batch:
        """The data set as padded tensors, with ADDL doses expanded.

        Args:
            dtype: floating-point type of times, values, covariates and doses.
            device: where the tensors go; None is the CPU.

        Returns:
            A :class:`Batch`, ``(record, subject)``.
        """
        return to_batch(self._table, dtype, device)

    def with_times(self, times: Times) -> "Dataset":
        """The same data set with more records, at which nothing is observed: times at which to predict.

        Args:
            times: in the data's time unit: a list common to all subjects, or a mapping from subject to its
                times.

        Returns:
            A data set whose table has a row for every new record, after the rows at the same time;
            :attr:`prediction_rows` marks them.

        Raises:
            DataError: if a subject is unknown, or a time lies before the subject's first row.
        """
        table, source = insert_times(self._table, times)
        new = source < 0
        frame = self._frame.take(np.maximum(source, 0)).reset_index(drop=True)
        kept = {self._columns.parts["id"], *table.covariates.values}
        for name in (name for name in frame if name not in kept):
            frame[name] = frame[name].mask(new)
        frame[self._columns.parts["time"]] = table.time
        for name in table.covariates.interpolation:
            if name not in table.covariates.categories:
                frame[name] = np.where(new, table.covariates.values[name], frame[name])
        return Dataset(frame, table, self._columns, new)

    @property
    def prediction_rows(self) -> NDArray[np.bool_]:
        """``(row,)``, True on the rows that :meth:`with_times` added."""
        return self._new.copy()

    def subset(self, subjects: Iterable[Any]) -> "Dataset":
        """The data set of some of the subjects, in the table's order.

        Args:
            subjects: ids.

        Raises:
            DataError: if an id is unknown or none is given.
        """
        wanted = list(subjects)
        unknown = [label for label in wanted if label not in self.subjects]
        if unknown or not wanted:
            say = f"there is no subject {unknown[0]!r}" if unknown else "no subject was given"
            raise DataError(f"subset: {say}; the data set has {', '.join(map(str, self.subjects[:5]))}, ...")
        kept = np.asarray([label in wanted for label in self.subjects])
        rows = np.flatnonzero(kept[self._table.subject])
        frame = self._frame.take(rows).reset_index(drop=True)
        return Dataset(frame, self._table.take(rows), self._columns, self._new[rows])

    def __len__(self) -> int:
        return self.n_subjects

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dataset) and self.hash == other.hash

    def __hash__(self) -> int:
        return int(self.hash[:15], 16)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"A Dataset does not change: make a new one instead of setting {name!r}.")

    def __reduce__(self) -> tuple[Any, ...]:
        return Dataset, (self._frame, self._table, self._columns, self._new)

    def __repr__(self) -> str:
        table = self._table
        counts = [f"{name} {int(np.isfinite(v).sum())}" for name, v in table.observations.values.items()]
        lines = [
            f"Dataset of {self.n_subjects} subjects, {self.n_rows} rows",
            f"  observations  {', '.join(counts)}",
        ]
        if table.doses is not None:
            lines.append(f"  doses         {int((table.doses.kind != 0).sum())} rows")
        rules = table.covariates.interpolation
        names = [f"{name} ({rules[name]})" if name in rules else name for name in self.covariate_names]
        if names:
            lines.append(f"  covariates    {', '.join(names)}")
        return "\n".join(lines)


def new_dataset(frame: pd.DataFrame, **columns: Any) -> Dataset:
    """As :meth:`Dataset.from_frame`, for a design in which nothing has been observed yet."""
    parts = resolve_columns(frame, **columns)
    table, problems = read_table(frame, parts, observed=False)
    raise_errors(problems)
    return Dataset(frame, table, parts)
