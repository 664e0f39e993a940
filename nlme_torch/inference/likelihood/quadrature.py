"""Adaptive Gauss-Hermite quadrature: the marginal likelihood to machine precision when effects are few."""

import numpy as np
import torch
from torch import Tensor

from nlme_torch._typing import Float, LogDensity
from nlme_torch.errors import FitError
from nlme_torch.inference.mcmc.kernels import evaluate


def quadrature_log_marginal(
    log_joint: LogDensity,
    centre: Float[Tensor, "effect subject"],
    factor: Float[Tensor, "effect effect subject"],
    *,
    nodes: int = 9,
    max_nodes: int = 100_000,
    max_columns: int = 50_000,
) -> Float[Tensor, "subject"]:
    r"""Log marginal likelihood by a product grid centred and scaled at each subject's mode.

    .. math:: p(y_i) \approx 2^{k/2} |L_i| \sum_q w_q\, e^{x_q^\top x_q}\, p(y_i,\; c_i + \sqrt2\, L_i x_q)

    with the Hermite nodes and weights for :math:`e^{-x^2}` in each of the ``k`` directions. One node is
    Laplace's approximation; the error falls geometrically with ``nodes`` for a smooth unimodal density: check
    by raising it.

    Args:
        log_joint: Log joint density, ``(effect, *batch) -> (*batch)``.
        centre: Conditional modes, ``(effect, subject)``.
        factor: Lower Cholesky factors of the inverse precisions there, ``(effect, effect, subject)``, from
            ``proposals.factor_of_precision``.
        nodes: Nodes per effect.
        max_nodes: Largest grid per subject.
        max_columns: Largest batch of one call.

    Returns:
        Log marginal likelihoods, ``(subject,)``; ``-inf`` if no node can be evaluated.

    Raises:
        FitError: The grid would exceed ``max_nodes``, or a centre or factor is not finite.

    Example:
        >>> import torch
        >>> one = torch.eye(2, dtype=torch.float64)[..., None]
        >>> log_joint = lambda effects: -0.5 * effects.pow(2).sum(0)
        >>> quadrature_log_marginal(log_joint, one[0], one, nodes=12).exp() / (2 * torch.pi)
        tensor([1.0000], dtype=torch.float64)

    References:
        Liu and Pierce (1994), A note on Gauss-Hermite quadrature. doi:10.1093/biomet/81.3.624
        Pinheiro and Bates (1995), Approximations to the log-likelihood function in the nonlinear
        mixed-effects model. doi:10.1080/10618600.1995.10474663
    """
    effect, subject = centre.shape
    if nodes**effect > max_nodes:
        raise FitError(
            f"adaptive quadrature with {nodes} nodes for each of {effect} effects needs {nodes**effect:,} "
            f"nodes per subject, more than max_nodes={max_nodes:,}. Use fewer nodes, importance_sampling (a "
            "handful of effects) or annealed_importance_sampling (many)."
        )
    finite = torch.isfinite(centre).all(0) & torch.isfinite(factor).all(0).all(0)
    if not bool(finite.all()):
        where = [int(i) for i in (~finite).nonzero()[:, 0]]
        raise FitError(
            "adaptive quadrature: no positive definite curvature at the centre of the subjects at positions "
            f"{where} of the batch. Search from more starts with conditional_modes."
        )
    abscissa, weight = (torch.as_tensor(x).to(centre) for x in np.polynomial.hermite.hermgauss(nodes))
    axis = weight.log() + abscissa.pow(2)
    grid = torch.cartesian_prod(*[abscissa] * effect).reshape(-1, effect).mT
    log_weight = torch.cartesian_prod(*[axis] * effect).reshape(-1, effect).sum(1)
    total = centre.new_full((subject,), -torch.inf)
    chunk = max(1, max_columns // subject)
    for points, log_weights in zip(grid.split(chunk, 1), log_weight.split(chunk), strict=True):
        effects = centre[:, None] + 2**0.5 * torch.einsum("ijs,jq->iqs", factor, points)
        value = evaluate(log_joint, effects) + log_weights[:, None]
        total = torch.logaddexp(total, torch.logsumexp(value, 0))
    log_determinant = factor.diagonal(dim1=0, dim2=1).log().sum(-1)
    return total + log_determinant + 0.5 * effect * np.log(2.0)
