"""The tables of a fit, and the fit as text."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.raw_parameters import omega_matrix
from nlme_torch.model.declare.scalars import structural_scalars
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.parameters.individual_parameters import IndividualParameter
from nlme_torch.model.parameters.transforms import Log

if TYPE_CHECKING:
    from nlme_torch.inference.uncertainty.standard_errors import Uncertainty


LARGEST_EXPONENT = 709.0  # beyond, exp overflows


def parameter_table(model: Model, shrinkage: pd.Series) -> pd.DataFrame:
    """Return one row per structural parameter.

    Args:
        model: The model at its estimates.
        shrinkage: Eta-shrinkage by effect label.

    Returns:
        Columns estimate, fixed, bsv_cv_percent (``100 sqrt(exp(omega) - 1)`` for log-normal parameters, NaN for
        others),
        bsv_sd (standard deviation on the transformed scale), shrinkage_percent; indexed by parameter.
    """
    values = parameter_values(model)
    variances = variances_of(model)
    fixed = _fixed(model)
    rows = {}
    for name, value in structural_scalars(model, values).items():
        row: dict[str, Any] = {
            "estimate": float(value[0]),
            "fixed": name in fixed,
            "bsv_cv_percent": math.nan,
            "bsv_sd": math.nan,
            "shrinkage_percent": math.nan,
        }
        component = model.components.get(name)
        if isinstance(component, IndividualParameter):
            variance = variances[f"eta_{name}"]
            row["bsv_sd"] = math.sqrt(variance)
            row["shrinkage_percent"] = 100 * float(shrinkage[f"eta_{name}"])
            if isinstance(component.transform, Log):
                row["bsv_cv_percent"] = coefficient_of_variation(variance)
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def coefficient_of_variation(variance: float) -> float:
    r"""Return the CV of a log-normal quantity in per cent, ``100 sqrt(exp(variance) - 1)``; infinite beyond 1e155 %.

    Args:
        variance: Of the logarithm.

    Example:
        >>> round(coefficient_of_variation(0.09), 1), coefficient_of_variation(1e4)
        (30.7, inf)
    """
    if variance < LARGEST_EXPONENT:
        return 100 * math.sqrt(math.expm1(variance))
    return math.nan if math.isnan(variance) else math.inf


def error_columns(table: pd.DataFrame, uncertainty: "Uncertainty | None") -> pd.DataFrame:
    """Return a parameter table with se, rse_percent, lower and upper after the estimate, if they are known."""
    if uncertainty is None:
        return table
    known = uncertainty.table.drop(columns="estimate").reindex(table.index)
    return pd.concat([table[["estimate"]], known, table.drop(columns="estimate")], axis=1)


def _fixed(model: Model) -> set[str]:
    """Names of the structural parameters that are not estimated."""
    names = {name for name, component in model.components.items() if getattr(component, "fixed", False)}
    for name, component in model.components.items():
        if isinstance(component, IndividualParameter):
            kept = [(covariate, e) for covariate, e in component.effects.items() if not e.beta.requires_grad]
            names.update(f"{name}_{covariate}{suffix}" for covariate, effect in kept for suffix in effect.suffixes)
    return names


def omega_table(model: Model) -> pd.DataFrame:
    """Return the covariance matrix of all random effects, labelled."""
    labels = list(model.effect_labels)
    matrix = torch.zeros(len(labels), len(labels), dtype=torch.float64)
    for block in model.blocks:
        piece = torch.eye(block.size) if block.covariance is None else block.covariance.current()
        matrix[block.slice, block.slice] = piece.to(matrix)
    return pd.DataFrame(matrix.numpy(force=True), index=labels, columns=labels)


def effect_table(model: Model, subjects: Sequence[Any], effects: Tensor) -> pd.DataFrame:
    """Return random effects ``(effect, subject)`` as a table with one row per subject."""
    return pd.DataFrame(
        effects.mT.numpy(force=True), index=pd.Index(subjects, name="id"), columns=list(model.effect_labels)
    )


def variances_of(model: Model) -> dict[str, float]:
    """Return the variance of every random effect by its label."""
    variances: dict[str, float] = {}
    values = parameter_values(model)
    for block in model.blocks:
        if block.covariance is None:
            variances.update(dict.fromkeys(block.labels, 1.0))
        else:
            matrix = omega_matrix(block, values)[0]
            variances.update(zip(block.labels, matrix.diagonal().tolist(), strict=True))
    return variances
