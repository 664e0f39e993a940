r"""R and S of a likelihood by quadrature whose nodes are held where they stand at the estimates.

.. math:: \ell_i(\theta) = \log \sum_q w_{iq}\, p(y_i, z_{iq} \mid \theta), \qquad
          \nabla \ell_i = \sum_q s_{iq} \nabla \log p(y_i, z_{iq} \mid \theta)

where :math:`s_{iq}` is the share of a node in the sum. The second derivatives are those of Louis's formula with the
integrals by quadrature, as exact as the value is. Where nodes follow mode and curvature, the error of the rule changes
with the parameters, and its second derivative may exceed the information itself.

References:
    Louis (1982), Finding the observed information matrix when using the EM algorithm.
    doi:10.1111/j.2517-6161.1982.tb01203.x
"""

import math

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.information.observed import Information
from nlme_torch.inference.marginal.approximation import batched
from nlme_torch.inference.marginal.objective import MarginalObjective, subject_gradients
from nlme_torch.inference.marginal.quadrature import QuadratureApproximation
from nlme_torch.inference.numerics import linear_algebra
from nlme_torch.model.density.absolute_zeros import gradients

NODES_AT_ONCE = 20_000
"""Nodes of all subjects and shifted parameters in one evaluation."""


def information_at_held_nodes(
    approximation: QuadratureApproximation, scalars: FreeScalars, searches: int, step: float
) -> Information:
    """Return R by fourth-order differences of gradients at held nodes, and S from gradients of single subjects.

    Args:
        approximation: Quadrature of a model and its data.
        scalars: The parameters.
        searches: Searches for the mode of every subject.
        step: Of the differences, on the estimation scale.

    Raises:
        FitError: The likelihood has no value near the estimates.
    """
    objective = MarginalObjective(approximation, scalars.values, searches)
    centre, kept = objective.centre, scalars.kept
    each = subject_gradients(approximation, objective.at(objective.initial), centre)[:, kept]
    found = approximation.evaluate(objective.at(objective.initial), centre, gradient=False)
    factor = linear_algebra.cholesky(linear_algebra.inverse(batched(found.curvature)))
    if not bool(torch.isfinite(factor).all()):
        raise FitError("the likelihood by quadrature has no value at the estimates, so it has no standard errors.")
    points = centre[:, None] + math.sqrt(2) * torch.einsum("snij,jq->iqsn", factor, approximation.rule.points)
    columns = []
    for place in kept.tolist():
        shift = torch.zeros_like(objective.initial)
        shift[place] = step
        ahead, behind, far_ahead, far_behind = (
            _gradient(objective, approximation, objective.initial + times * shift, points) for times in (1, -1, 2, -2)
        )
        columns.append((8 * (ahead - behind) - (far_ahead - far_behind)) / (12 * step))
    matrix = 0.5 * torch.stack(columns)[:, kept]
    if not bool(torch.isfinite(matrix).all()):
        raise FitError("the likelihood by quadrature has no value near the estimates, so it has no standard errors.")
    return Information(0.5 * (matrix + matrix.mT), 0.25 * each.mT @ each, len(each))


def _gradient(
    objective: MarginalObjective,
    approximation: QuadratureApproximation,
    vector: Float[Tensor, "parameter"],
    points: Float[Tensor, "effect node 1 subject"],
) -> Float[Tensor, "parameter"]:
    """The gradient of the penalised -2 log-likelihood, nodes held."""
    vector = vector.detach().requires_grad_()
    pieces = points.split(max(1, NODES_AT_ONCE // points.shape[-1]), 1)
    with torch.enable_grad():
        conditional = approximation.density.at(objective.at(vector))
        integrand = approximation.integrand(conditional)
        with torch.no_grad():
            logs = approximation.rule.log_weights.split([piece.shape[1] for piece in pieces])
            parts = [one[:, None, None] - integrand(piece) for one, piece in zip(logs, pieces, strict=True)]
            parts = [torch.where(torch.isfinite(part), part, -torch.inf) for part in parts]
            total = torch.logsumexp(torch.cat(parts), 0)
        log_prior, slope = objective.log_prior(vector), torch.zeros_like(vector)
        if log_prior.requires_grad:
            slope = -2 * torch.autograd.grad(log_prior, vector)[0]
        for piece, part in zip(pieces, parts, strict=True):
            share = torch.exp(part - total)
            held = torch.where(share > 0, integrand(piece), 0.0)
            slope = slope + gradients((2 * share * held).sum(), vector, materialize_grads=True)[0]
    return slope.detach()
