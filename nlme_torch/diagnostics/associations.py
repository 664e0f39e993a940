r"""Tests of what random effects have in common with covariates, with each other, and with a normal distribution.

Conditional modes shrink, which hides associations and makes others; draws from the conditional distributions do not.
A test on draws is repeated for every set of draws, one per subject, and :math:`2 \operatorname{median}(p)`, at most 1,
is a p-value however much the sets have in common.

References:
    Lavielle and Ribba (2016), Enhanced method for diagnosing pharmacometric models: random sampling from conditional
    distributions. doi:10.1007/s11095-016-2020-3
    Rüschendorf (1982), Random variables with maximum sums. doi:10.2307/1426677 (the median of dependent p-values)
    Holm (1979), A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6, 65-70.
    Benjamini and Hochberg (1995), Controlling the false discovery rate. doi:10.1111/j.2517-6161.1995.tb02031.x
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from nlme_torch.diagnostics.effects import known_effects
from nlme_torch.errors import ModelError
from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.method_arguments import check_fit

SETS = 100
"""Sets of draws that are tested; more move the median p-value by less than its last digit worth reading."""

Found = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Statistic and p-value of every set, ``(set,)``."""

Test = Callable[[NDArray[np.float64]], Found]
"""Effects ``(subject, set)`` to what is found."""


def covariate_associations(
    fit: Fit, effects: Sequence[str] | None = None, covariates: Sequence[str] | None = None
) -> pd.DataFrame:
    """Test every random effect against every covariate that is constant within subjects.

    Numbers by Pearson's correlation, categories (text, or two values) by the analysis of variance.

    Args:
        fit: A fit.
        effects: Labels; all if None.
        covariates: Names; all constant ones if None.

    Returns:
        One row per pair: effect, covariate, test (``correlation`` or ``anova``), statistic (r or F) and p_value of the
        conditional modes; draws_statistic (median) and draws_p_value of conditional draws; p_holm and q_value, the
        latter p-value after Holm's and Benjamini and Hochberg's corrections for all pairs of the table; sorted by
        draws_p_value.

    Raises:
        ModelError: An effect or a covariate is unknown.

    Example:
        >>> import nlme_torch as nlme
        >>> model, data = nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline()
        >>> short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=5, smoothing=5))
        >>> fit = nlme.fit(model, data, short, progress=False)
        >>> len(nlme.diagnostics.covariate_associations(fit))
        6
    """
    check_fit("covariate_associations", fit)
    frame, categories = fit.data.covariates, fit.data.categories
    names = list(frame.columns) if covariates is None else list(covariates)
    for name in names:
        if name not in frame:
            raise ModelError(f"there is no covariate {name!r}; the data have {', '.join(frame.columns) or 'none'}.")
    rows = []
    for effect in known_effects(fit, effects):
        modes, draws = fit.eta[effect].to_numpy(), _sets(fit, effect)
        for name in names:
            value = frame[name].to_numpy(dtype=float)
            distinct = np.unique(value)
            if len(distinct) < 2:
                continue
            grouped = name in categories or len(distinct) == 2
            test = _anova(value) if grouped else _correlation(value)
            rows.append(
                {"effect": effect, "covariate": name, "test": "anova" if grouped else "correlation"}
                | _both(test, modes, draws)
            )
    columns = ["effect", "covariate", "test", "statistic", "p_value", "draws_statistic", "draws_p_value"]
    return _adjusted(pd.DataFrame(rows, columns=columns))


