r"""How far the individual estimates have shrunk towards what is typical, and what subjects' means say of it.

.. math::
    \text{SD based} &: 1 - \frac{\operatorname{SD}(\hat\eta)}{\omega}, \quad
    1 - \sqrt{\textstyle\frac1n \sum \text{IWRES}^2} \\
    \text{variance based} &: 1 - \frac{\operatorname{var}(\hat\eta)}{\omega^2}, \quad
    1 - \textstyle\frac1n \sum \text{IWRES}^2 \\
    \text{of the conditional distributions} &: \frac{1}{n \omega^2} \sum_i \operatorname{var}(\eta_i \mid y_i)

References:
    Savic and Karlsson (2009), Importance of shrinkage in empirical Bayes estimates for diagnostics: problems and
    solutions. doi:10.1208/s12248-009-9133-0
    Bertrand, Comets, Laffont, Chenel and Mentré (2009), Pharmacogenetics and population pharmacokinetics: impact of the
    design on three tests using the SAEM algorithm. doi:10.1007/s10928-009-9124-x (shrinkage by variances)
"""

import numpy as np
import pandas as pd
from scipy import stats

from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.method_arguments import check_fit


def shrinkage_table(fit: Fit) -> pd.DataFrame:
    """Return the shrinkage of every random effect and of every outcome's residuals, and tests of the effects' means.

    Args:
        fit: A fit.

    Returns:
        One row per random effect and one per continuous outcome (``epsilon`` and its name): kind (``eta`` or
        ``epsilon``); count, of subjects with a mode or of observations; model_sd, in the model (1 for residuals); sd,
        of the modes (n - 1) or of IWRES about 0; shrinkage_sd and shrinkage_variance, fractions based on standard
        deviations and on variances; shrinkage_conditional, by the conditional variances; mean, ETABAR or the mean of
        IWRES; mean_se; mean_p_value, of Student's two-sided test that the mean is 0.

    Example:
        >>> import nlme_torch as nlme
        >>> model, data = nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline()
        >>> short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=5, smoothing=5))
        >>> fit = nlme.fit(model, data, short, progress=False)
        >>> list(nlme.diagnostics.shrinkage_table(fit).index)
        ['eta_ka', 'eta_cl', 'eta_v', 'epsilon conc']
    """
    check_fit("shrinkage_table", fit)
    rows = {}
    omega = np.sqrt(np.diag(fit.omega))
    conditional = fit.effects.covariances.diagonal(dim1=0, dim2=1).numpy(force=True)  # (subject, effect)
    for place, (name, sd) in enumerate(zip(fit.eta.columns, omega, strict=True)):
        modes = fit.eta[name].to_numpy()
        variance = conditional[:, place]
        known = np.isfinite(modes)
        row = _moments(modes[known], float(sd), 1)
        row["shrinkage_conditional"] = np.mean(variance[np.isfinite(variance)]) / sd**2 if len(variance) else np.nan
        rows[name] = {"kind": "eta", **row}
    table = fit.table(simulations=0)
    if "IWRES" in table:
        for outcome, part in table.groupby("OUTCOME", sort=False):
            residuals = part["IWRES"].dropna().to_numpy()
            if len(residuals):
                rows[f"epsilon {outcome}"] = {"kind": "epsilon", **_moments(residuals, 1.0, 0)}
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index.name = "what"
    return frame


def _moments(values: np.ndarray, model_sd: float, free: int) -> dict[str, float]:
    """Moments of modes about their mean (``free`` 1), or of residuals about zero (``free`` 0)."""
    count = len(values)
    nan = float("nan")
    if count < 2:
        return {"count": count, "model_sd": model_sd, "sd": nan, "shrinkage_sd": nan, "shrinkage_variance": nan}
    spread = float(values.std(ddof=1)) if free else float(np.sqrt(np.mean(values**2)))
    test = stats.ttest_1samp(values, 0.0) if np.ptp(values) > 0 else None
    return {
        "count": count,
        "model_sd": model_sd,
        "sd": spread,
        "shrinkage_sd": 1 - spread / model_sd if model_sd > 0 else nan,
        "shrinkage_variance": 1 - (spread / model_sd) ** 2 if model_sd > 0 else nan,
        "shrinkage_conditional": nan,
        "mean": float(values.mean()),
        "mean_se": float(values.std(ddof=1)) / np.sqrt(count),
        "mean_p_value": float(test.pvalue) if test is not None else nan,
    }
