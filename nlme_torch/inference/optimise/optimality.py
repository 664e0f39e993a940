r"""What tells a maximum: how far -2 log-likelihood would still fall, by the curvature where a search stands.

.. math:: \Delta = \tfrac12\, g^\top H^{-1} g, \qquad H = \nabla^2 O \succ 0

A gradient is small or large only by the curvature at the same place: where a search began tells nothing about where it
ended. At a saddle the gradient vanishes too, so H must be positive definite.

References:
    Dennis and Schnabel (1996), Numerical Methods for Unconstrained Optimization and Nonlinear Equations, section 7.2.
    doi:10.1137/1.9781611971200
"""

import math
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from nlme_torch._typing import Float

SADDLE = 0.01
"""How far below zero an eigenvalue of the scaled Hessian must lie before it is no error of differences."""

FLAT = 1e-3
"""Eigenvalues are taken to be at least so large, so that a flat direction is no infinite gain."""

WIDE = 0.05
"""Below this eigenvalue the Hessian is differenced again, with steps as long as each direction deserves."""


@runtime_checkable
class Bent(Protocol):
    """An objective whose Hessian can be had."""

    def differenced(self, vector: Tensor, scale: Tensor) -> Tensor:
        """Return the Hessian in scaled coordinates, ``(coordinate, coordinate)``; NaN where it cannot be had."""
        ...


class Optimality(NamedTuple):
    r"""What is known of a point at which a search stands.

    Attributes:
        gain: By how much -2 log-likelihood would still fall, by a quadratic; infinite where no Hessian can be had.
        scale: T with :math:`T T^\top` near the inverse Hessian, ``(parameter, parameter)``.
        bend: Smallest eigenvalue of the Hessian, in units of the expected one.
        downward: Direction of that eigenvalue, ``(parameter,)``.
    """

    gain: float
    scale: Float[Tensor, "parameter parameter"]
    bend: float
    downward: Float[Tensor, "parameter"]

    @property
    def saddle(self) -> bool:
        """Whether the objective bends down in a direction."""
        return self.bend < -SADDLE


def examine(
    objective: Bent,
    vector: Float[Tensor, "parameter"],
    slope: Float[Tensor, "parameter"],
    scale: Float[Tensor, "parameter parameter"],
) -> Optimality:
    """Judge a point.

    Args:
        objective: What is minimised; its modes are those of the point.
        vector: The point.
        slope: Gradient there.
        scale: T of coordinates in which the problem is about well scaled there.

    Returns:
        The optimality. Costs one gradient for each parameter, and as many again where a direction is nearly flat.
    """
    hessian = objective.differenced(vector, scale)
    if not bool(torch.isfinite(hessian).all()):
        return Optimality(math.inf, scale, math.nan, torch.zeros_like(vector))
    values, vectors = torch.linalg.eigh(hessian)
    units = torch.ones_like(values)
    if float(values[0]) < WIDE:
        units = values.abs().clamp_min(FLAT)
        wider = scale @ vectors / units.sqrt()
        again = objective.differenced(vector, wider)
        if bool(torch.isfinite(again).all()):
            scale, (values, vectors) = wider, torch.linalg.eigh(again)
    bend = float(values[0] / (vectors[:, 0].square() / units).sum())
    sizes = values.abs().clamp_min(FLAT)
    along = vectors.mT @ (scale.mT @ slope)
    renewed = scale @ vectors / sizes.sqrt()
    return Optimality(float(0.5 * (along.square() / sizes).sum()), renewed, bend, renewed[:, 0])


def expect(information: Float[Tensor, "parameter parameter"], slope: Float[Tensor, "parameter"]) -> Optimality | None:
    """Judge a point by the expected information, which costs no gradient and sees no saddle.

    Args:
        information: Expected Hessian of -2 log-likelihood at the point.
        slope: Gradient there.

    Returns:
        The same; None where the information is not positive definite.
    """
    factor, failed = torch.linalg.cholesky_ex(information)
    if int(failed) or not bool(torch.isfinite(factor).all()):
        return None
    identity = torch.eye(len(slope), dtype=slope.dtype, device=slope.device)
    scale = torch.linalg.solve_triangular(factor, identity, upper=False).mT
    return Optimality(float(0.5 * (scale.mT @ slope).square().sum()), scale, 1.0, scale[:, 0])
