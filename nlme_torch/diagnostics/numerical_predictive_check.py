r"""Numerical predictive check: how many observations lie outside the prediction intervals of the simulations.

For every observation the interval of probability p is that of its own simulated values; of the data a share
:math:`(1 - p)/2` should lie below and as many above. Simulated data sets, judged by the same intervals, say how far
from it the shares may be.

References:
    Karlsson and Savic (2007), Diagnosing model diagnostics. doi:10.1038/sj.clpt.6100241
    Wilkins, Karlsson and Jonsson (2006), Patterns and power for the visual predictive check, PAGE 15, 1029.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nlme_torch.diagnostics.simulated_observations import Strata, simulated_observations
from nlme_torch.diagnostics.visual_predictive_check import chosen_outcome
from nlme_torch.errors import DataError
from nlme_torch.inference import Fit
from nlme_torch.inference.residuals.continuous_records import is_event, outcome_kinds
from nlme_torch.settings import check_level, check_values

CHUNK = 20_000_000
"""Simulated numbers that are ordered at once, 160 MB."""


def numerical_predictive_check(
    fit: Fit,
    outcome: str | None = None,
    *,
    simulations: int = 500,
    seed: int = 0,
    intervals: Sequence[float] = (0.2, 0.4, 0.5, 0.6, 0.8, 0.9, 0.95),
    stratify: Strata = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Count the observations outside prediction intervals of several probabilities.

    Args:
        fit: A fit.
        outcome: Name of the outcome; the only one if None.
        simulations: Number of simulated data sets.
        seed: Of the simulations.
        intervals: Probabilities of the prediction intervals.
        stratify: As in :func:`vpc`.
        level: Of the intervals around the simulated shares.

    Returns:
        One row per stratum, interval and side (``below``, ``above``): expected, the share that should lie there;
        observed; lower, median and upper, of simulated data sets; count, of the observations. A left-censored
        observation lies below an interval whose lower end is above its limit of quantification; where the limit is
        above the lower end it cannot be known and the observation is left out, likewise above.

    Raises:
        DataError: The outcome is unknown or the time of an event.
        ModelError: The outcome cannot be drawn.

    Example:
        >>> import nlme_torch as nlme
        >>> model, data = nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline()
        >>> short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=5, smoothing=5))
        >>> fit = nlme.fit(model, data, short, progress=False)
        >>> check = nlme.diagnostics.numerical_predictive_check(fit, simulations=100, intervals=[0.9])
        >>> check["expected"].round(2).tolist()
        [0.05, 0.05]
    """
    name = chosen_outcome(fit, outcome)
    if is_event(outcome_kinds(fit.density)[name]):
        raise DataError(f"outcome {name!r} is the time of an event, which has no prediction intervals; use vpc.")
    check_values("numerical_predictive_check", DataError, simulations=(simulations, int), seed=(seed, int))
    check_level("numerical_predictive_check", DataError, level)
    if simulations < 2 or not all(0 < value < 1 for value in intervals):
        raise DataError("numerical_predictive_check: give 2 or more simulations, and intervals between 0 and 1.")
    found = simulated_observations(fit, name, simulations, seed, stratify=stratify)
    tails = 0.5 - np.asarray(intervals) / 2
    rows = []
    for stratum, part in found.table.groupby("stratum", sort=True):
        simulated = found.simulated[part.index.to_numpy()]
        low, high = _ends(simulated, tails)
        value, code = part["DV"].to_numpy(), part["CENS"].to_numpy()
        for position, interval in enumerate(intervals):
            for side, end in (("below", low[position]), ("above", high[position])):
                outside, known = _outside(value, code, end, side)
                beyond = simulated < end[:, None] if side == "below" else simulated > end[:, None]
                shares = beyond[known].mean(0) if known.any() else np.full(simulated.shape[1], np.nan)
                lower, median, upper = np.quantile(shares, [0.5 - level / 2, 0.5, 0.5 + level / 2])
                rows.append(
                    {
                        "stratum": stratum, "interval": interval, "side": side, "expected": tails[position],
                        "observed": outside[known].mean() if known.any() else np.nan, "lower": lower, "median": median,
                        "upper": upper, "count": int(known.sum()),
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def _ends(simulated: np.ndarray, tails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of the intervals, each ``(interval, observation)``."""
    size = max(1, CHUNK // simulated.shape[1])
    pieces = [
        np.quantile(simulated[start : start + size], np.concatenate([tails, 1 - tails]), axis=1)
        for start in range(0, len(simulated), size)
    ]
    ends = np.concatenate(pieces, axis=1)
    return ends[: len(tails)], ends[len(tails) :]


def _outside(value: np.ndarray, code: np.ndarray, end: np.ndarray, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Whether observations lie beyond an end, and whether that can be known of what is censored."""
    if side == "below":
        # left-censored: below its limit; right-censored: above it
        outside = np.where(code == -1, False, np.where(code == 1, value <= end, value < end))
        known = (code == 0) | ((code == 1) & (value <= end)) | ((code == -1) & (value >= end))
    else:
        outside = np.where(code == 1, False, np.where(code == -1, value >= end, value > end))
        known = (code == 0) | ((code == -1) & (value >= end)) | ((code == 1) & (value <= end))
    return outside, known
