"""Observations and subjects that a model does not expect, by the row of the user's table."""

import numpy as np
import pandas as pd
from scipy import stats

from nlme_torch.errors import DataError
from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.method_arguments import check_fit


def outlying_observations(fit: Fit, *, level: float = 0.05, simulations: int = 1000, seed: int = 0) -> pd.DataFrame:
    r"""Return the observations whose residuals are larger than the largest of so many normal ones.

    The bound is Bonferroni's: with n residuals, :math:`|r| > \Phi^{-1}(1 - \alpha / 2n)` happens to any of them with
    a probability of alpha at most.

    Args:
        fit: A fit.
        level: alpha, of each kind of residual and outcome.
        simulations: For NPDE; with n observations at most 2 / n of them can be told apart, so that NPDE reaches the
            bound only if there are more simulations than 2 n / alpha.
        seed: Of the simulations.

    Returns:
        One row per observation and kind of residual beyond the bound: row (0-based position in the user's table), ID,
        TIME, OUTCOME, DV, IPRED, kind (IWRES, CWRES, NPDE, PEARSON, DEVIANCE), residual, bound, p_value (times n, at
        most 1); the largest first.

    Raises:
        DataError: The level is no probability.
    """
    check_fit("outlying_observations", fit)
    if not 0 < level < 1:
        raise DataError(f"level must be a probability, got {level}.")
    table = fit.table(simulations=simulations, seed=seed)
    found = []
    for _, part in table.groupby("OUTCOME", sort=False):
        for kind in ("IWRES", "CWRES", "NPDE", "PEARSON", "DEVIANCE"):
            if kind not in part or part[kind].isna().all():
                continue
            count = int(part[kind].notna().sum())
            bound = float(stats.norm.isf(level / 2 / count))
            own = part[part[kind].abs() > bound]
            columns = ["row", "ID", "TIME", "OUTCOME", "DV", "IPRED"]
            p_value = np.minimum(2 * stats.norm.sf(own[kind].abs()) * count, 1.0)
            found.append(own[columns].assign(kind=kind, residual=own[kind], bound=bound, p_value=p_value))
    if not found:
        return pd.DataFrame(columns=["row", "ID", "TIME", "OUTCOME", "DV", "IPRED", "kind", "residual"])
    result = pd.concat(found, ignore_index=True)
    result.attrs = {}
    return result.sort_values("p_value", kind="stable").reset_index(drop=True)


def outlying_subjects(fit: Fit, *, level: float = 0.05) -> pd.DataFrame:
    r"""Return how far every subject lies from the population.

    .. math:: d_i = \hat\eta_i^\top \Omega^{-1} \hat\eta_i

    As modes shrink, d is at most chi-squared distributed; the mean over conditional draws is about that.

    Args:
        fit: A fit.
        level: Of any subject lying beyond the bound.

    Returns:
        One row per subject, indexed by id, the farthest first: distance (of the mode), draws_distance (mean over
        conditional draws), p_value of ``distance`` (chi-squared, as many degrees of freedom as effects), bound
        (Bonferroni's) and outlying; NaN without a mode.
    """
    check_fit("outlying_subjects", fit)
    effects, omega = fit.eta.to_numpy(), fit.omega.to_numpy()
    varied = np.diag(omega) > 0
    inverse = np.linalg.pinv(omega[np.ix_(varied, varied)])
    distance = np.einsum("ni,ij,nj->n", effects[:, varied], inverse, effects[:, varied])
    draws = fit.effects.draws.numpy(force=True)[varied]
    spread = np.einsum("icn,ij,jcn->cn", draws, inverse, draws).mean(0)
    degrees = int(varied.sum())
    bound = float(stats.chi2.isf(level / max(len(distance), 1), degrees)) if degrees else np.nan
    table = pd.DataFrame(
        {
            "distance": distance,
            "draws_distance": spread,
            "p_value": stats.chi2.sf(distance, degrees) if degrees else np.nan,
            "bound": bound,
            "outlying": distance > bound,
        },
        index=pd.Index(fit.data.subjects, name="id"),
    )
    return table.sort_values("distance", ascending=False, kind="stable")
