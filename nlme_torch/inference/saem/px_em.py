r"""Parameter expansion for low-rank random weights, where holding z in the M-step makes EM crawl.

With w_i = w + B z_i and z_i ~ N(0, I), a shift of w along B is the same as a shift of all z_i, so that a gradient
step on w at given draws of z is a small part of the way. Let z_i ~ N(m, S) for a moment, estimate m and S in closed
form, and read the result in the model's own terms,

.. math::
    w \leftarrow w + B m, \qquad B \leftarrow B\,\mathrm{chol}(S), \qquad
    z_i \leftarrow \mathrm{chol}(S)^{-1} (z_i - m)

which leaves every subject's weights, and so the likelihood of the data given them, as they are.

References:
    Liu, Rubin and Wu (1998), Parameter expansion to accelerate EM: the PX-EM algorithm. doi:10.1093/biomet/85.4.755
"""

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.inference.numerics import linear_algebra
from nlme_torch.model.declare.values import ParameterValues
from nlme_torch.model.density.density import Density
from nlme_torch.model.networks.random_weights import RandomWeights
from nlme_torch.model.parameters.priors import L1


def expand_low_rank(
    density: Density,
    values: ParameterValues,
    transformed: Float[Tensor, "effect chain start subject"],
    gain: float,
    variance_floor: float,
) -> tuple[dict[str, Tensor], Tensor]:
    """Recentre and rescale the effects of every low-rank network.

    Args:
        density: The model with its data.
        values: Current values, raw name to ``(start, *shape)``.
        transformed: Current draws of phi; z for the effects concerned.
        gain: Fraction of the way from the current parameters, in (0, 1].
        variance_floor: Smallest allowed ratio of a variance to its old value (simulated annealing), 0 for none.

    Returns:
        The values that changed, and the draws in terms of them.
    """
    changed: dict[str, Tensor] = {}
    for name, component in density.model.components.items():
        if not (isinstance(component, RandomWeights) and component.low_rank):
            continue
        place = density.slices[name]
        z = transformed[place]
        draws = z.shape[1] * z.shape[3]
        mean = z.mean((1, 3))
        deviations = z - mean[:, None, :, None]
        identity = torch.eye(len(z), dtype=z.dtype, device=z.device)
        spread = torch.einsum("icsn,jcsn->sij", deviations, deviations) / draws
        if variance_floor > 0:
            spread = _floored(spread, variance_floor)
        factor = linear_algebra.cholesky(identity + gain * (spread - identity))
        weights, loading = values[f"{name}.network.weights"], values[f"{name}.loading"]
        matrix = component.loading_matrix(loading)
        shift = torch.zeros_like(mean)
        if component.network.weights.requires_grad:
            shift = gain * _best_shift(component, weights, matrix, mean, z.shape[3])
            changed[f"{name}.network.weights"] = weights + torch.einsum("swq,qs->sw", matrix, shift)
        changed[f"{name}.loading"] = component.pack_loading(matrix @ factor)
        centred = (z - shift[:, None, :, None]).permute(2, 0, 1, 3)
        solved = torch.linalg.solve_triangular(factor, centred.flatten(2), upper=False).reshape(centred.shape)
        transformed = transformed.clone()
        transformed[place] = solved.permute(1, 2, 0, 3)
    return changed, transformed


def _best_shift(component: RandomWeights, weights: Tensor, loading: Tensor, mean: Tensor, subjects: int) -> Tensor:
    """The m that maximises ``-N |m - mean|^2 / 2 + log prior(w + B m)``, by one Newton step, ``(effect, start)``."""
    prior = component.network.prior
    if prior is None:
        return mean
    leaf = weights.detach().requires_grad_()
    with torch.enable_grad():
        # the zero keeps a graph where a prior has no curvature
        log_prior = component.network.log_prior(leaf).sum() + 0.0 * leaf.square().sum()
        (slope,) = torch.autograd.grad(log_prior, leaf, create_graph=True)
        (second,) = torch.autograd.grad(slope.sum(), leaf)
    slope, curvature = slope.detach(), (-second).clamp_min(0.0)
    if isinstance(prior, L1):  # its kink, by the quadratic that majorises it
        curvature = prior.strength / weights.abs().clamp_min(1e-6)
    score = subjects * mean.mT + torch.einsum("swq,sw->sq", loading, slope)
    information = torch.einsum("swq,sw,swr->sqr", loading, curvature, loading)
    information = information + subjects * torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
    return linear_algebra.solve(information, score[..., None])[..., 0].mT


def _floored(spread: Tensor, floor: float) -> Tensor:
    """Raise the eigenvalues of a covariance matrix to a floor."""
    values, vectors = linear_algebra.symmetric_eigen(spread)
    return (vectors * values.clamp_min(floor)[:, None, :]) @ vectors.mT
