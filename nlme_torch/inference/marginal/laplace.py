r"""Laplace's approximation: the exact Hessian at the mode, any outcome, exact gradients.

.. math:: -2 \log p(y_i) \approx 2 g(\hat z) + \log |H|, \qquad H = \nabla^2 g(\hat z)

A function of the mode and of H, as quadrature around the mode is; the gradient goes through third derivatives of the
model, because H moves.

References:
    Tierney and Kadane (1986), Accurate approximations for posterior moments and marginal densities.
    doi:10.1080/01621459.1986.10478240
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.inference.marginal.approximation import (
    Approximation,
    Evaluation,
    Integrand,
    batched,
    own_replica,
    replicas,
    solve_per_subject,
)
from nlme_torch.inference.modes.laplace import minus_two_log_integral
from nlme_torch.model.declare.values import ParameterValues
from nlme_torch.model.density.absolute_zeros import gradients
from nlme_torch.model.density.density import Conditional


class AtMode(NamedTuple):
    """What is known at the modes.

    Attributes:
        integrand: g.
        centre: The modes, ``(effect, start, subject)``.
        joint: g there, ``(start, subject)``.
        curvature: H, ``(effect, effect, start, subject)``.
        factor: Its Cholesky factor, ``(start, subject, effect, effect)``; the identity where there is none.
        good: Where there is one, ``(start, subject)``.
    """

    integrand: Integrand
    centre: Tensor
    joint: Tensor
    curvature: Tensor
    factor: Tensor
    good: Tensor


class Shape(NamedTuple):
    """A value that depends on mode and curvature, and its derivatives with respect to both.

    Attributes:
        value: ``(start, subject)``.
        by_curvature: ``(effect, effect, start, subject)``.
        by_centre: ``(effect, start, subject)``, of what does not pass through g at the mode.
        direct: With respect to the parameters, likewise, ``(start, parameter)``.
    """

    value: Tensor
    by_curvature: Tensor
    by_centre: Tensor | float
    direct: Tensor | float


class LaplaceApproximation(Approximation):
    """Laplace's approximation for one model and its data.

    Args:
        density: The model, joined to data and solver.

    Attributes:
        nodes: One: the mode.
    """

    nodes = 1

    @property
    def name(self) -> str:
        """Laplace's."""
        return "Laplace"

    def restricted(self, subjects: Tensor) -> "LaplaceApproximation":
        """Return the same for some of the subjects."""
        return LaplaceApproximation(self.some_subjects(subjects))

    def integrand(self, conditional: Conditional) -> Integrand:
        """Return g, the negative log joint density."""

        def negative_log_joint(effects: Tensor) -> Tensor:
            return 0.5 * effects.square().sum(0) - conditional.log_likelihood(conditional.colour(effects))

        return negative_log_joint

    def shape(self, at: AtMode, vector: Tensor, gradient: bool, weights: Tensor | None) -> Shape:
        """Return the value as a function of mode and curvature.

        Args:
            at: What is known at the modes.
            vector: The free parameters, on which g depends.
            gradient: Whether derivatives are asked for.
            weights: Weight of every subject in their sum, ``(start, subject)``; None for 1.
        """
        inverse = torch.cholesky_inverse(at.factor).movedim((-2, -1), (0, 1))
        return Shape(minus_two_log_integral(at.joint, at.factor), inverse, 0.0, 0.0)

    def surrogate(self, joint: Tensor, hessian: Tensor, shape: Shape, share: Tensor) -> Tensor:
        """Return a sum whose derivatives are those of the value, the mode held.

        Args:
            joint: g at one copy of the mode per effect, ``(effect, start, subject)``.
            hessian: H with its graph.
            shape: What :meth:`shape` returned.
            share: Weight of every subject.
        """
        return (share * (2 * joint[0] + (shape.by_curvature * hessian).sum((0, 1)))).sum()

    def evaluate(
        self, values: ParameterValues, centre: Tensor, *, gradient: bool, weights: Tensor | None = None
    ) -> Evaluation:
        """Approximate -2 log-likelihood; see :meth:`Approximation.evaluate`."""
        with torch.enable_grad():
            vector, conditional = self.parameters(values, gradient)
            integrand = self.integrand(conditional)
            copies = replicas(centre)
            joint = integrand(copies)
            (score,) = gradients(joint.sum(), copies, create_graph=True)
            (hessian,) = gradients(own_replica(score), copies, create_graph=gradient, materialize_grads=True)
        curvature = 0.5 * (hessian + hessian.transpose(0, 1)).detach()
        factor, info = torch.linalg.cholesky_ex(batched(curvature))
        good = (info == 0) & torch.isfinite(joint.detach()[0]) & torch.isfinite(factor).all(-1).all(-1)
        factor = torch.where(good[..., None, None], factor, torch.eye(len(centre)).to(factor))
        at = AtMode(integrand, centre, joint.detach()[0], curvature, factor, good)
        shape = self.shape(at, vector, gradient, weights)
        value = torch.where(good & torch.isfinite(shape.value), shape.value, torch.inf)
        if not gradient:
            return Evaluation(value, curvature, centre, None)
        with torch.enable_grad():
            share = torch.ones_like(value) if weights is None else weights
            surrogate = self.surrogate(joint, hessian, shape, share)
            by_effects, direct = gradients(surrogate, (copies, vector), materialize_grads=True)
            moved = solve_per_subject(curvature, by_effects.sum(1) + shape.by_centre)
            (through,) = gradients((moved * score[:, 0]).sum(), vector, materialize_grads=True)
        return Evaluation(value, curvature, centre, direct - through + shape.direct)


def exact_curvature(
    approximation: Approximation, evaluation: Evaluation
) -> Float[Tensor, "effect effect subject"] | None:
    """Return the exact Hessian of g at the modes of a single start; None where a method takes another curvature."""
    return evaluation.curvature[:, :, 0] if isinstance(approximation, LaplaceApproximation) else None


def is_laplace(approximation: Approximation) -> bool:
    """Return whether an approximation consists of a mode and the determinant of the exact Hessian there.

    Args:
        approximation: Any.
    """
    return isinstance(approximation, LaplaceApproximation) and approximation.nodes == 1
