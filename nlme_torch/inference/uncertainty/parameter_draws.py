r"""Parameter vectors that are as plausible as the estimates: drawn on the estimation scale, or taken from a sample.

.. math:: \theta^{(k)} \sim N(\hat\theta, \widehat{\operatorname{cov}})

on the estimation scale, where variances are logarithms and covariance matrices are held by factors: no draw has a
negative variance or a correlation beyond one. Importance resampling and the bootstrap hold their own vectors, which are
taken as they are. Network weights stay at their estimates.
"""

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.fitted import Fitted
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.information.observed import Information, invert
from nlme_torch.inference.numerics import linear_algebra
from nlme_torch.inference.uncertainty.bootstrap import Bootstrap
from nlme_torch.inference.uncertainty.sir import SIR
from nlme_torch.inference.uncertainty.standard_errors import Uncertainty, standard_errors
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.natural import values_from_natural
from nlme_torch.model.declare.raw_parameters import omega_matrix
from nlme_torch.model.declare.values import ParameterValues, parameter_values
from nlme_torch.model.parameters.transforms import Log

Plausible: TypeAlias = Literal["asymptotic"] | Uncertainty | SIR | Bootstrap | pd.DataFrame
"""What parameter vectors are drawn from: the fit's standard errors or others, a sample, a column per parameter."""

ROUNDS = 100
"""How often vectors without a covariance matrix (only where some of its entries are fixed) are drawn again."""
LARGEST = 1e4
"""Ratio of a positive scalar to its estimate within three standard errors beyond which normal draws mean nothing."""
NEGATIVE = 1e-8
"""Share of the largest eigenvalue that a covariance matrix may be negative by, from rounding."""


class ParameterDraws(NamedTuple):
    """Parameter vectors.

    Attributes:
        values: Raw name to ``(start, *shape)``, as densities take them.
        table: One row per vector, natural scale, named as fits print them; what is held has no column.
    """

    values: dict[str, Tensor]
    table: pd.DataFrame


def draw_parameters(fit: Fitted, source: Plausible, count: int | None, generator: torch.Generator) -> ParameterDraws:
    """Draw parameter vectors of a fit.

    Args:
        fit: The fit.
        source: ``"asymptotic"`` (the standard errors of the fit, which are computed if it has none) and other standard
            errors give normal vectors on the estimation scale. Of a sample (importance resampling,
            bootstrap, a table of vectors on the natural scale) every vector is taken once if ``count`` is their number
            or None, else ``count`` of them are drawn with replacement.
        count: How many.
        generator: Source of randomness.

    Raises:
        FitError: A direction is not identified, there is no vector, or a count is missing or below 1.
    """
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise FitError(f"the number of parameter vectors must be a whole number of 1 or more, got {count!r}.")
    asymptotic = isinstance(source, str) and source == "asymptotic"
    if asymptotic or isinstance(source, Uncertainty):
        if count is None:
            raise FitError("standard errors hold no vectors of their own: say how many are to be drawn (replicates=).")
        errors = (getattr(fit, "uncertainty", None) or standard_errors(fit)) if asymptotic else source
        assert isinstance(errors, Uncertainty)
        return _normal(fit, errors, count, generator)
    if not isinstance(source, SIR | Bootstrap | pd.DataFrame):
        raise FitError(
            f"{source!r} is no source of parameters; write 'asymptotic', nlme.sir(fit), nlme.case_bootstrap(fit), or a "
            "table with a column for each parameter."
        )
    return _sampled(fit.model, _vectors(source), count, generator)


