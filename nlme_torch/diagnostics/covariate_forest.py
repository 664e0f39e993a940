r"""How much a covariate changes a typical parameter: the ratio to a reference subject, with its confidence interval.

.. math:: \rho = \frac{h(\theta, 0, c)}{h(\theta, 0, c_{ref})}, \qquad \theta \sim N(\hat\theta, C)

h is whatever the model makes of parameters and covariates, declared effects and the user's ``individual`` alike; one
covariate is moved at a time, the others stand at their medians or commonest levels.

References:
    Menon-Andersen, Yu, Madabushi et al. (2011), Essential pharmacokinetic information for drug dosage decisions: a
    concise visual presentation in the drug label. doi:10.1038/clpt.2011.145
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nlme_torch.errors import ModelError
from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.estimates.method_arguments import check_fit
from nlme_torch.inference.information.observed import Information, invert
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.model.individual.individual import is_changing


def covariate_forest(
    fit: Fit,
    parameters: Sequence[str] | None = None,
    covariates: Sequence[str] | None = None,
    *,
    percentiles: tuple[float, float] = (0.05, 0.95),
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the ratio of typical parameters to those of a reference subject, at other values of each covariate.

    Args:
        fit: A fit; with standard errors (:meth:`nlme_torch.Fit.with_standard_errors`) the ratios have limits.
        parameters: Names of individual parameters or of what the model's ``individual`` returns; all that any covariate
            changes if None.
        covariates: Names; all if None.
        percentiles: Of the subjects' values, at which a number is tried; values that a subject has.
        level: Of the confidence limits.
        draws: Parameter vectors drawn for the limits.
        seed: Of the draws.

    Returns:
        One row per parameter, covariate and value: parameter, covariate, value (covariate's unit, or the level), text,
        reference, ratio, lower, upper (NaN without standard errors). What no covariate changes is left out.

    Raises:
        ModelError: A parameter or a covariate is unknown, or no covariate changes any parameter.
    """
    check_fit("covariate_forest", fit)
    frame, categories = fit.data.covariates, fit.data.categories
    names = list(frame.columns) if covariates is None else list(covariates)
    for name in names:
        if name not in frame:
            raise ModelError(f"there is no covariate {name!r}; the data have {', '.join(frame.columns) or 'none'}.")
    reference = {
        str(name): float(
            frame[name].mode().iloc[0] if _grouped(frame[name], name in categories) else frame[name].median()
        )
        for name in map(str, frame)
    }
    tried = [
        (name, float(value))
        for name in names
        for value in _values(frame[name], name in categories, percentiles)
        if float(value) != reference[name]
    ]
    density = _density(fit, reference, tried)
    values = _parameters(fit, density, None)
    spread = _parameters(fit, density, _vectors(fit, draws, seed)) if fit.uncertainty is not None else {}
    wanted = list(values) if parameters is None else list(parameters)
    rows = []
    for parameter in wanted:
        if parameter not in values:
            raise ModelError(f"there is no parameter {parameter!r} of subjects; there are {', '.join(values)}.")
        ratio = values[parameter][0, 1:] / values[parameter][0, :1]
        for place, (name, value) in enumerate(tried):
            if not np.isfinite(ratio[place]) or abs(ratio[place] - 1) < 1e-12:
                continue
            limits = np.full(2, np.nan)
            if parameter in spread:
                each = spread[parameter][:, 1 + place] / spread[parameter][:, 0]
                limits = np.nanquantile(each, [0.5 - level / 2, 0.5 + level / 2])
            shown = categories[name][int(value)] if name in categories else f"{value:.4g}"
            base = reference[name]
            at = categories[name][int(base)] if name in categories else f"{base:.4g}"
            rows.append(
                {
                    "parameter": parameter, "covariate": name, "value": value, "text": f"{name} {shown}",
                    "reference": at, "ratio": ratio[place], "lower": limits[0], "upper": limits[1],
                }
            )  # fmt: skip
    if not rows:
        raise ModelError("no covariate changes a parameter of this model.")
    return pd.DataFrame(rows)


def _grouped(values: pd.Series, text: bool) -> bool:
    return text or values.nunique() <= 2


def _values(values: pd.Series, text: bool, percentiles: tuple[float, float]) -> np.ndarray:
    distinct = np.unique(values.to_numpy(dtype=float))
    return distinct if _grouped(values, text) else np.unique(np.quantile(values, percentiles, method="nearest"))


def _density(fit: Fit, reference: dict[str, float], tried: Sequence[tuple[str, float]]) -> Density:
    """Copies of the first subject: the reference, and one for every value of a covariate."""
    batch = fit.density.batch.select([0] * (1 + len(tried)))
    covariates = {}
    for name, old in batch.covariates.items():
        column = torch.tensor(
            [reference[name]] + [value if other == name else reference[name] for other, value in tried]
        )
        covariates[name] = column.to(old).expand(old.shape).clone()
    return Density(fit.model, replace(batch, covariates=covariates), fit.solver)


def _vectors(fit: Fit, draws: int, seed: int) -> Tensor:
    """Parameter vectors from the normal distribution that the standard errors describe, estimation scale."""
    assert fit.uncertainty is not None
    scalars, errors = FreeScalars(fit.model, parameter_values(fit.model)), fit.uncertainty
    information = Information(errors.hessian, errors.scores, fit.data.n_subjects)
    covariance = invert(information, errors.kind, scalars.labels).covariance
    noise = torch.randn(draws, len(covariance), generator=torch.Generator().manual_seed(seed), dtype=covariance.dtype)
    values, vectors = torch.linalg.eigh(covariance.nan_to_num(0.0))
    root = vectors * values.clamp_min(0.0).sqrt()
    return scalars.vector + noise.to(covariance.device) @ root.mT


def _parameters(fit: Fit, density: Density, vectors: Tensor | None) -> dict[str, np.ndarray]:
    """Name to typical values, ``(vector, subject)``."""
    scalars_at = None
    if vectors is not None:
        scalars_at = FreeScalars(fit.model, parameter_values(fit.model)).at(vectors)
        count = len(vectors)
        scalars_at = {name: value.expand(count, *value.shape[1:]) for name, value in scalars_at.items()}
    conditional = density.at(scalars_at)
    subjects = density.batch.n_subjects
    with torch.no_grad():
        zero = conditional.mean.new_zeros(fit.model.n_effects, 1, conditional.starts, subjects)
        individual = conditional.individual(zero)
    found = {}
    for name, value in vars(individual).items():
        if isinstance(value, Tensor) and value.is_floating_point():
            first = value[0] if is_changing(value) else value
            found[name] = first.expand(1, conditional.starts, subjects)[0].numpy(force=True)
    return found
