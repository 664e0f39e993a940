"""Random effects beside the distribution that the model gives them, and beside the covariates."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nlme_torch.errors import ModelError
from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.method_arguments import check_fit


def effect_summary(fit: Fit, effects: Sequence[str] | None = None) -> pd.DataFrame:
    """Return each random effect's standard deviation in the model and among the subjects.

    Args:
        fit: A fit.
        effects: Labels such as ``eta_ka``; all if None.

    Returns:
        One row per effect, columns omega_sd (in the model), mode_mean, mode_sd (of the conditional modes, n -
        1), draw_mean, draw_sd (of draws from all conditional distributions: what should agree with 0 and
        omega_sd, without shrinkage) and shrinkage (a fraction, 1 - mode_sd / omega_sd); all on the
        transformed scale.

    Raises:
        ModelError: An effect is unknown.

    References:
        Lavielle and Ribba (2016), Enhanced method for diagnosing pharmacometric models: random sampling from
        conditional distributions. doi:10.1007/s11095-016-2020-3

    Example:
        >>> import nlme_torch as nlme
        >>> model, data = nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline()
        >>> short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=5, smoothing=5))
        >>> fit = nlme.fit(model, data, short, progress=False)
        >>> list(nlme.diagnostics.effect_summary(fit).index)
        ['eta_ka', 'eta_cl', 'eta_v']
    """
    check_fit("effect_summary", fit)
    labels = list(fit.model.effect_labels)
    draws = fit.effects.draws.flatten(1)
    table = pd.DataFrame(
        {
            "omega_sd": np.sqrt(np.diag(fit.omega)),
            "mode_mean": fit.eta.mean().to_numpy(),
            "mode_sd": fit.eta.std(ddof=1).to_numpy(),
            "draw_mean": draws.mean(1).numpy(force=True),
            "draw_sd": draws.std(1).numpy(force=True),
            "shrinkage": fit.shrinkage.to_numpy(),
        },
        index=pd.Index(labels, name="effect"),
    )
    return table if effects is None else table.loc[known_effects(fit, effects)]


def effect_draws(fit: Fit, effects: Sequence[str] | None = None) -> pd.DataFrame:
    """Return draws from the conditional distributions of all subjects.

    Args:
        fit: A fit.
        effects: Labels; all if None.

    Returns:
        One row per subject and draw: id, and one column per effect (transformed scale).

    Raises:
        ModelError: An effect is unknown.
    """
    check_fit("effect_draws", fit)
    draws = fit.effects.draws
    columns = dict(zip(fit.model.effect_labels, draws.mT.flatten(1).numpy(force=True), strict=True))
    table = pd.DataFrame({"id": np.repeat(np.asarray(fit.data.subjects, dtype=object), draws.shape[1]), **columns})
    return table if effects is None else table[["id", *known_effects(fit, effects)]]


def effect_covariates(
    fit: Fit, effects: Sequence[str] | None = None, covariates: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return conditional modes beside covariates, for every pair of an effect and a covariate.

    Args:
        fit: A fit.
        effects: Labels; all if None.
        covariates: Names; all constant ones if None.

    Returns:
        Columns effect, covariate, id, covariate_value (covariate's unit, or the level of a category), eta
        (conditional mode) and correlation (Pearson's, between the two, the same on all rows of a pair).

    Raises:
        ModelError: An effect or a covariate is unknown.
    """
    check_fit("effect_covariates", fit)
    frame = fit.data.covariates
    names = list(frame.columns) if covariates is None else list(covariates)
    for name in names:
        if name not in frame:
            raise ModelError(f"there is no covariate {name!r}; the data have {', '.join(frame.columns) or 'none'}.")
    tables = []
    for effect in known_effects(fit, effects):
        eta = fit.eta[effect].to_numpy()
        for name in names:
            value = frame[name].to_numpy(dtype=float)
            varied = np.ptp(value) > 0 and np.ptp(eta) > 0
            correlation = float(np.corrcoef(value, eta)[0, 1]) if varied else np.nan
            columns = {
                "id": list(fit.data.subjects),
                "covariate_value": value,
                "eta": eta,
                "correlation": correlation,
            }
            tables.append(pd.DataFrame({"effect": effect, "covariate": name, **columns}))
    empty = ["effect", "covariate", "id", "covariate_value", "eta", "correlation"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=empty)


def known_effects(fit: Fit, effects: Sequence[str] | None) -> list[str]:
    """Return the labels asked for, all if None.

    Raises:
        ModelError: An effect is unknown.
    """
    labels = fit.model.effect_labels
    for effect in effects or ():
        if effect not in labels:
            raise ModelError(f"there is no random effect {effect!r}; the model has {', '.join(labels)}.")
    return list(labels if effects is None else effects)
