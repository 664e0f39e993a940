r"""What the objective's Hessian is about: expected information or scores, plus the curvature of the prior.

With the linearised model :math:`y_i \sim N(m_i, V_i)`, :math:`m = f(\hat z) - A \hat z`, :math:`V = A A^\top + R`,

.. math:: F_{kl} = \sum_i 2\, \partial_k m_i^\top V_i^{-1} \partial_l m_i
          + \operatorname{tr} (V_i^{-1} \partial_k V_i V_i^{-1} \partial_l V_i)

for -2 log-likelihood, the expansion points held. Derivatives by differences: a solve without any derivative is so
much cheaper than a gradient that all parameters together cost no more than a few gradients.
"""

import torch
from torch import Tensor

from nlme_torch.inference.marginal.approximation import Approximation
from nlme_torch.inference.marginal.foce import Linearised
from nlme_torch.inference.numerics import linear_algebra
from nlme_torch.model.declare.values import ParameterValues, flatten_values, unflatten_values

COLUMNS = 20_000
"""Subjects times copies in one call: some 100 MB of doubles for a few hundred records."""
PARAMETER_STEP, EFFECT_STEP = 1e-4, 1e-3
"""Of differences of predictions, of logarithms and of standard deviations: a scale need be right to a per cent."""


def expected_information(approximation: Linearised, values: ParameterValues, centre: Tensor) -> Tensor:
    """Return the expected information of the linearised model, twice that of the log-likelihood.

    Args:
        approximation: FO, FOCE or FOCEI joined to a model and its data.
        values: Raw name to ``(1, *shape)``.
        centre: Expansion points, ``(effect, 1, subject)``.

    Returns:
        ``(parameter, parameter)``; columns of parameters for which the model cannot be solved are zero.
    """
    vector = flatten_values(values, approximation.names)
    mean, covariance = _moments(approximation, values, vector, centre)
    records = approximation.records.observed.shape[0]
    columns = centre.shape[-1] * (2 * len(centre) + 2)
    moved = vector + PARAMETER_STEP * torch.eye(vector.shape[1], dtype=vector.dtype, device=vector.device)
    pieces = [
        _moments(approximation, values, part, centre) for part in moved.split(max(1, COLUMNS // max(columns, records)))
    ]
    by_mean = (torch.cat([piece[0] for piece in pieces]) - mean) / PARAMETER_STEP
    by_covariance = (torch.cat([piece[1] for piece in pieces]) - covariance) / PARAMETER_STEP
    whiten = linear_algebra.inverse(linear_algebra.cholesky(covariance[0]))
    slopes = torch.einsum("nrt,knt->nrk", whiten, by_mean)
    bends = (whiten @ by_covariance @ whiten.mT).flatten(2)
    good = torch.isfinite(slopes).all(1) & torch.isfinite(bends).all(-1).mT
    slopes = torch.where(good[:, None], slopes, 0.0)
    bends = torch.where(good.mT[..., None], bends, 0.0)
    return 2 * torch.einsum("nrk,nrl->kl", slopes, slopes) + torch.einsum("knq,lnq->kl", bends, bends)


def _moments(
    approximation: Linearised, values: ParameterValues, vectors: Tensor, centre: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean ``(start, subject, record)`` and covariance ``(start, subject, record, record)`` at several parameters."""
    starts, effects = len(vectors), len(centre)
    named = unflatten_values(vectors, values, approximation.names)
    named = {name: value.expand(starts, *value.shape[1:]) for name, value in named.items()}
    offsets = EFFECT_STEP * torch.eye(effects, dtype=centre.dtype, device=centre.device)
    points = torch.cat([torch.zeros_like(offsets[:, :1]), offsets, -offsets], 1)[:, :, None, None] + centre[:, None]
    if approximation.kind == "FOCE":  # its residual variance is that of the typical subject
        points = torch.cat([points, torch.zeros_like(points[:, :1])], 1)
    records = approximation.records
    with torch.no_grad():
        conditional = approximation.density.at(named)
        columns = conditional.colour(points.expand(-1, -1, starts, -1).contiguous())
        location, log_variance, _ = records.predict(conditional, columns)
    weight = records.weight
    slope = (location[:, 1 : 1 + effects] - location[:, 1 + effects : 1 + 2 * effects]) / (2 * EFFECT_STEP)
    slope = torch.where(weight[:, None] > 0, slope, 0.0)
    mean = torch.where(weight > 0, location[:, 0] - torch.einsum("rqsn,qxn->rsn", slope, centre), 0.0)
    log_variance = log_variance[:, -1] if approximation.kind == "FOCE" else log_variance[:, 0]
    variance = torch.where(weight > 0, log_variance.exp(), 1.0).permute(1, 2, 0)
    covariance = torch.einsum("rqsn,tqsn->snrt", slope, slope) + torch.diag_embed(variance)
    return mean.permute(1, 2, 0), covariance


def prior_curvature(approximation: Approximation, values: ParameterValues) -> Tensor:
    """Return minus twice the second derivatives of the log prior, where positive, ``(parameter,)``."""
    vector = flatten_values(values, approximation.names).detach().requires_grad_()
    with torch.enable_grad():
        log_prior = approximation.density.log_prior(unflatten_values(vector, values, approximation.names)).sum()
        if not log_prior.requires_grad:
            return torch.zeros_like(vector[0])
        (slope,) = torch.autograd.grad(log_prior, vector, create_graph=True, materialize_grads=True)
        if not slope.requires_grad:
            return torch.zeros_like(vector[0])
        # the parameters' priors are independent
        (bend,) = torch.autograd.grad(slope.sum(), vector, materialize_grads=True)
    return (-2 * bend[0]).detach().clamp_min(0.0)
