r"""Laplace's approximation and adaptive quadrature: the exact Hessian at the mode, any outcome, exact gradients.

.. math:: -2 \log p(y_i) \approx 2 g(\hat z) + \log |H|, \qquad H = \nabla^2 g(\hat z)

.. math:: p(y_i) \approx 2^{k/2} |L| (2 \pi)^{-k/2} \sum_q w_q\, e^{x_q^\top x_q - g(z_q)}, \qquad
          z_q = \hat z + \sqrt2 L x_q, \quad L L^\top = H^{-1}

Both are functions of the mode and of H; their gradient goes through third derivatives of the model, because H moves.

References:
    Tierney and Kadane (1986), Accurate approximations for posterior moments and marginal densities.
    doi:10.1080/01621459.1986.10478240
    Pinheiro and Bates (1995), Approximations to the log-likelihood function in the nonlinear mixed-effects model.
    doi:10.1080/10618600.1995.10474663
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.errors import FitError
from nlme_torch.inference.marginal.approximation import (
    Approximation,
    Evaluation,
    Integrand,
    batched,
    own_replica,
    replicas,
    solve_per_subject,
)
from nlme_torch.inference.marginal.quadrature_rule import LARGEST_GRID, STEP
from nlme_torch.inference.numerics import linear_algebra
from nlme_torch.model.declare.values import ParameterValues
from nlme_torch.model.density.absolute_zeros import gradients
from nlme_torch.model.density.density import Conditional, Density


class Curved(Approximation):
    """Laplace's approximation, or quadrature with several nodes, for one model and its data.

    Args:
        density: The model, joined to data and solver.
        nodes: Nodes per effect; 1 is Laplace's approximation.
        max_nodes: Largest grid per subject.
        max_columns: Largest batch of one call.

    Raises:
        FitError: The grid would be larger than ``max_nodes``.
    """

    def __init__(
        self, density: Density, nodes: int = 1, *, max_nodes: int = LARGEST_GRID, max_columns: int = 20_000
    ) -> None:
        super().__init__(density)
        count = density.model.n_effects
        if nodes**count > max_nodes:
            raise FitError(
                f"Quadrature(nodes={nodes}) needs {nodes}^{count} = {nodes**count:,} nodes for the {count} random "
                f"effects of every subject, more than {max_nodes:,}; use fewer nodes, nlme.Laplace(), or nlme.SAEM() "
                "with nlme.ImportanceSampling() for the likelihood."
            )
        self.nodes, self.max_columns = nodes, max_columns
        if nodes > 1:
            rule = np.polynomial.hermite.hermgauss(nodes)
            points, weights = (torch.as_tensor(x).to(density.batch.times) for x in rule)
            axis = weights.log() + points.square()
            self._points = torch.cartesian_prod(*[points] * count).reshape(-1, count).mT
            self._log_weights = torch.cartesian_prod(*[axis] * count).reshape(-1, count).sum(1)

    def with_nodes(self, nodes: int) -> "Curved | None":
        """Return the same with another number of nodes per effect; None where the grid would be too large.

        Args:
            nodes: Per effect.
        """
        if nodes**self.density.model.n_effects > LARGEST_GRID:
            return None
        return Curved(self.density, nodes, max_columns=self.max_columns)

    def restricted(self, subjects: Tensor) -> "Curved":
        """Return the same for some of the subjects."""
        return Curved(self.some_subjects(subjects), self.nodes, max_columns=self.max_columns)

    def integrand(self, conditional: Conditional) -> Integrand:
        """Return g, the negative log joint density."""

        def negative_log_joint(effects: Tensor) -> Tensor:
            return 0.5 * effects.square().sum(0) - conditional.log_likelihood(conditional.colour(effects))

        return negative_log_joint

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
        shape = _at_mode(joint.detach()[0], factor)
        if self.nodes > 1:
            shape = self._integrate(integrand, vector, centre, curvature, good, gradient, weights)
        value = torch.where(good & torch.isfinite(shape.value), shape.value, torch.inf)
        if not gradient:
            return Evaluation(value, curvature, centre, None)
        with torch.enable_grad():
            share = torch.ones_like(value) if weights is None else weights
            if self.nodes == 1:
                surrogate = (share * (2 * joint[0] + (shape.by_curvature * hessian).sum((0, 1)))).sum()
            else:
                surrogate = (shape.by_curvature * hessian).sum()
            by_effects, direct = gradients(surrogate, (copies, vector), materialize_grads=True)
            moved = solve_per_subject(curvature, by_effects.sum(1) + shape.by_centre)
            (through,) = gradients((moved * score[:, 0]).sum(), vector, materialize_grads=True)
        return Evaluation(value, curvature, centre, direct - through + shape.direct)

    def _integrate(
        self,
        integrand: Integrand,
        vector: Tensor,
        centre: Tensor,
        curvature: Tensor,
        good: Tensor,
        gradient: bool,
        weights: Tensor | None,
    ) -> "_Shape":
        """The sum over nodes, in pieces; then its derivatives, in the same pieces."""
        count, columns = len(centre), centre[0].numel()
        chunk = max(1, self.max_columns // columns)
        pieces = list(zip(self._points.split(chunk, 1), self._log_weights.split(chunk), strict=True))
        middle = centre.detach().requires_grad_()
        spread = linear_algebra.cholesky(linear_algebra.inverse(batched(curvature)))
        good = good & torch.isfinite(spread).all(-1).all(-1)
        bend = torch.where(good, curvature, torch.eye(count).to(curvature)[..., None, None]).requires_grad_()
        with torch.enable_grad():
            factor = torch.linalg.cholesky(torch.linalg.inv(batched(bend)))
            log_scale = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * count * math.log(1 / math.pi)

            def terms(points: Tensor, log_weights: Tensor) -> Tensor:
                nodes = middle[:, None] + math.sqrt(2) * torch.einsum("snij,jq->iqsn", factor, points)
                value = log_weights[:, None, None] - integrand(nodes)
                return torch.where(torch.isfinite(value), value, -torch.inf)

        with torch.no_grad():
            parts = [terms(*piece) for piece in pieces]
            total = torch.logsumexp(torch.cat(parts), 0)
            value = torch.where(good, -2 * (total + log_scale), torch.inf)
        if not gradient:
            return _Shape(value, curvature, centre, vector)
        with torch.enable_grad():
            leaves = (bend, middle, vector)
            each = torch.full_like(total, -2.0) if weights is None else -2 * weights
            sums = list(gradients((each * log_scale).sum(), leaves, materialize_grads=True))
            for piece, part in zip(pieces, parts, strict=True):
                share = torch.exp(part - total)
                found = torch.where(share > 0, terms(*piece), 0.0)
                for place, add in enumerate(gradients((each * share * found).sum(), leaves, materialize_grads=True)):
                    sums[place] = sums[place] + add
        by_curvature = 0.5 * (sums[0] + sums[0].transpose(0, 1))
        return _Shape(value, by_curvature, sums[1], sums[2])


def exact_curvature(
    approximation: Approximation, evaluation: Evaluation
) -> Float[Tensor, "effect effect subject"] | None:
    """Return the exact Hessian of g at the modes of a single start; None where a method takes another curvature."""
    return evaluation.curvature[:, :, 0] if isinstance(approximation, Curved) else None


def is_laplace(approximation: Approximation) -> bool:
    """Return whether an approximation consists of a mode and the determinant of the exact Hessian there.

    Args:
        approximation: Any.
    """
    return isinstance(approximation, Curved) and approximation.nodes == 1


class _Shape(NamedTuple):
    """A value that depends on mode and curvature, and its derivatives with respect to both."""

    value: Tensor
    by_curvature: Tensor
    by_centre: Tensor | float
    direct: Tensor | float


def _at_mode(joint: Tensor, factor: Tensor) -> _Shape:
    """Laplace's approximation from g at the mode and the Cholesky factor of H."""
    log_determinant = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    inverse = torch.cholesky_inverse(factor).movedim((-2, -1), (0, 1))
    return _Shape(2 * joint + log_determinant, inverse, 0.0, 0.0)


def next_rule(approximation: Approximation, values: ParameterValues, centre: Tensor) -> Tensor | None:
    """Return every subject's log-likelihood by quadrature with more nodes, ``(subject,)``.

    Args:
        approximation: Any; only quadrature has a next rule.
        values: Raw name to ``(1, *shape)``.
        centre: The modes, ``(effect, 1, subject)``.
    """
    if not isinstance(approximation, Curved) or approximation.nodes == 1:
        return None
    larger = approximation.with_nodes(approximation.nodes + STEP)
    return None if larger is None else -0.5 * larger.evaluate(values, centre, gradient=False).value[0].detach()
