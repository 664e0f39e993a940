r"""Adaptive Gauss-Hermite quadrature: a product grid, centred and scaled at each subject's mode.

.. math:: p(y_i) \approx 2^{k/2} |L| (2 \pi)^{-k/2} \sum_q w_q\, e^{x_q^\top x_q - g(z_q)}, \qquad
          z_q = \hat z + \sqrt2 L x_q, \quad L L^\top = H^{-1}

with the Hermite nodes and weights for :math:`e^{-x^2}` in each of the k directions. One node is Laplace's
approximation; for a smooth density with one hump the error falls geometrically with the nodes.

References:
    Liu and Pierce (1994), A note on Gauss-Hermite quadrature. doi:10.1093/biomet/81.3.624
    Pinheiro and Bates (1995), Approximations to the log-likelihood function in the nonlinear mixed-effects model.
    doi:10.1080/10618600.1995.10474663
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.errors import FitError
from nlme_torch.inference.marginal.approximation import Approximation, batched
from nlme_torch.inference.marginal.enough_nodes import LARGEST_GRID, STEP
from nlme_torch.inference.marginal.laplace import AtMode, LaplaceApproximation, Shape
from nlme_torch.inference.numerics import linear_algebra
from nlme_torch.model.declare.values import ParameterValues
from nlme_torch.model.density.absolute_zeros import gradients
from nlme_torch.model.density.density import Density


class Rule(NamedTuple):
    r"""A product of Gauss-Hermite rules.

    Attributes:
        points: ``(effect, node)``.
        log_weights: Logarithms of :math:`w_q e^{x_q^\top x_q}`, ``(node,)``.
    """

    points: Tensor
    log_weights: Tensor

    def split(self, size: int) -> "list[Rule]":
        """Return the same in pieces of at most so many nodes."""
        return [Rule(*one) for one in zip(self.points.split(size, 1), self.log_weights.split(size), strict=True)]


def hermite(effects: int, nodes: int, like: Tensor) -> Rule:
    """Return the product rule.

    Args:
        effects: Number of directions.
        nodes: Per direction.
        like: A tensor of the type and on the device of the answer.
    """
    points, weights = (torch.as_tensor(x).to(like) for x in np.polynomial.hermite.hermgauss(nodes))
    axis = weights.log() + points.square()
    grid = torch.cartesian_prod(*[points] * effects).reshape(-1, effects).mT
    return Rule(grid, torch.cartesian_prod(*[axis] * effects).reshape(-1, effects).sum(1))


def at_nodes(
    g: Callable[[Tensor], Tensor],
    centre: Float[Tensor, "effect start subject"],
    factor: Float[Tensor, "start subject effect effect"],
    rule: Rule,
) -> Float[Tensor, "node start subject"]:
    """Return the logarithm of what every node adds to the sum; ``-inf`` where g has no value.

    Args:
        g: Negative log density, ``(effect, node, start, subject) -> (node, start, subject)``.
        centre: Its minima.
        factor: L of the formula above.
        rule: Nodes and weights.
    """
    nodes = centre[:, None] + math.sqrt(2) * torch.einsum("snij,jq->iqsn", factor, rule.points)
    value = rule.log_weights[:, None, None] - g(nodes)
    return torch.where(torch.isfinite(value), value, -torch.inf)


def log_scale(factor: Float[Tensor, "start subject effect effect"]) -> Float[Tensor, "start subject"]:
    r"""Return the logarithm of what the sum over nodes is multiplied by, :math:`2^{k/2} |L| (2 \pi)^{-k/2}`."""
    effects = factor.shape[-1]
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * effects * math.log(1 / math.pi)


class QuadratureApproximation(LaplaceApproximation):
    """Quadrature for one model and its data.

    Args:
        density: The model, joined to data and solver.
        nodes: Nodes per effect; 1 is Laplace's approximation.
        max_nodes: Largest grid per subject.
        max_columns: Largest batch of one call.

    Raises:
        FitError: The grid would be larger than ``max_nodes``.
    """

    def __init__(
        self, density: Density, nodes: int, *, max_nodes: int = LARGEST_GRID, max_columns: int = 20_000
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
        self.rule = hermite(count, nodes, density.batch.times)

    @property
    def name(self) -> str:
        """With the nodes."""
        return f"Quadrature(nodes={self.nodes})"

    def with_nodes(self, nodes: int) -> "QuadratureApproximation | None":
        """Return the same with another number of nodes per effect; None where the grid would be too large.

        Args:
            nodes: Per effect.
        """
        if nodes**self.density.model.n_effects > LARGEST_GRID:
            return None
        return QuadratureApproximation(self.density, nodes, max_columns=self.max_columns)

    def restricted(self, subjects: Tensor) -> "QuadratureApproximation":
        """Return the same for some of the subjects."""
        return QuadratureApproximation(self.some_subjects(subjects), self.nodes, max_columns=self.max_columns)

    def surrogate(self, joint: Tensor, hessian: Tensor, shape: Shape, share: Tensor) -> Tensor:
        """Return what moves the value through H; g at the nodes has its derivatives in ``shape`` already."""
        return (shape.by_curvature * hessian).sum()

    def shape(self, at: AtMode, vector: Tensor, gradient: bool, weights: Tensor | None) -> Shape:
        """Return the sum over nodes, in pieces; then its derivatives, in the same pieces."""
        count, columns = len(at.centre), at.centre[0].numel()
        pieces = self.rule.split(max(1, self.max_columns // columns))
        middle = at.centre.detach().requires_grad_()
        spread = linear_algebra.cholesky(linear_algebra.inverse(batched(at.curvature)))
        good = at.good & torch.isfinite(spread).all(-1).all(-1)
        bend = torch.where(good, at.curvature, torch.eye(count).to(at.curvature)[..., None, None]).requires_grad_()
        with torch.enable_grad():
            factor = torch.linalg.cholesky(torch.linalg.inv(batched(bend)))
            scale = log_scale(factor)
        with torch.no_grad():
            parts = [at_nodes(at.integrand, middle, factor, piece) for piece in pieces]
            total = torch.logsumexp(torch.cat(parts), 0)
            value = torch.where(good, -2 * (total + scale), torch.inf)
        if not gradient:
            return Shape(value, at.curvature, at.centre, vector)
        with torch.enable_grad():
            leaves = (bend, middle, vector)
            each = torch.full_like(total, -2.0) if weights is None else -2 * weights
            sums = list(gradients((each * scale).sum(), leaves, materialize_grads=True))
            for piece, part in zip(pieces, parts, strict=True):
                share = torch.exp(part - total)
                found = torch.where(share > 0, at_nodes(at.integrand, middle, factor, piece), 0.0)
                for place, add in enumerate(gradients((each * share * found).sum(), leaves, materialize_grads=True)):
                    sums[place] = sums[place] + add
        by_curvature = 0.5 * (sums[0] + sums[0].transpose(0, 1))
        return Shape(value, by_curvature, sums[1], sums[2])


def next_rule(approximation: Approximation, values: ParameterValues, centre: Tensor) -> Tensor | None:
    """Return every subject's log-likelihood by quadrature with more nodes, ``(subject,)``.

    Args:
        approximation: Any; only quadrature has a next rule.
        values: Raw name to ``(1, *shape)``.
        centre: The modes, ``(effect, 1, subject)``.
    """
    if not isinstance(approximation, QuadratureApproximation):
        return None
    larger = approximation.with_nodes(approximation.nodes + STEP)
    return None if larger is None else -0.5 * larger.evaluate(values, centre, gradient=False).value[0].detach()
