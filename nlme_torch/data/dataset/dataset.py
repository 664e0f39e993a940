"""The data set: a table, the parts its columns play, and the ways to look at it and to cut it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from nlme_torch.data.dataset.checks import misfits, suspicions
from nlme_torch.data.dataset.contents import Contents
from nlme_torch.data.dataset.describe import Description, describe, why_no_covariate
from nlme_torch.data.dataset.split import rows_of_subjects, split_subjects
from nlme_torch.data.dataset.units import named_units
from nlme_torch.data.dataset.unseen import to_predict
from nlme_torch.data.design.design import Regimens, designed, new_design
from nlme_torch.data.design.new_times import Times, blank_frame, insert_times
from nlme_torch.data.records.batch import Batch
from nlme_torch.data.records.reading import read_frame
from nlme_torch.data.records.table import Table
from nlme_torch.data.records.tensors import to_batch
from nlme_torch.data.table.columns import Columns, Name, Names, Outputs, TimeVarying
from nlme_torch.data.table.csv_file import read_csv
from nlme_torch.data.table.frames import as_frame
from nlme_torch.data.table.problems import problem_table, raise_errors
from nlme_torch.data.table.row_names import LINES, RowNames
from nlme_torch.data.table.row_rules import kept_rows, leave_out


class Dataset(Contents):
    """Longitudinal data of several subjects, read from a NONMEM-style table; it never changes.

    Make one with :meth:`from_frame` or :meth:`from_csv`, or, for simulation, :meth:`from_regimen`. Every row
    of the table is a record: an observation, a dose, a reset, or a time at which to predict. Rows keep their
    order; at equal times file order decides what comes first.

    Example:
        >>> import pandas as pd
        >>> import nlme_torch.data as data
        >>> frame = pd.DataFrame({"ID": [1, 1, 2], "TIME": [0.0, 1.0, 0.5], "DV": [3.0, 2.0, 4.0]})
        >>> frame["WT"] = [70, 70, 55]
        >>> data.Dataset.from_frame(frame)
        Dataset of 2 subjects, 3 rows
          observations  DV 3
          covariates    WT
    """

    __slots__ = ()

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
        frame: Any,
        *,
        id: Name = None,
        time: Name = None,
        outputs: Outputs = None,
        covariates: Names | None = None,
        time_varying: TimeVarying = (),
        occasion: Name = None,
        ignore: Names = (),
        levels: Mapping[str, Sequence[str]] | None = None,
        start: float | None = None,
        missing: Mapping[str, Any] | None = None,
        lloq: float | str | Mapping[str, float | str | None] | None = None,
        blq: float | str | None = None,
        units: Mapping[str, str] | None = None,
        dv: Name = None,
        dvid: Name = None,
        by: Name = None,
        mdv: Name = None,
        cens: Name = None,
        limit: Name = None,
        date: Name = None,
        evid: Name = None,
        amt: Name = None,
        cmt: Name = None,
        rate: Name = None,
        dur: Name = None,
        ii: Name = None,
        addl: Name = None,
        ss: Name = None,
    ) -> "Dataset":
        """Read a data frame.

        A column plays the part that its name says in NONMEM (ID, TIME, DV, AMT, ..., without regard to case)
        unless the keyword of that part names another one. Missing cells are empty, ``.``, ``NA`` or NaN.
        Columns whose names ask to be explained (``TINF``, ``DOSE`` beside AMT, ``BLQ``) become no covariate by
        themselves; :attr:`warnings` and the printed data set name them. What other dialects say (dates, clock
        times, EVID 101 of nlmixr2, ``<0.5``) stands in :attr:`frame` as NONMEM writes it.

        Args:
            frame: a pandas data frame, one row for each record, all rows of a subject together, times in order within
                a subject.
            id: the subject column.
            time: the time column, numbers in any unit; it may start again at a reset (EVID 3, 4). Clock times
                (``8:30``) and time stamps are read as hours since the subject's first row, which a warning says.
            outputs: what was observed: a column or several (``"conc"``, ``["CP", "PCA"]``); or, by name,
                ``{"yPK": "CP"}`` columns or ``{"yPK": 1, "yPD": 2}`` labels of the DVID column, the values
                standing in DV (a list of labels pools them). Without it: DV, one output for each DVID label if
                there are several.
            covariates: constant covariates, in any unit; text becomes a category (see :attr:`categories`).
                Without it: every other numeric column that is complete and constant within subjects.
            time_varying: covariates that change within subjects; the last value is carried forward
                (``"locf"``) unless a mapping says ``"nocb"`` (the next value holds backward) or ``"linear"``.
            occasion: column of occasions (OCC), for inter-occasion variability.
            ignore: columns to leave out, e.g. one that has the name of a part but another meaning.
            levels: levels of text covariates in the order in which they are numbered, alphabetical where not
                given: ``other.categories`` to code a table as another one.
            start: when subjects begin whose first row is later (``0.0``: their states have their initial values at
                time 0, and a hazard is integrated from there); None: at the first row, and at 0 for times of events.
            missing: covariate to what a subject without a value at its first row gets: ``"median"`` or ``"mode"`` of
                the other subjects, a value such as ``70.0``, or with ``"carry"`` the subject's own first value (which
                the other rules take too, where there is one); without it: an error. Printed with its counts.
            lloq: lower limit of quantification, a number or a column, or either by output: values below it, or with
                CENS (or BLQ) 1, are censored there (NONMEM's M3).
            blq: what texts such as ``<0.5`` and ``BLQ`` in the value column mean: ``"censored"`` (at the limit they
                name, or at ``lloq``), a number (censored at it where they name none) or ``"missing"``; None: an error.
            units: columns, outputs and covariates to their units, ``{"TIME": "h", "DV": "mg/L"}``, for prints and
                pictures.
            dv: the value column of a table with DVID.
            dvid: which outcome the value of a row is, a number or a name: a column, such as ``"CMT"``.
            by: the same as ``dvid``.
            mdv: 1 where a row has no observed value.
            cens: 0 observed, 1 the truth lies below the value, -1 above it.
            limit: the other end of the interval in which a censored value lies.
            date: the column of dates (DATE month day year, DAT1 day month year, DAT2 year month day, DAT3 year day
                month, as NONMEM has it); TIME then is the time of day.
            evid: 0 observation, 1 dose, 2 other, 3 reset, 4 reset and dose; 101 and more as nlmixr2 writes them.
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
            DataError: if anything is wrong with the table; the message lists all of it by row, named by the
                index of the frame.
        """
        parts = {"id": id, "time": time, "dv": dv, "dvid": dvid, "by": by, "mdv": mdv, "cens": cens, "limit": limit,
                 "date": date, "evid": evid, "amt": amt, "cmt": cmt, "rate": rate, "dur": dur, "ii": ii, "addl": addl,
                 "ss": ss, "occasion": occasion}  # fmt: skip
        rows = RowNames.of(frame)
        reading, problems = read_frame(
            as_frame(frame), rows, outputs=outputs, covariates=covariates, time_varying=time_varying, ignore=ignore,
            levels=levels, start=start, missing=missing, lloq=lloq, blq=blq, **parts
        )  # fmt: skip
        raise_errors(problems, rows)
        assert reading is not None
        own = named_units(units, reading.table, reading.columns)
        return cls(reading.frame, reading.table, replace(reading.columns, units=own), to_predict(reading.table))

    @classmethod
    def from_csv(
        cls,
        path: Any,
        *,
        sep: str = ",",
        decimal: str = ".",
        thousands: str | None = None,
        encoding: str = "utf-8",
        skip_rows: int | Iterable[int] = 0,
        header: int | Sequence[str] | None = 0,
        ignore: str | Sequence[str] = (),
        accept: str | Sequence[str] = (),
        **columns: Any,
    ) -> "Dataset":
        r"""Read a text file.

        Args:
            path: the file.
            sep: what separates columns, as in ``pandas.read_csv``; ``r"\s+"`` for blanks.
            decimal: the decimal point, as in ``pandas.read_csv``.
            thousands: what marks thousands, as in ``pandas.read_csv``.
            encoding: of the file.
            skip_rows: how many lines at the top to leave out, or which lines of the file (from 0), such as the line
                of units below the header.
            header: which of the lines left holds the names of the columns, or, of a file without, their names.
            ignore: lines to leave out as NONMEM's IGNORE does: ``"@"`` (lines that begin with a letter), ``"#"``,
                ``"C"`` or another character that they begin with, or a condition such as ``"DVID.EQ.2"`` or
                ``"TIME>24"``; otherwise columns to leave out, as in :meth:`from_frame` (in a list, so is ``["C"]``).
            accept: conditions of which a row must meet one, as in NONMEM's ACCEPT.
            **columns: as in :meth:`from_frame`.

        Returns:
            The data set; messages name the lines of the file.

        Raises:
            DataError: if the file is absent or empty, or anything is wrong with the table.
        """
        rules = leave_out(ignore)
        frame = read_csv(
            path, sep=sep, decimal=decimal, thousands=thousands, encoding=encoding, skip_rows=skip_rows, header=header,
            comment=rules.mark,
        )  # fmt: skip
        kept = kept_rows(frame, rules.conditions, accept)
        own = frame[kept]
        own.attrs[LINES] = True
        return cls.from_frame(own, ignore=rules.columns, **columns)

    @classmethod
    def from_regimen(
        cls,
        regimen: Regimens,
        times: Times,
        *,
        subjects: int | Sequence[Any] = 1,
        covariates: pd.DataFrame | Mapping[str, Any] | None = None,
        outputs: str | Sequence[str] = "DV",
        start: float | None = None,
        units: Mapping[str, str] | None = None,
    ) -> "Dataset":
        """A design for simulation: who gets which doses, and when to look; nothing is observed yet.

        Args:
            regimen: the doses, for all subjects or by subject.
            times: when to look, for all subjects or by subject; at equal times doses come first.
            subjects: how many (they are called 1, 2, ...), or their ids.
            covariates: constant covariates: a table with one line for each subject (ids as its index), or a
                mapping from name to one value or one for each subject.
            outputs: names of what will be observed.
            start: when subjects begin, as in :meth:`from_frame`.
            units: as in :meth:`from_frame`.

        Returns:
            A data set without observations.

        Raises:
            DataError: if the parts do not fit together.

        Example:
            >>> import nlme_torch.data as data
            >>> daily = data.Regimen(100.0, every=24.0, additional=2)
            >>> data.Dataset.from_regimen(daily, [1.0, 25.0], subjects=2, covariates={"WT": [60.0, 80.0]})
            Dataset of 2 subjects, 6 rows
              observations  DV 0
              doses         2 rows
              covariates    WT
        """
        ids = tuple(range(1, subjects + 1)) if isinstance(subjects, int) else tuple(subjects)
        names = (outputs,) if isinstance(outputs, str) else tuple(outputs)
        frame, table, columns, new = new_design(regimen, times, ids, covariates, names, start)
        return cls(frame, table, replace(columns, units=named_units(units, table, columns)), new)

    def with_regimen(self, regimen: Regimens, times: Times | None = None) -> "Dataset":
        """The same subjects and covariates under other doses, with nothing observed: a design for simulation.

        Args:
            regimen: the doses, for all subjects or by subject.
            times: when to look, for all subjects or by subject; None: when each subject was observed.

        Returns:
            A data set without observations; categories and interpolation of covariates are kept.

        Raises:
            DataError: if a subject has no regimen, or an unknown one does.
        """
        seen = self._table.observations.observed
        if times is None:
            when, who = self._table.time[seen], self._table.subject[seen]
            times = {label: np.unique(when[who == k]) for k, label in enumerate(self.subjects)}
        return Dataset(*designed(self._frame, self._table, self._columns, regimen, times))

    def batch(self, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Batch:
        """The data set as padded tensors, with ADDL doses expanded.

        Args:
            dtype: floating-point type of times, values, covariates and doses.
            device: where the tensors go; None is the CPU.

        Returns:
            A :class:`Batch`, ``(record, subject)``.
        """
        batch = to_batch(self._table, dtype, device)
        unused = why_no_covariate(self._table, self._columns)
        batch = replace(batch, unused=unused, row_names=self._table.names)
        return batch if self.start is None else batch.starting_at(self.start)

    def with_times(self, times: Times) -> "Dataset":
        """The same data set with more records, at which nothing is observed: times at which to predict.

        Args:
            times: in the data's time unit: a list common to all subjects, or a mapping from subject to its
                times. Where the clock was set back at a reset, time since the first period's start
                (:attr:`Batch.times`).

        Returns:
            A data set whose table has a row for every new record, after the rows at the same time;
            :attr:`prediction_rows` marks them.

        Raises:
            DataError: if a subject is unknown, or a time lies before the subject begins.
        """
        table, source = insert_times(self._table, times, self.start)
        frame = blank_frame(self._frame, table, self._columns, source)
        return Dataset(frame, table, self._columns, self._new[source] | (source < 0))

    def starting_at(self, start: float) -> "Dataset":
        """The same data set whose subjects begin at a time, where their first row is later.

        Args:
            start: in the data's time unit.
        """
        return Dataset(self._frame, self._table, replace(self._columns, start=start), self._new)

    def subset(self, subjects: Iterable[Any]) -> "Dataset":
        """The data set of some of the subjects, in the table's order.

        Args:
            subjects: ids.

        Raises:
            DataError: if an id is unknown, named twice, or none is given.
        """
        rows = rows_of_subjects(self.subjects, self._table.subject, subjects)
        frame = self._frame.take(rows).reset_index(drop=True)
        return Dataset(frame, self._table.take(rows), self._columns, self._new[rows])

    def split(
        self, train: float | int | None = None, test: float | int | None = None, *, seed: int
    ) -> tuple["Dataset", "Dataset"]:
        """Two data sets of different subjects, drawn at random.

        Args:
            train: share of the subjects (a float below 1) or their number (an int); None: those not in
                ``test``.
            test: the same; None: those not in ``train``.
            seed: of the draw.

        Returns:
            The data sets to train on and to test on, each in the table's order.

        Raises:
            DataError: if one of them would be empty or both together too large.
        """
        first, second = split_subjects(self.n_subjects, train, test, seed)
        return self.subset(self.subjects[i] for i in first), self.subset(self.subjects[i] for i in second)

    def check(
        self,
        *,
        states: Sequence[str] | None = None,
        positive: Collection[str] = (),
        modelled_rate: Collection[str] | None = None,
        modelled_duration: Collection[str] | None = None,
    ) -> pd.DataFrame:
        """What is suspicious about the table, and, given facts of a model, what does not fit that model.

        Args:
            states: the model's states; every dose must enter one of them.
            positive: outputs whose error model takes positive values only (log-normal).
            modelled_rate: states for which the model gives a rate (RATE -1); None: not checked.
            modelled_duration: states for which the model gives a duration (RATE -2); None: not checked.

        Returns:
            One line for each finding: severity, rule, subject, row (line of the file, or label in the index of the
            data frame), column, message.
        """
        fit = misfits(
            self._table, self._columns, states=states, positive=positive,
            modelled_rate=modelled_rate, modelled_duration=modelled_duration,
        )  # fmt: skip
        return problem_table([*fit, *suspicions(self._table, self._columns)], self._table.names)

    def require(self, **facts: Any) -> None:
        """Raise what :meth:`check` finds wrong in the light of a model.

        Args:
            **facts: as in :meth:`check`.

        Raises:
            DataError: if the table does not fit the model; lists the rows.
        """
        raise_errors(misfits(self._table, self._columns, **facts), self._table.names)

    def describe(self) -> Description:
        """Counts, ranges, covariates, and every row or column that was left out, with the reason."""
        return describe(self._table, self._columns)

    def __reduce__(self) -> tuple[Any, ...]:
        return Dataset, (self._frame, self._table, self._columns, self._new)