def effect_associations(fit: Fit, effects: Sequence[str] | None = None) -> pd.DataFrame:
    """Test every pair of random effects for a correlation that the model does not have.

    The draws are tested after the model's own correlation has been taken out (by the Cholesky factor of the pair).

    Args:
        fit: A fit.
        effects: Labels; all if None.

    Returns:
        One row per pair: effect, other, model (correlation in Omega), statistic (of the modes) and p_value (that it is
        0), draws_statistic (median correlation of draws), draws_p_value (that it is the model's), p_holm and q_value.

    Raises:
        ModelError: An effect is unknown.
    """
    check_fit("effect_associations", fit)
    chosen, omega = known_effects(fit, effects), fit.omega
    rows = []
    for position, effect in enumerate(chosen):
        for other in chosen[:position]:
            modes = np.stack([fit.eta[other].to_numpy(), fit.eta[effect].to_numpy()])
            draws = np.stack([_sets(fit, other), _sets(fit, effect)])
            covariance = omega.loc[[other, effect], [other, effect]].to_numpy()
            if not (np.diag(covariance) > 0).all() or np.linalg.det(covariance) <= 0:
                continue
            whitened = np.einsum("ij,jns->ins", np.linalg.inv(np.linalg.cholesky(covariance)), draws)
            (statistic,), (p_value,) = correlations(modes[0][:, None], modes[1][:, None])
            rows.append(
                {
                    "effect": effect,
                    "other": other,
                    "model": covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]),
                    "statistic": statistic,
                    "p_value": p_value,
                    "draws_statistic": float(np.nanmedian(correlations(*draws)[0])),
                    "draws_p_value": combined(correlations(*whitened)[1]),
                }
            )
    columns = ["effect", "other", "model", "statistic", "p_value", "draws_statistic", "draws_p_value"]
    return _adjusted(pd.DataFrame(rows, columns=columns))


