"""Residuals set against what they should be."""

import numpy as np
import pandas as pd
from scipy import stats

from nlme_torch.errors import DataError
from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.method_arguments import check_fit


def residual_quantiles(fit: Fit, outcome: str | None = None, *, level: float = 0.95) -> pd.DataFrame:
    r"""Return the quantiles of individual weighted residuals beside those of a standard normal sample.

    The i-th of n ordered standard normal values has expected rank (i - 1/2) / n, and its distribution
    function value is Beta(i, n + 1 - i) distributed, which gives the pointwise envelope.

    Args:
        fit: A fit.
        outcome: Name of the outcome; all together if None.
        level: Coverage of the envelope at each point.

    Returns:
        Columns theoretical, IWRES, lower and upper, in increasing order, without unit.

    Raises:
        DataError: The outcome is unknown.

    Example:
        >>> import nlme_torch as nlme
        >>> model, data = nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline()
        >>> short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=5, smoothing=5))
        >>> fit = nlme.fit(model, data, short, progress=False)
        >>> len(nlme.diagnostics.residual_quantiles(fit))
        132
    """
    check_fit("residual_quantiles", fit)
    table = observed_rows(fit, outcome)
    residuals = np.sort(table["IWRES"].to_numpy())
    residuals = residuals[np.isfinite(residuals)]
    count = len(residuals)
    rank = np.arange(1, count + 1)
    tail = 0.5 * (1 - level)
    return pd.DataFrame(
        {
            "theoretical": stats.norm.ppf((rank - 0.5) / count),
            "IWRES": residuals,
            "lower": stats.norm.ppf(stats.beta.ppf(tail, rank, count + 1 - rank)),
            "upper": stats.norm.ppf(stats.beta.ppf(1 - tail, rank, count + 1 - rank)),
        }
    )


def observed_rows(fit: Fit, outcome: str | None = None) -> pd.DataFrame:
    """Return the rows of ``fit.predictions`` with an observation, of one outcome or of all.

    Raises:
        DataError: The outcome is unknown.
    """
    table = fit.predictions.dropna(subset="DV")
    if outcome is None:
        return table
    if outcome not in fit.data.outputs:
        raise DataError(f"there is no outcome {outcome!r}; the data have {', '.join(fit.data.outputs)}.")
    return table[table["outcome"] == outcome]


def known_outcomes(fit: Fit, table: pd.DataFrame, outcome: str | None = None) -> list[str]:
    """Return the continuous outcomes of ``fit.table()``, or the one that was asked for.

    Args:
        fit: A fit.
        table: Its table.
        outcome: Name of the outcome; all if None.

    Raises:
        DataError: The outcome is unknown, or no outcome has weighted residuals.
    """
    if outcome is not None and outcome not in fit.data.outputs:
        raise DataError(f"there is no outcome {outcome!r}; the data have {', '.join(fit.data.outputs)}.")
    absent = table.attrs["absent"].get("CWRES", {})
    names = [name for name in fit.data.outputs if name not in absent and outcome in (None, name)]
    if not names:
        reason = absent.get(outcome or fit.data.outputs[0], "")
        raise DataError(f"there are no weighted residuals to be seen: {reason}.")
    return names
