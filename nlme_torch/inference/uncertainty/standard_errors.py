r"""Standard errors of a fit: the information matrix, its inverse, and confidence limits on the natural scale.

The information (:mod:`nlme_torch.inference.information.observed`) stands on the estimation scale; standard errors on
the natural scale follow by the delta method, confidence limits by mapping those of the estimation scale, so that they
respect bounds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.fitted import Fitted
from nlme_torch.inference.estimates.free_scalars import FreeScalars, slope_of
from nlme_torch.inference.estimates.method_arguments import check_fit, check_method
from nlme_torch.inference.foce.focei import FOCEI
from nlme_torch.inference.foce.marginal_method import MarginalMethod
from nlme_torch.inference.foce.quadrature import Quadrature
from nlme_torch.inference.information.held_nodes import information_at_held_nodes
from nlme_torch.inference.information.observed import Information, Kind, invert, marginal_information
from nlme_torch.inference.information.stochastic import StochasticInformation
from nlme_torch.inference.marginal.enough_nodes import STEP
from nlme_torch.inference.marginal.quadrature import QuadratureApproximation
from nlme_torch.inference.uncertainty.fitted_method import fitted_method, maximised
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.model.parameters.transforms import Transform
from nlme_torch.settings import check_level, check_values

MOVED = 0.02
"""Relative move of a standard error from one quadrature rule to the next at which the nodes suffice."""


@runtime_checkable
class InformationMethod(Protocol):
    """Another way to the information matrix than differences of an approximate likelihood."""

    @property
    def name(self) -> str:
        """What standard errors of this method are called."""
        ...

    def information(self, density: Density, scalars: FreeScalars) -> Information:
        """Return R and S at the model's own parameters."""
        ...


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

    @property
    def headline(self) -> str:
        """How the standard errors were computed, and the condition number, in one line."""
        formula = {"sandwich": "R⁻¹SR⁻¹", "R": "R⁻¹", "S": "S⁻¹"}[self.kind]
        return f"standard errors by {formula} of {self.method}, condition number {self.condition_number:.3g}"

    def __str__(self) -> str:
        lines = [
            self.headline,
            self.table.to_string(float_format=lambda value: f"{value:.5g}"),
            *(f"warning: {message}" for message in self.warnings),
        ]
        return "\n".join(lines)

    __repr__ = __str__


