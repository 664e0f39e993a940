r"""Visual predictive checks: percentiles of the data over time, and what simulations of the model say of them.

In every bin the percentiles of the observations stand beside the same percentiles of K simulated data sets, whose
median and interval say where the former should lie. With prediction correction

.. math:: y^{pc}_{ij} = b + (y_{ij} - b)\, \frac{\widetilde{\text{PRED}}_{bin} - b}{\text{PRED}_{ij} - b}

differences of doses and covariates within a bin are taken out, PRED-bin being the median of the population predictions
of the bin and b the outcome's lower bound.

References:
    Holford (2005), The visual predictive check: superiority to standard diagnostic (Rorschach) plots, PAGE 14, 738.
    Bergstrand, Hooker, Wallin and Karlsson (2011), Prediction-corrected visual predictive checks for diagnosing
    nonlinear mixed-effects models. doi:10.1208/s12248-011-9255-z
    Bergstrand and Karlsson (2009), Handling data below the limit of quantification in mixed effect models.
    doi:10.1208/s12248-009-9112-5
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nlme_torch._typing import Float
from nlme_torch.diagnostics.bins import in_bins, time_bins
from nlme_torch.diagnostics.simulated_observations import Strata, simulated_observations
from nlme_torch.diagnostics.survival_check import survival_check
from nlme_torch.errors import DataError
from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.method_arguments import check_fit
from nlme_torch.inference.residuals.continuous_records import is_discrete, is_event, outcome_kinds
from nlme_torch.settings import check_level, check_values

Kind = Literal["percentiles", "categories", "survival"]
Bins = int | Sequence[float] | None

CATEGORIES = 10
"""Distinct values up to which the outcome is shown by proportions rather than percentiles."""

BELOW = 1e300
"""What stands for a value beyond the limit of quantification when values are ordered."""


@dataclass(frozen=True)
class VisualPredictiveCheck:
    """What data and simulations look like over time; :func:`nlme_torch.plots.vpc` draws it.

    Attributes:
        outcome: Name of the outcome.
        kind: ``percentiles`` of a measurement, proportions of ``categories``, or ``survival``.
        against: What stands on the abscissa.
        corrected: Whether observations and simulations are prediction-corrected.
        simulations: Number of simulated data sets.
        level: Of the intervals.
        table: One row per stratum, bin and percentile (category): stratum, bin, left, right, x (median of the bin's
            observations), count, percentile (category), observed, lower, median, upper; of survival stratum, x,
            observed, lower, median, upper and at_risk. NaN where a percentile lies beyond the limit of quantification.
        beyond: Of a measurement with censored values, one row per stratum, bin and side (``below``, ``above``): the
            fraction censored, observed, lower, median, upper; None without.
        points: The observations: row, id, x, DV (corrected, if that was asked for), CENS, stratum, bin.
        left_out: Observations without a place: outside the bins, or without a positive prediction to correct by.
        lost: Simulations of single subjects whose equations could not be solved.
        units: Of the data, by name.
    """

    outcome: str
    kind: Kind
    against: str
    corrected: bool
    simulations: int
    level: float
    table: pd.DataFrame
    beyond: pd.DataFrame | None
    points: pd.DataFrame
    left_out: int = 0
    lost: int = 0
    units: Mapping[str, str] = field(default_factory=dict)


def vpc(
    fit: Fit,
    outcome: str | None = None,
    *,
    simulations: int = 500,
    seed: int = 0,
    bins: Bins = None,
    against: str = "time",
    stratify: Strata = None,
    percentiles: Sequence[float] = (0.05, 0.5, 0.95),
    level: float = 0.9,
) -> VisualPredictiveCheck:
    """Compare percentiles of the data with those of simulated data sets.

    Scores, yes or no, and counts of ten values at most are shown by the proportion of each; times of events by
    Kaplan-Meier curves, of the first event where there are several.

    Args:
        fit: A fit.
        outcome: Name of the outcome; the only one if None.
        simulations: Number of simulated data sets.
        seed: Of the simulations.
        bins: How many, or their edges; None: automatic, see :func:`time_bins`.
        against: ``"time"``, ``"time after dose"``, or a column of the user's table.
        stratify: Columns of the user's table, or ``"dose"``: every combination is a panel of its own. A covariate with
            more than five values is cut at its median.
        percentiles: Between 0 and 1.
        level: Of the intervals around the simulated percentiles.

    Returns:
        The check; a censored observation lies below every limit, and a percentile among the censored is NaN.

    Raises:
        DataError: The outcome or a column is unknown.
        ModelError: The outcome cannot be drawn.

    Example:
        >>> import nlme_torch as nlme
        >>> model, data = nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline()
        >>> short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=5, smoothing=5))
        >>> fit = nlme.fit(model, data, short, progress=False)
        >>> check = nlme.diagnostics.vpc(fit, simulations=100, bins=6)
        >>> check.kind, len(check.table)
        ('percentiles', 18)
    """
    name = chosen_outcome(fit, outcome)
    _check(simulations, percentiles, level)
    if is_event(outcome_kinds(fit.density)[name]):
        table, points, lost = survival_check(fit, name, simulations, seed, stratify, level)
        return VisualPredictiveCheck(
            name, "survival", "time", False, simulations, level, table, None, points, lost=lost, units=fit.data.units
        )
    return _binned(fit, name, simulations, seed, bins, against, stratify, percentiles, level, None)


def prediction_corrected_vpc(
    fit: Fit,
    outcome: str | None = None,
    *,
    simulations: int = 500,
    seed: int = 0,
    bins: Bins = None,
    against: str = "time",
    stratify: Strata = None,
    percentiles: Sequence[float] = (0.05, 0.5, 0.95),
    level: float = 0.9,
    lower_bound: float = 0.0,
) -> VisualPredictiveCheck:
    """Compare percentiles of prediction-corrected data and simulations; see :func:`vpc`.

    Args:
        fit: A fit.
        outcome: Name of a continuous outcome; the only one if None.
        simulations: Number of simulated data sets.
        seed: Of the simulations.
        bins: How many, or their edges; None: automatic.
        against: As in :func:`vpc`.
        stratify: As in :func:`vpc`.
        percentiles: Between 0 and 1.
        level: Of the intervals around the simulated percentiles.
        lower_bound: Of the outcome [its unit]; observations whose prediction does not lie above are left out.

    Returns:
        The check, its points corrected.

    Raises:
        DataError: The outcome or a column is unknown, or the outcome is no measurement.
    """
    name = chosen_outcome(fit, outcome)
    _check(simulations, percentiles, level)
    kind = outcome_kinds(fit.density)[name]
    if is_event(kind) or is_discrete(kind):
        raise DataError(f"outcome {name!r} is no measurement, and a prediction corrects measurements alone; use vpc.")
    return _binned(fit, name, simulations, seed, bins, against, stratify, percentiles, level, lower_bound)


def chosen_outcome(fit: Fit, outcome: str | None) -> str:
    """Return the outcome that was named, or the only one.

    Raises:
        DataError: It is unknown, or must be named.
    """
    check_fit("vpc", fit)
    names = fit.data.outputs
    if outcome is None and len(names) > 1:
        raise DataError(f"the data have several outcomes, {', '.join(names)}; say which with outcome=.")
    if outcome is not None and outcome not in names:
        raise DataError(f"there is no outcome {outcome!r}; the data have {', '.join(names)}.")
    return outcome or names[0]


def _check(simulations: int, percentiles: Sequence[float], level: float) -> None:
    check_values("vpc", DataError, simulations=(simulations, int))
    check_level("vpc", DataError, level)
    if simulations < 2:
        raise DataError(f"vpc: simulations must be 2 or more, got {simulations}.")
    if not all(0 < value < 1 for value in percentiles):
        raise DataError(f"vpc: percentiles are probabilities, between 0 and 1, got {list(percentiles)!r:.60}.")


def _binned(
    fit: Fit,
    name: str,
    simulations: int,
    seed: int,
    bins: Bins,
    against: str,
    stratify: Strata,
    percentiles: Sequence[float],
    level: float,
    bound: float | None,
) -> VisualPredictiveCheck:
    found = simulated_observations(fit, name, simulations, seed, against, stratify)
    points = found.table
    edges = {str(key): time_bins(part["x"], bins) for key, part in points.groupby("stratum", sort=True)}
    points["bin"] = -1
    for key, own in edges.items():
        here = points["stratum"] == key
        points.loc[here, "bin"] = in_bins(points.loc[here, "x"], own)
    usable = points["bin"] >= 0
    if bound is not None:
        usable &= points["PRED"] > bound
    values = np.unique(points["DV"])
    discrete = is_discrete(outcome_kinds(fit.density)[name]) and len(values) <= CATEGORIES
    tables, beyond = [], []
    for _, part in points[usable].groupby(["stratum", "bin"], sort=True):
        stratum, number = str(part["stratum"].iloc[0]), int(part["bin"].iloc[0])
        index = part.index.to_numpy()
        simulated = found.simulated[index]
        own = edges[stratum]
        place = {
            "stratum": stratum, "bin": number, "left": own[number], "right": own[number + 1],
            "x": part["x"].median(), "count": len(part),
        }  # fmt: skip
        if discrete:
            tables.append(_proportions(place, part["DV"].to_numpy(), simulated, values, level))
            continue
        low, high = simulated < part[["lower"]].to_numpy(), simulated > part[["upper"]].to_numpy()
        observed = part["DV"].to_numpy()
        if bound is not None:
            ratio = ((part["PRED"].median() - bound) / (part["PRED"] - bound)).to_numpy()
            observed = bound + (observed - bound) * ratio
            simulated = bound + (simulated - bound) * ratio[:, None]
            points.loc[index, "DV"] = observed
        code = part["CENS"].to_numpy()
        observed = np.select([code == 1, code == -1], [-BELOW, BELOW], observed)
        simulated = np.select([low, high], [-BELOW, BELOW], simulated)
        tables.append(_percentiles(place, observed, simulated, percentiles, level))
        for side, mark, outside in (("below", 1, low), ("above", -1, high)):
            share = _interval(outside.mean(0), level)
            beyond.append(pd.DataFrame({**place, "side": side, "observed": (code == mark).mean(), **share}, index=[0]))
    censored = pd.concat(beyond, ignore_index=True) if beyond else None
    if censored is not None:
        some = [side for side, mark in (("below", 1), ("above", -1)) if (points["CENS"] == mark).any()]
        censored = censored[censored["side"].isin(some)].reset_index(drop=True) if some else None
    kind: Kind = "categories" if discrete else "percentiles"
    shown = points.loc[usable, ["row", "id", "x", "DV", "CENS", "stratum", "bin"]].reset_index(drop=True)
    return VisualPredictiveCheck(
        name, kind, against, bound is not None, simulations, level, pd.concat(tables, ignore_index=True), censored,
        shown, int((~usable).sum()), found.lost, fit.data.units,
    )  # fmt: skip


def _percentiles(
    place: dict[str, Any],
    observed: NDArray[np.float64],
    simulated: Float[np.ndarray, "observation replicate"],
    percentiles: Sequence[float],
    level: float,
) -> pd.DataFrame:
    rows = []
    data, sims = np.quantile(observed, percentiles), np.quantile(simulated, percentiles, axis=0)
    for position, percentile in enumerate(percentiles):
        inside = {key: _within(value) for key, value in _interval(sims[position], level).items()}
        rows.append({**place, "percentile": percentile, "observed": _within(data[position]), **inside})
    return pd.DataFrame(rows)


def _within(value: float) -> float:
    """NaN for a percentile that lies beyond the limit of quantification, or between that and the values inside."""
    return float("nan") if abs(value) > 1e-50 * BELOW else float(value)


def _proportions(
    place: dict[str, Any],
    observed: NDArray[np.float64],
    simulated: Float[np.ndarray, "observation replicate"],
    values: NDArray[np.float64],
    level: float,
) -> pd.DataFrame:
    rows = []
    for value in values:
        share = _interval((simulated == value).mean(0), level)
        rows.append({**place, "category": value, "observed": (observed == value).mean(), **share})
    return pd.DataFrame(rows)


def _interval(values: NDArray[np.float64], level: float) -> dict[str, float]:
    low, middle, high = np.quantile(values, [0.5 - level / 2, 0.5, 0.5 + level / 2])
    return {"lower": float(low), "median": float(middle), "upper": float(high)}