def normality_tests(fit: Fit, *, simulations: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Test random effects and residuals for a normal distribution, and for the one that the model gives them.

    Args:
        fit: A fit.
        simulations: For NPDE.
        seed: Of the simulations.

    Returns:
        One row per random effect (modes and conditional draws), and per outcome and kind of residual (IWRES, CWRES,
        NPDE, NPD): count, mean, sd, skewness, excess_kurtosis, shapiro_p_value (Shapiro and Wilk: normal with any mean
        and spread) and ks_p_value (Kolmogorov and Smirnov: the model's own, N(0, omega) or N(0, 1)). Modes have
        shrunk, so that the latter is of draws and residuals alone. Draws of one subject depend on its data, and IWRES
        on what was fitted, so that small p-values are reasons to look and no proof.
    """
    check_fit("normality_tests", fit)
    rows = []
    omega = np.sqrt(np.diag(fit.omega))
    for effect, sd in zip(fit.eta.columns, omega, strict=True):
        modes = fit.eta[effect].to_numpy()
        rows.append({"what": effect, "kind": "modes", **_shape(modes[np.isfinite(modes)])})
        draws = _sets(fit, effect)
        each = [_shape(one) for one in draws.T]
        row = {key: float(np.median([entry[key] for entry in each])) for key in each[0]}
        row["shapiro_p_value"] = combined([entry["shapiro_p_value"] for entry in each])
        if sd > 0:
            row["ks_p_value"] = combined([stats.kstest(one / sd, "norm").pvalue for one in draws.T])
        rows.append({"what": effect, "kind": "draws", **row})
    table = fit.table(simulations=simulations, seed=seed)
    for outcome, part in table.groupby("OUTCOME", sort=False):
        for kind in ("IWRES", "CWRES", "NPDE", "NPD"):
            values = part[kind].dropna().to_numpy() if kind in part else np.empty(0)
            if len(values):
                ks = {"ks_p_value": float(stats.kstest(values, "norm").pvalue)}
                rows.append({"what": str(outcome), "kind": kind, **_shape(values), **ks})
    return pd.DataFrame(rows)


def combined(p_values: ArrayLike) -> float:
    """Return twice the median of p-values, at most 1: a p-value whatever they have in common."""
    values = np.asarray(p_values, dtype=float)
    values = values[np.isfinite(values)]
    return min(1.0, 2 * float(np.median(values))) if len(values) else float("nan")


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return p-values after Holm's correction: the chance of any false rejection stays below the level."""
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values)
    factors = len(values) - np.arange(len(values))
    result = np.empty_like(values)
    result[order] = np.minimum(np.maximum.accumulate(factors * values[order]), 1.0)
    return result


def _adjusted(table: pd.DataFrame) -> pd.DataFrame:
    known = table["draws_p_value"].notna()
    p_values = table.loc[known, "draws_p_value"].to_numpy(dtype=float)
    table = table.assign(p_holm=np.nan, q_value=np.nan)
    if len(p_values):
        table.loc[known, "p_holm"] = holm(p_values)
        table.loc[known, "q_value"] = stats.false_discovery_control(p_values)
    return table.sort_values("draws_p_value", kind="stable").reset_index(drop=True)


def _sets(fit: Fit, effect: str) -> NDArray[np.float64]:
    """Sets of conditional draws of one effect, ``(subject, set)``."""
    draws = fit.effects.draws[fit.model.effect_labels.index(effect)].numpy(force=True)
    places = np.unique(np.linspace(0, len(draws) - 1, min(SETS, len(draws))).round().astype(int))
    return draws[places].T


def _both(test: Test, modes: NDArray[np.float64], draws: NDArray[np.float64]) -> dict[str, float]:
    (statistic,), (p_value,) = test(modes[:, None])
    known: NDArray[np.bool_] = np.all(np.isfinite(draws), axis=1)
    statistics, p_values = test(np.where(known[:, None], draws, np.nan))
    return {
        "statistic": float(statistic),
        "p_value": float(p_value),
        "draws_statistic": float(np.nanmedian(statistics)) if np.isfinite(statistics).any() else np.nan,
        "draws_p_value": combined(p_values),
    }


def correlations(first: NDArray[np.float64], second: NDArray[np.float64]) -> Found:
    """Return Pearson's correlation of every pair of columns and Student's p-value, ``(set,)``.

    Args:
        first: ``(subject, set)``, or one column for all.
        second: ``(subject, set)``; rows that are not finite in either are left out.
    """
    first, second = np.broadcast_arrays(first, second)
    known: NDArray[np.bool_] = np.all(np.isfinite(first) & np.isfinite(second), axis=1)
    first, second = (part[known] - part[known].mean(0) for part in (first, second))
    count, nothing = len(first), np.full(first.shape[1], np.nan)
    scale = np.sqrt((first**2).sum(0) * (second**2).sum(0))
    if count < 3:
        return nothing, nothing
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.where(scale > 0, ((first * second).sum(0) / scale).clip(-1, 1), np.nan)
        statistic = r * np.sqrt((count - 2) / (1 - r**2))
    return r, 2 * stats.t.sf(np.abs(statistic), count - 2)


def _correlation(value: NDArray[np.float64]) -> Test:
    return lambda effects: correlations(value[:, None], effects)


def _anova(value: NDArray[np.float64]) -> Test:
    def test(effects: NDArray[np.float64]) -> Found:
        known: NDArray[np.bool_] = np.all(np.isfinite(effects), axis=1)
        effects, levels = effects[known], value[known]
        groups = [effects[levels == level] for level in np.unique(levels)]
        between, within = len(groups) - 1, len(effects) - len(groups)
        nothing = np.full(effects.shape[1], np.nan)
        if between < 1 or within < 1:
            return nothing, nothing
        middle = effects.mean(0)
        explained = sum(len(group) * (group.mean(0) - middle) ** 2 for group in groups)
        left = sum(((group - group.mean(0)) ** 2).sum(0) for group in groups)
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = (explained / between) / (left / within)
        return statistic, stats.f.sf(statistic, between, within)

    return test


def _shape(values: NDArray[np.float64]) -> dict[str, float]:
    enough = len(values) >= 3 and np.ptp(values) > 0
    # beyond 5000 values Shapiro and Wilk's p-value is not known
    some = values if len(values) <= 5000 else values[np.linspace(0, len(values) - 1, 5000).round().astype(int)]
    return {
        "count": len(values),
        "mean": float(np.mean(values)) if len(values) else np.nan,
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else np.nan,
        "skewness": float(stats.skew(values)) if enough else np.nan,
        "excess_kurtosis": float(stats.kurtosis(values)) if enough else np.nan,
        "shapiro_p_value": float(stats.shapiro(some).pvalue) if enough else np.nan,
        "ks_p_value": np.nan,
    }
