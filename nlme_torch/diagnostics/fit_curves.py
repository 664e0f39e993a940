"""Predicted curves between the observations of every subject."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch

from nlme_torch.data import Batch
from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.method_arguments import check_fit


def fit_curves(fit: Fit, subjects: Iterable[Any] | None = None, points: int = 100) -> pd.DataFrame:
    """Predict every subject on a fine grid from its first to its last record, its own record times included.

    Args:
        fit: A fit.
        subjects: Ids; all if None.
        points: Grid points per subject.

    Returns:
        Columns id, time [data's time unit], outcome, PRED (typical subject, eta = 0) and IPRED (eta at the
        conditional mode) [outcome's unit].

    Raises:
        DataError: A subject is unknown.

    Example:
        >>> import nlme_torch as nlme
        >>> model, data = nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline()
        >>> short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=5, smoothing=5))
        >>> fit = nlme.fit(model, data, short, progress=False)
        >>> list(nlme.diagnostics.fit_curves(fit, subjects=[1], points=50))
        ['id', 'time', 'outcome', 'PRED', 'IPRED']
    """
    check_fit("fit_curves", fit)
    chosen = None if subjects is None else fit.data.subset(subjects).subjects
    return fit.predict(time_grids(fit.data.batch(), points, chosen))


def time_grids(batch: Batch, points: int, subjects: Iterable[Any] | None = None) -> dict[Any, np.ndarray]:
    """Return, for every subject, its record times, times between them, and equally spaced times over all.

    Args:
        batch: The data as tensors.
        points: Equally spaced times per subject; up to as many again stand between records, which are close
            to each other where the response is fast.
        subjects: Ids; all if None.

    Returns:
        Subject's id to increasing times [data's time unit].
    """
    grids = {}
    for label in batch.subjects if subjects is None else subjects:
        column = batch.subjects.index(label)
        records = batch.times[batch.record_mask[:, column], column].to(torch.float64).numpy(force=True)
        records = np.unique(records)
        steps = max(1, min(8, points // max(len(records) - 1, 1)))
        between = np.interp(np.arange(steps * (len(records) - 1) + 1) / steps, np.arange(len(records)), records)
        grids[label] = np.union1d(between, np.linspace(records[0], records[-1], points))
    return grids