def standard_errors(
    fit: Fitted,
    method: MarginalMethod | InformationMethod | None = None,
    *,
    kind: Kind = "sandwich",
    level: float = 0.95,
    step: float = 1e-3,
) -> Uncertainty:
    """Return standard errors of a fit's estimates.

    Network weights are held: their permutations leave the likelihood unchanged, so no standard error has a meaning.

    Args:
        fit: The fit; meaningful where its estimates maximise the likelihood of ``method``.
        method: The approximation of the likelihood, or ``nlme.StochasticInformation()`` for the exact one by Markov
            chains; None takes the approximation that the fit maximised, and after SAEM the quadrature that gave its
            likelihood, ``FOCEI()`` if none did, or Markov chains where an outcome is not normal or a value is
            censored. Quadrature takes more nodes than were given where standard errors ask for them.
        kind: ``sandwich`` is robust, ``R`` assumes the model, ``S`` does and needs many subjects.
        level: Of the confidence limits.
        step: Of the differences of an approximate likelihood on the estimation scale.

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
    check_fit("standard_errors", fit)
    check_values("standard_errors", FitError, kind=(kind, Kind), step=(step, float))
    check_level("standard_errors", FitError, level)
    if not 0 < step < 1:
        raise FitError(f"standard_errors: step must lie between 0 and 1, such as 1e-3, got {step!r:.60}.")
    check_method("standard_errors", method, ("information", "approximation"), "nlme.FOCEI()")
    chosen = method or _suitable(fit)
    scalars = FreeScalars(fit.model, parameter_values(fit.model))
    if isinstance(chosen, Quadrature):
        chosen, information = _enough_nodes(chosen, fit.density, scalars, kind, step)
    elif isinstance(chosen, MarginalMethod):
        searches = chosen.searches(fit.density)
        information = marginal_information(chosen.approximation(fit.density), scalars, searches, step)
    else:
        information = chosen.information(fit.density, scalars)
    inverse = invert(information, kind, scalars.labels)
    jacobian = scalars.jacobian()
    on_natural = jacobian @ inverse.covariance @ jacobian.mT
    frame = pd.DataFrame(on_natural.numpy(force=True), index=scalars.names, columns=scalars.names)
    estimates = scalars.natural(scalars.vector[None])[0]
    return Uncertainty(
        method=chosen.name,
        kind=kind,
        table=error_table(scalars.names, estimates, on_natural, scalars.scales, level),
        covariance=frame,
        hessian=information.hessian,
        scores=information.scores,
        level=level,
        condition_number=inverse.condition_number,
        warnings=inverse.warnings,
    )


def _suitable(fit: Fitted) -> MarginalMethod | InformationMethod:
    """What the fit maximised; else quadrature that gave its likelihood; else FOCEI, or chains where that cannot be."""
    chosen = fitted_method(fit)
    if maximised(fit.method) is None and not isinstance(chosen, Quadrature):
        chosen = FOCEI()
    if isinstance(chosen, FOCEI) and fit.model.n_effects:
        try:
            chosen.approximation(fit.density)
        except FitError:
            return StochasticInformation()
    return chosen


def _enough_nodes(
    method: Quadrature, density: Density, scalars: FreeScalars, kind: Kind, step: float
) -> tuple[Quadrature, Information]:
    """Raise the nodes until no standard error moves by 2 % from one rule to the next.

    The nodes stand where they are at the estimates. What a rule leaves out of the second derivatives is more of the
    information than its value is of the likelihood: one that is good enough for a fit may be too coarse here.
    """
    rule = method.at(density, scalars.values)
    before: tuple[Quadrature, Information, Tensor] | None = None
    while True:
        approximation = rule.approximation(density)
        assert isinstance(approximation, QuadratureApproximation)
        found = marginal_information if approximation.nodes == 1 else information_at_held_nodes
        information = found(approximation, scalars, rule.searches(density), step)
        errors = invert(information, kind, scalars.labels).covariance.diagonal().sqrt()
        moved = math.inf if before is None else float((errors / before[2] - 1).abs().max())
        if before is not None and moved <= MOVED:
            return before[0], before[1]
        if approximation.nodes == 1 or approximation.with_nodes(approximation.nodes + STEP) is None:
            by = "by an unknown amount" if not math.isfinite(moved) else f"by {100 * moved:.0f} %"
            warning = f"{rule.name}: more nodes, which would be too many, may move a standard error {by}"
            return rule, information._replace(warnings=(*information.warnings, warning))
        rule, before = replace(rule, nodes=approximation.nodes + STEP), (rule, information, errors)


def error_table(
    names: Sequence[str], estimates: Tensor, covariance: Tensor, scales: Sequence[Transform], level: float
) -> pd.DataFrame:
    """Return estimates with standard errors and confidence limits.

    Args:
        names: Of the scalars.
        estimates: ``(scalar,)``.
        covariance: ``(scalar, scalar)``, natural scale.
        scales: Where the confidence limits of each scalar are symmetric.
        level: Of the confidence limits.
    """
    rows = []
    for value, variance, scale in zip(estimates, covariance.diagonal().tolist(), scales, strict=True):
        error = math.sqrt(variance) if variance >= 0 else math.nan
        place = scale.inverse(value)
        reach = normal_quantile(level) * error * slope_of(scale.inverse, value)
        estimate = float(value)
        rows.append(
            {
                "estimate": estimate,
                "se": error,
                "rse_percent": 100 * error / abs(estimate) if estimate else math.nan,
                "lower": float(scale.forward(place - reach)),
                "upper": float(scale.forward(place + reach)),
            }
        )
    return pd.DataFrame(rows, index=list(names))


def normal_quantile(level: float) -> float:
    """Return how many standard deviations on both sides hold a probability."""
    return math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))
