r"""The information about the parameters in the data, its inverse, and the directions that are missing from it.

.. math:: R = \tfrac12 \nabla^2 O, \qquad S = \tfrac14 \sum_i \nabla O_i \nabla O_i^\top, \qquad
          \operatorname{cov} = R^{-1} S R^{-1} \;\text{or}\; R^{-1} \;\text{or}\; S^{-1}

A direction v is not identified where :math:`v^\top R v = 0`. Differences and a search that stopped short of the maximum
leave an R that is small there instead of zero, but the scores of all subjects vanish exactly, so
:math:`v^\top S v` tells a flat direction from one that is only nearly flat.

References:
    White (1982), Maximum likelihood estimation of misspecified models. doi:10.2307/1912526
    Beal and Sheiner, NONMEM Users Guides, Part II, section D.2.5 (the three covariance estimators).
    Rothenberg (1971), Identification in parametric models. doi:10.2307/1913267
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.marginal.approximation import Approximation
from nlme_torch.inference.marginal.objective import MarginalObjective, subject_gradients
from nlme_torch.inference.marginal.several_starts import COLUMNS, evaluate_several
from nlme_torch.inference.numerics import linear_algebra

Kind = Literal["sandwich", "R", "S"]

NULL = 1e-9
"""Share of the largest eigenvalue below which a direction is rounding of differences."""
NEARLY_NULL = 1e-6
"""Smallest ratio of an eigenvalue of the scaled information to the largest that passes without a warning."""


class Information(NamedTuple):
    """What the data tell about the parameters, on the estimation scale.

    Attributes:
        hessian: R, ``(kept, kept)``.
        scores: S, ``(kept, kept)``.
        subjects: How many subjects S sums over.
        warnings: What limits the accuracy of both.
    """

    hessian: Tensor
    scores: Tensor
    subjects: int
    warnings: tuple[str, ...] = ()


class Inverse(NamedTuple):
    """A covariance matrix and how far it can be trusted.

    Attributes:
        covariance: ``(kept, kept)`` on the estimation scale, NaN where a direction is not identified.
        condition_number: Largest over smallest eigenvalue of the correlation matrix.
        warnings: Directions that the data identify badly or not at all, named by parameters.
    """

    covariance: Tensor
    condition_number: float
    warnings: tuple[str, ...]


def marginal_information(approximation: Approximation, scalars: FreeScalars, searches: int, step: float) -> Information:
    """Return R by differences of exact gradients and S from exact gradients of single subjects.

    Args:
        approximation: FO, FOCE, ... joined to a model and its data.
        scalars: The parameters.
        searches: Searches for the mode of every subject.
        step: Of the differences, on the estimation scale.

    Raises:
        FitError: The objective has no value near the estimates.
    """
    objective = MarginalObjective(approximation, scalars.values, searches)
    each = subject_gradients(approximation, objective.at(objective.initial), objective.centre)[:, scalars.kept]
    return Information(hessian(objective, scalars.kept, step), 0.25 * each.mT @ each, len(each))


def hessian(objective: MarginalObjective, kept: Tensor, step: float = 1e-3) -> Float[Tensor, "kept kept"]:
    """Return R by fourth-order central differences of exact gradients, all on the start axis.

    Args:
        objective: The objective at the estimates.
        kept: Positions of the parameters.
        step: Of the differences, on the estimation scale.

    Raises:
        FitError: The objective has no value near the estimates.
    """
    centre = objective.initial
    shifts = torch.zeros(len(kept), len(centre), dtype=centre.dtype, device=centre.device)
    shifts[torch.arange(len(kept)), kept] = step
    columns = []
    for shift in shifts.split(max(1, COLUMNS // 4 // objective.approximation.density.batch.n_subjects)):
        several = torch.cat([centre + factor * shift for factor in (1, -1, 2, -2)])
        starts = objective.centre.expand(-1, len(several), -1)
        found = evaluate_several(objective.approximation, objective.values, several, starts, gradient=True)
        if found.gradient is None or not bool(torch.isfinite(found.value).all()):
            raise FitError("the objective has no value near the estimates, so standard errors cannot be computed.")
        ahead, behind, far_ahead, far_behind = found.gradient.reshape(4, len(shift), -1)
        columns.append((8 * (ahead - behind) - (far_ahead - far_behind)) / (12 * step))
    matrix = 0.5 * torch.cat(columns)[:, kept]
    return 0.5 * (matrix + matrix.mT)


def invert(information: Information, kind: Kind, names: Sequence[str]) -> Inverse:
    """Return the covariance matrix on the estimation scale and what is missing.

    Args:
        information: R and S.
        kind: ``sandwich`` (R⁻¹SR⁻¹), ``R`` (R⁻¹) or ``S`` (S⁻¹).
        names: Of the parameters, for the warnings.
    """
    warnings = list(information.warnings)
    if kind == "S" and information.subjects <= len(names):
        warnings.append(
            f"S of {information.subjects} subjects cannot have full rank for {len(names)} parameters; use kind='R'"
        )
    matrix = information.scores if kind == "S" else information.hessian
    if not bool(torch.isfinite(information.hessian).all() & torch.isfinite(information.scores).all()):
        warnings.append(
            "the derivatives of the likelihood are not finite at the estimates, so that standard errors are not known"
        )
        return Inverse(torch.full_like(matrix, torch.nan), math.inf, tuple(warnings))
    scale = matrix.diagonal().abs().sqrt().clamp_min(1e-150)
    eigenvalues, vectors = linear_algebra.symmetric_eigen(matrix / scale[:, None] / scale)
    largest = float(eigenvalues[-1].clamp_min(1e-150))
    scored = torch.einsum("ij,ik,kj->j", vectors, information.scores / scale[:, None] / scale, vectors)
    what, null, missing = ("S", 1e-3 * NULL, False) if kind == "S" else ("R", NULL, False)
    for index, value in enumerate((eigenvalues / largest).tolist()):
        if value >= NEARLY_NULL:
            continue
        direction = _named(vectors[:, index] / scale, names)
        flat = value < null or (kind != "S" and float(scored[index]) < 1e-3 * NULL * float(scored.max()))
        missing = missing or flat
        if value < -NEARLY_NULL:
            warnings.append(
                f"R is not positive definite: the likelihood still rises along {direction} (estimation scale), so that "
                "the estimates are no maximum of it; fit by this very method first"
            )
        elif flat:
            warnings.append(_singular(what, direction))
        else:
            warnings.append(
                f"the data hardly identify the direction {direction} (estimation scale): its information is "
                f"{value:.1g} of the largest; fix one of these parameters or simplify the model"
            )
    if kind == "sandwich" and not missing and information.subjects > len(names):
        # a direction without any score would get the standard error zero
        scale_s = information.scores.diagonal().sqrt().clamp_min(1e-150)
        values, directions = linear_algebra.symmetric_eigen(information.scores / scale_s[:, None] / scale_s)
        silent = (values < 1e-3 * NULL * values[-1]).nonzero()[:, 0].tolist()
        warnings += [_singular("S", _named(directions[:, index] / scale_s, names)) for index in silent]
        missing = bool(silent)
    if missing:
        return Inverse(torch.full_like(matrix, torch.nan), math.inf, tuple(warnings))
    inverse = (vectors / eigenvalues) @ vectors.mT / scale[:, None] / scale
    covariance = inverse @ information.scores @ inverse if kind == "sandwich" else inverse
    return Inverse(covariance, condition_number(covariance), tuple(warnings))


def condition_number(covariance: Float[Tensor, "kept kept"]) -> float:
    """Return the largest over the smallest eigenvalue of the correlation matrix."""
    deviations = covariance.diagonal().sqrt()
    correlation = covariance / deviations[:, None] / deviations
    if not bool(torch.isfinite(correlation).all()):
        return math.inf
    eigenvalues = torch.linalg.eigvalsh(correlation)
    return float(eigenvalues[-1] / eigenvalues[0]) if float(eigenvalues[0]) > 0 else math.inf


def positive(matrix: Float[Tensor, "kept kept"]) -> Float[Tensor, "kept kept"]:
    """Return a symmetric matrix with its eigenvalues by absolute value, none below a millionth of the largest."""
    scale = matrix.diagonal().abs().sqrt().clamp_min(1e-150)
    eigenvalues, vectors = linear_algebra.symmetric_eigen(matrix / scale[:, None] / scale)
    sizes = eigenvalues.abs().clamp_min(1e-6 * float(eigenvalues.abs().max()))
    return (vectors * sizes) @ vectors.mT * scale[:, None] * scale


def _singular(what: str, direction: str) -> str:
    return (
        f"{what} is singular: the data do not identify the direction {direction} (estimation scale); fix one of these "
        "parameters or simplify the model"
    )


def _named(direction: Tensor, names: Sequence[str]) -> str:
    """A direction in words: its larger components with their parameters."""
    share = direction / direction.abs().max()
    return " ".join(f"{float(value):+.2g} {names[place]}" for place, value in enumerate(share) if abs(value) > 0.05)