def _normal(fit: Fitted, errors: Uncertainty, count: int, generator: torch.Generator) -> ParameterDraws:
    scalars = FreeScalars(fit.model, parameter_values(fit.model))
    information = Information(errors.hessian, errors.scores, fit.data.n_subjects)
    covariance = invert(information, errors.kind, scalars.labels).covariance.to(scalars.vector)
    if not bool(torch.isfinite(covariance).all()):
        raise FitError(
            "no parameters can be drawn from these standard errors, as a direction is not identified: "
            f"{'; '.join(errors.warnings)}."
        )
    eigenvalues, directions = linear_algebra.symmetric_eigen(covariance)
    if float(eigenvalues[0]) < -NEGATIVE * float(eigenvalues[-1]):
        raise FitError(
            "no parameters can be drawn from these standard errors: their covariance matrix is not positive definite, "
            "as the estimates are no maximum of the likelihood; fit by this very method first."
        )
    _refuse_undetermined(scalars, covariance)
    factor = directions * eigenvalues.clamp_min(0.0).sqrt()

    def some(number: int) -> Tensor:
        noise = torch.randn(number, len(factor), generator=generator, dtype=factor.dtype)
        return scalars.vector + noise.to(factor.device) @ factor.mT

    vectors = some(count)
    for _ in range(ROUNDS):
        lost = (~_possible(fit.model, scalars.at(vectors))).nonzero()[:, 0]
        if not len(lost):
            break
        vectors[lost] = some(len(lost))
    else:
        raise FitError(
            f"{len(lost)} of {count} parameter vectors drawn have no covariance matrix of the effects beside its fixed "
            "entries; use nlme.sir(fit) or a bootstrap."
        )
    table = pd.DataFrame(scalars.natural(vectors).numpy(force=True), columns=scalars.names)
    return ParameterDraws({name: value.contiguous() for name, value in scalars.at(vectors).items()}, table)


def _refuse_undetermined(scalars: FreeScalars, covariance: Tensor) -> None:
    """Refuse standard errors by which a positive scalar may be thousands of times its estimate."""
    reach = 3 * torch.diag(covariance.diagonal().clamp_min(0.0).sqrt())
    ratio = scalars.natural(scalars.vector + reach) / scalars.natural(scalars.vector[None])
    positive = torch.tensor([isinstance(scale, Log) for scale in scalars.scales])
    far = ((ratio > LARGEST) & positive.to(ratio.device)).nonzero().tolist()
    if far:
        direction, scalar = far[0]
        raise FitError(
            f"no parameters can be drawn from these standard errors: within three of them along "
            f"{scalars.labels[direction]} (estimation scale) {scalars.names[scalar]!r} is more than {LARGEST:g} times "
            "its estimate, as the data do not tell some variance from zero; use nlme.sir(fit) or a bootstrap, or leave "
            "that effect out."
        )


def _possible(model: Model, values: ParameterValues) -> Tensor:
    """Whether all covariance matrices of each vector are positive definite, ``(start,)``."""
    starts = next(iter(values.values())).shape[0]
    possible = torch.ones(starts, dtype=torch.bool)
    for block in model.blocks:
        if block.covariance is not None:
            failed = torch.linalg.cholesky_ex(omega_matrix(block, values)).info
            possible &= (failed == 0).cpu().expand(starts)
    return possible


def _vectors(source: SIR | Bootstrap | pd.DataFrame) -> pd.DataFrame:
    if isinstance(source, SIR):
        return source.draws.drop(columns="difference")
    return source.estimates.dropna() if isinstance(source, Bootstrap) else source


def _sampled(model: Model, table: pd.DataFrame, count: int | None, generator: torch.Generator) -> ParameterDraws:
    if not len(table):
        raise FitError("the table of parameter vectors has no row.")
    unknown = table.columns[~np.isfinite(table.to_numpy(dtype=float)).all(0)]
    if len(unknown):
        raise FitError(f"the table of parameter vectors has no number in some rows of {unknown[0]!r}; drop them.")
    if count is not None and count != len(table):
        table = table.iloc[torch.randint(len(table), (count,), generator=generator).tolist()]
    table = table.reset_index(drop=True)
    each = [values_from_natural(model, dict(zip(table.columns, row, strict=True))) for row in table.to_numpy()]
    return ParameterDraws({name: torch.cat([values[name] for values in each]) for name in each[0]}, table)
