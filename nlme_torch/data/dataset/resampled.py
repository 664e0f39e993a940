"""Subjects of a data set drawn again, and their covariates, for simulation."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from nlme_torch.data.dataset.dataset import Dataset


def resampled(data: Dataset, positions: Sequence[int]) -> Dataset:
    """Return a data set of some subjects, any number of times each: all their rows, under the ids 1, 2, ...

    Args:
        data: The data set.
        positions: ``(subject,)``, from 0.
    """
    table, columns = data._table, data._columns
    bounds = np.searchsorted(table.subject, np.arange(len(table.ids) + 1))
    pieces = [np.arange(bounds[k], bounds[k + 1]) for k in positions]
    rows = np.concatenate(pieces)
    subject = np.repeat(np.arange(len(positions)), [len(piece) for piece in pieces])
    frame = data._frame.take(rows).reset_index(drop=True)
    frame[columns.parts["id"]] = subject + 1
    ids = tuple(range(1, len(positions) + 1))
    return Dataset(frame, replace(table.rows_of(rows), ids=ids, subject=subject, warnings=()), columns, data._new[rows])


def covariate_lines(data: Dataset) -> pd.DataFrame:
    """Return the covariates of every subject at its first row, categories as text, one line for each."""
    lines = data.covariates
    for name, levels in data.categories.items():
        lines[name] = [levels[int(code)] for code in lines[name]]
    return lines


def covariate_rows(data: Dataset, rows: np.ndarray) -> pd.DataFrame:
    """Return the covariates at rows of the table as written; gaps of constant ones hold what the model takes.

    Args:
        data: The data set.
        rows: Positions in its table.
    """
    frame, covariates = data.frame, data._table.covariates
    columns = {}
    for name in (name for name in covariates.values if name in frame):
        written = frame[name].iloc[rows].reset_index(drop=True)
        if name not in covariates.interpolation:
            held = pd.Series(covariates.values[name][rows])
            levels = covariates.categories.get(name)
            held = held if levels is None else held.map(lambda code, levels=levels: levels[int(code)])
            written = written.where(written.notna(), held)
        columns[name] = written
    return pd.DataFrame(columns)
