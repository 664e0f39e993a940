"""What a simulation of many replicates gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nlme_torch.data import Dataset, with_outcomes
from nlme_torch.errors import FitError


@dataclass(frozen=True, eq=False)
class Simulation:
    """Observations of one design, simulated several times; it prints as quantiles over subjects.

    Attributes:
        data: The design: who, which doses, when.
        parameters: One row per replicate: the parameters it was simulated with, natural scale.
        observations: Outcome to ``(replicate, row)`` [outcome's unit], NaN where nothing is looked at.
        predictions: The same without residual error: expectations given each subject's effects.
        events: Where an outcome is the time of an event, the data set of every replicate, whose rows are its own.
        warnings: What the reader must know.
    """

    data: Dataset
    parameters: pd.DataFrame
    observations: Mapping[str, NDArray[np.float64]]
    predictions: Mapping[str, NDArray[np.float64]]
    events: tuple[Dataset, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def replicates(self) -> int:
        """Number of replicates."""
        return len(self.parameters)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One line per replicate and observation: replicate, row, id, time, outcome, value, prediction.

        Rows count from 0 in ``data.frame``, or, where events have rows of their own, in ``dataset(replicate).frame``.
        """
        if self.events:
            parts = [_lines(data, k, _columns(data), {}) for k, data in enumerate(self.events)]
            return pd.concat(parts, ignore_index=True)
        whole = [
            _lines(self.data, slice(None), {name: value}, {name: self.predictions[name]})
            for name, value in self.observations.items()
        ]
        table = pd.concat(whole, ignore_index=True)
        return table.sort_values(["replicate", "row"], kind="stable", ignore_index=True)

    def dataset(self, replicate: int) -> Dataset:
        """Return one replicate as a data set, to be fitted.

        Args:
            replicate: Its number, from 0.

        Raises:
            FitError: There is no such replicate.
        """
        if not 0 <= replicate < self.replicates:
            raise FitError(f"there is no replicate {replicate!r}; they are 0 to {self.replicates - 1}.")
        if self.events:
            return self.events[replicate]
        return with_outcomes(self.data, {name: value[replicate] for name, value in self.observations.items()})

    def quantiles(self, probabilities: Sequence[float] = (0.05, 0.5, 0.95), *, level: float = 0.9) -> pd.DataFrame:
        """Return quantiles over subjects at every time, and how far they vary between replicates.

        Args:
            probabilities: Of the quantiles over subjects.
            level: Share of the replicates between lower and upper.

        Returns:
            One line per outcome, time and quantile: outcome, time, quantile, median, lower, upper (over replicates).

        Raises:
            FitError: A probability is not between 0 and 1.
        """
        if not all(0 < p < 1 for p in (*probabilities, level)):
            raise FitError(f"quantiles: probabilities and level lie between 0 and 1, got {probabilities} and {level}.")
        groups = self.table.groupby(["outcome", "time", "replicate"], sort=True)["value"]
        inner = groups.quantile(np.asarray(probabilities, dtype=float)).rename_axis(
            ["outcome", "time", "replicate", "quantile"]
        )
        outer = inner.groupby(["outcome", "time", "quantile"])
        tail = 0.5 * (1 - level)
        columns = {"median": outer.median(), "lower": outer.quantile(tail), "upper": outer.quantile(1 - tail)}
        return pd.DataFrame(columns).reset_index()

    def __str__(self) -> str:
        lines = [f"Simulation of {self.replicates} replicates of {self.data.n_subjects} subjects"]
        if not self.events:
            shown = self.quantiles().pivot_table(index=["outcome", "time"], columns="quantile", values="median")
            lines.append(shown.to_string(float_format="{:.4g}".format, max_rows=20))
        return "\n".join([*lines, *(f"warning: {message}" for message in self.warnings)])

    __repr__ = __str__


def _columns(data: Dataset) -> dict[str, NDArray[np.float64]]:
    return {name: data.frame[name].to_numpy(dtype=float)[None] for name in data.outputs}


def _lines(
    data: Dataset,
    replicate: int | slice,
    observations: Mapping[str, NDArray[np.float64]],
    predictions: Mapping[str, NDArray[np.float64]],
) -> pd.DataFrame:
    """Tidy lines of some outcomes, ``(replicate, row)`` each."""
    subject, time = _places(data)
    tables = []
    for name, value in observations.items():
        seen = ~np.isnan(value)
        if name in predictions:
            seen |= ~np.isnan(predictions[name])
        number, row = np.nonzero(seen)
        tables.append(
            pd.DataFrame(
                {
                    "replicate": number if isinstance(replicate, slice) else replicate,
                    "row": row,
                    "id": np.asarray(data.subjects)[subject[row]],
                    "time": time[row],
                    "outcome": name,
                    "value": value[number, row],
                    "prediction": predictions[name][number, row] if name in predictions else np.nan,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def _places(data: Dataset) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Subject (from 0) and time of every row."""
    batch = data.batch()
    there = batch.rows >= 0
    rows, subject = batch.rows[there].numpy(), there.nonzero()[:, 1].numpy()
    who, when = np.empty(data.n_rows, dtype=np.int64), np.empty(data.n_rows)
    who[rows], when[rows] = subject, batch.times[there].numpy()
    return who, when
