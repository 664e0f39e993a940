r"""Standard errors of a fit by an approximate likelihood: the Hessian, the scores, and the sandwich of both.

.. math:: R = \tfrac12 \nabla^2 O, \qquad S = \tfrac14 \sum_i \nabla O_i \nabla O_i^\top, \qquad
          \operatorname{cov} = R^{-1} S R^{-1} \;\text{or}\; R^{-1} \;\text{or}\; S^{-1}

with O the -2 log-likelihood (R with priors: of the penalised objective). R comes from central differences of exact
gradients, S from exact gradients of single subjects. Both stand on the estimation scale; standard errors on the natural
scale follow by the delta method, confidence limits by mapping those of the estimation scale, so that they respect
bounds.

References:
    White (1982), Maximum likelihood estimation of misspecified models. doi:10.2307/1912526
    Beal and Sheiner, NONMEM Users Guides, Part II, section D.2.5 (the three covariance estimators).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.errors import FitError
from nlme_torch.inference.approximation import Approximation
from nlme_torch.inference.marginal_methods import FOCEI, MarginalMethod
from nlme_torch.inference.marginal_objective import MarginalObjective, expand, parameter_labels, subject_gradients
from nlme_torch.model.networks import Network
from nlme_torch.model.random_weights import RandomWeights
from nlme_torch.model.scalars import omega_scalars, structural_scalars
from nlme_torch.model.values import parameter_values, unflatten_values

if TYPE_CHECKING:
    from nlme_torch.inference.result import Fit

Kind = Literal["sandwich", "R", "S"]


@dataclass(frozen=True)
class Uncertainty:
    """Standard errors, correlations and what could not be identified; it prints as a table.

    Attributes:
        method: Name of the approximation of the likelihood.
        kind: ``sandwich`` (R⁻¹SR⁻¹), ``R`` (R⁻¹) or ``S`` (S⁻¹).
        table: One row per estimated scalar, natural scale: estimate, se, rse_percent, lower, upper confidence limit.
        covariance: Of the estimates on the natural scale, labelled.
        hessian: R on the estimation scale, ``(parameter, parameter)``.
        scores: Outer products of the subjects' scores S, ``(parameter, parameter)``.
        level: Of the confidence limits.
        condition_number: Largest over smallest eigenvalue of the correlation matrix.
        warnings: Directions that the data do not identify, named by parameters.
    """

    method: str
    kind: Kind
    table: pd.DataFrame
    covariance: pd.DataFrame
    hessian: Float[Tensor, "parameter parameter"]
    scores: Float[Tensor, "parameter parameter"]
    level: float
    condition_number: float
    warnings: tuple[str, ...]

    @property
    def correlation(self) -> pd.DataFrame:
        """Correlation matrix of the estimates."""
        deviations = np.sqrt(np.diag(self.covariance))
        return self.covariance.div(deviations, axis=0).div(deviations, axis=1)

    def __str__(self) -> str:
        formula = {"sandwich": "R⁻¹SR⁻¹", "R": "R⁻¹", "S": "S⁻¹"}[self.kind]
        lines = [
            f"standard errors by {formula} of {self.method}, condition number {self.condition_number:.3g}",
            self.table.to_string(float_format=lambda value: f"{value:.5g}"),
            *(f"warning: {message}" for message in self.warnings),
        ]
        return "\n".join(lines)

    __repr__ = __str__


def standard_errors(
    fit: "Fit",
    method: MarginalMethod | None = None,
    *,
    kind: Kind = "sandwich",
    level: float = 0.95,
    step: float = 1e-3,
) -> Uncertainty:
    """Return standard errors of a fit's estimates.

    Network weights are held: their permutations leave the likelihood unchanged, so no standard error has a meaning.

    Args:
        fit: The fit; meaningful where its estimates maximise the likelihood of ``method``.
        method: The approximation of the likelihood; None takes ``FOCEI()``.
        kind: ``sandwich`` is robust, ``R`` assumes the model, ``S`` does and needs many subjects.
        level: Of the confidence limits.
        step: Of the differences on the estimation scale.

    Returns:
        Table, covariance matrix, condition number and warnings.

    Raises:
        FitError: Nothing was estimated, or the objective has no value near the estimates.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
        >>> errors = nlme.standard_errors(fit, kind="R")
        >>> round(float(errors.table.loc["cl", "rse_percent"]))
        8
    """
    chosen = method or FOCEI()
    approximation = chosen.approximation(fit.density)
    objective = MarginalObjective(approximation, parameter_values(fit.model), chosen.searches(fit.density))
    kept = _kept(approximation)
    if not kept:
        raise FitError("no parameter with a standard error was estimated: everything is fixed or a network weight.")
    hessian = _hessian(objective, kept, step)
    values = objective.at(objective.initial)
    each = subject_gradients(approximation, values, objective.centre)[:, kept]
    scores = 0.25 * each.mT @ each
    natural, names = _natural(approximation, objective, kept)
    estimates, jacobian = natural(objective.initial[kept]), torch.func.jacrev(natural)(objective.initial[kept])
    labels = parameter_labels(approximation)
    raw_names = [labels[position] for position in kept]
    covariance, condition, warnings = _invert(hessian, scores, kind, raw_names, len(each))
    on_natural = jacobian @ covariance @ jacobian.mT
    frame = pd.DataFrame(on_natural.numpy(force=True), index=names, columns=names)
    table = _table(names, estimates, on_natural, _log_scale(names, fit), level)
    return Uncertainty(chosen.name, kind, table, frame, hessian, scores, level, condition, warnings)


def _kept(approximation: Approximation) -> list[int]:
    """Positions of the free parameters that are no network weights."""
    weights = set()
    for name, component in approximation.density.model.components.items():
        if isinstance(component, Network):
            weights.add(f"{name}.weights")
        elif isinstance(component, RandomWeights):
            weights.update({f"{name}.network.weights", f"{name}.loading"})
    kept: list[int] = []
    position = 0
    for name in approximation.names:
        count = approximation.density.model.get_parameter(name).numel()
        if name not in weights:
            kept += range(position, position + count)
        position += count
    return kept


def _hessian(objective: MarginalObjective, kept: list[int], step: float) -> Tensor:
    """R by fourth-order central differences of exact gradients, all on the start axis."""
    centre = objective.initial
    shifts = torch.zeros(len(kept), len(centre), dtype=centre.dtype, device=centre.device)
    shifts[range(len(kept)), kept] = step
    approximation, columns = objective.approximation, []
    for shift in shifts.split(max(1, 1000 // approximation.density.batch.n_subjects)):
        several = torch.cat([centre + factor * shift for factor in (1, -1, 2, -2)])
        values = unflatten_values(several, objective.values, approximation.names)
        starts = objective.centre.expand(-1, len(several), -1).contiguous()
        found = expand(approximation, values, starts, gradient=True)
        gradient = found.evaluation.gradient
        if gradient is None or not found.finite:
            raise FitError("the objective has no value near the estimates, so standard errors cannot be computed.")
        free = several.detach().requires_grad_()
        with torch.enable_grad():
            prior = approximation.density.log_prior(unflatten_values(free, objective.values, approximation.names))
            if prior.requires_grad:
                gradient = gradient - 2 * torch.autograd.grad(prior.sum(), free)[0]
        ahead, behind, far_ahead, far_behind = gradient.reshape(4, len(shift), -1)
        columns.append((8 * (ahead - behind) - (far_ahead - far_behind)) / (12 * step))
    matrix = 0.5 * torch.cat(columns)[:, kept]
    return 0.5 * (matrix + matrix.mT)


def _invert(
    hessian: Tensor, scores: Tensor, kind: Kind, names: list[str], subjects: int
) -> tuple[Tensor, float, tuple[str, ...]]:
    """The covariance matrix on the estimation scale, its condition number, and the directions that are missing."""
    warnings: list[str] = []

    def inverse(matrix: Tensor, what: str) -> Tensor:
        scale = matrix.diagonal().abs().sqrt().clamp_min(1e-150)
        eigenvalues, vectors = torch.linalg.eigh(matrix / scale[:, None] / scale)
        null = eigenvalues < 1e-9
        for index in null.nonzero()[:, 0].tolist():
            direction = vectors[:, index] / scale
            share = direction / direction.abs().max()
            parts = [f"{float(value):+.2g} {names[place]}" for place, value in enumerate(share) if abs(value) > 0.05]
            warnings.append(
                f"{what} is singular: the data do not identify the direction {' '.join(parts)} (estimation scale); fix "
                "one of these parameters or simplify the model"
            )
        scaled = torch.where(null, torch.nan, 1 / eigenvalues)
        if bool(null.any()):
            return torch.full_like(matrix, torch.nan)
        return (vectors * scaled) @ vectors.mT / scale[:, None] / scale

    if kind == "S" and subjects <= len(names):
        warnings.append(f"S of {subjects} subjects cannot have full rank for {len(names)} parameters; use kind='R'")
    by_hessian = inverse(hessian, "R") if kind != "S" else hessian
    covariance = by_hessian
    if kind == "S":
        covariance = inverse(scores, "S")
    elif kind == "sandwich":
        covariance = by_hessian @ scores @ by_hessian
    deviations = covariance.diagonal().sqrt()
    if not bool(torch.isfinite(covariance).all()):
        return covariance, math.inf, tuple(warnings)
    eigenvalues = torch.linalg.eigvalsh(covariance / deviations[:, None] / deviations)
    condition = float(eigenvalues[-1] / eigenvalues[0]) if float(eigenvalues[0]) > 0 else math.inf
    return covariance, condition, tuple(warnings)


def _natural(
    approximation: Approximation, objective: MarginalObjective, kept: list[int]
) -> tuple[Callable[[Tensor], Tensor], list[str]]:
    """The map from the kept raw parameters to the scalars that a reader expects, and their names."""
    model = approximation.density.model

    def scalars(vector: Tensor) -> dict[str, Tensor]:
        whole = objective.initial.index_put((torch.as_tensor(kept),), vector)
        values = objective.at(whole)
        return {**structural_scalars(model, values), **omega_scalars(model, values)}

    at = objective.initial[kept].detach().requires_grad_()
    with torch.enable_grad():
        found = scalars(at)
        names = [name for name, value in found.items() if value.requires_grad and _moves(value, at)]
    return lambda vector: torch.stack([scalars(vector)[name][0] for name in names]), names


def _moves(value: Tensor, vector: Tensor) -> bool:
    (slope,) = torch.autograd.grad(value.sum(), vector, retain_graph=True, allow_unused=True)
    return slope is not None and bool((slope != 0).any())


def _log_scale(names: list[str], fit: "Fit") -> list[str]:
    """How each scalar's confidence limits are mapped: ``log``, ``logit lower upper`` or ``plain``."""
    kinds = []
    for name in names:
        component = fit.model.components.get(name)
        transform = getattr(component, "transform", None)
        variance = name.startswith("omega_") and "," not in name
        if variance or type(transform).__name__ == "Log":
            kinds.append("log")
        elif type(transform).__name__ == "Logit":
            kinds.append(f"logit {transform.lower} {transform.upper}")  # type: ignore[union-attr]
        else:
            kinds.append("plain")
    return kinds


def _table(names: list[str], estimates: Tensor, covariance: Tensor, kinds: list[str], level: float) -> pd.DataFrame:
    quantile = math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))
    rows = []
    for estimate, variance, kind in zip(estimates.tolist(), covariance.diagonal().tolist(), kinds, strict=True):
        error = math.sqrt(variance) if variance >= 0 else math.nan
        if kind == "log":
            reach = math.exp(min(quantile * error / estimate, 700.0)) if math.isfinite(error) else math.nan
            limits = estimate / reach, estimate * reach
        elif kind.startswith("logit"):
            lower, upper = map(float, kind.split()[1:])
            slope = (estimate - lower) * (upper - estimate) / (upper - lower)
            place = math.log((estimate - lower) / (upper - estimate))
            limits = tuple(  # type: ignore[assignment]
                lower + (upper - lower) / (1 + math.exp(-(place + sign * quantile * error / slope))) for sign in (-1, 1)
            )
        else:
            limits = estimate - quantile * error, estimate + quantile * error
        relative = 100 * error / abs(estimate) if estimate else math.nan
        row = {"estimate": estimate, "se": error, "rse_percent": relative}
        rows.append({**row, "lower": limits[0], "upper": limits[1]})
    return pd.DataFrame(rows, index=names)
