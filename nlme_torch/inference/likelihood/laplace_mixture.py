"""A proposal of several humps: one at each conditional mode, weighted by what Laplace's approximation gives it."""

import math

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.errors import FitError
from nlme_torch.inference.mcmc.proposals import Mixture, factor_of_precision
from nlme_torch.inference.modes.conditional_modes import Modes
from nlme_torch.inference.modes.laplace import minus_two_log_integral


def laplace_log_marginal(modes: Modes, *, strict: bool = True) -> Float[Tensor, "*batch"]:
    r"""Laplace approximation at each mode.

    .. math::
        \log p(y_i) \approx \log p(y_i, \hat\eta_i) + \tfrac{k}{2} \log 2\pi - \tfrac12 \log |H_i|, \qquad
        H_i = -\nabla^2 \log p(y_i, \hat\eta_i)

    Nothing is added to :math:`H_i` to make it invertible: a jitter would bias the answer.

    Args:
        modes: Modes with any batch, ``(subject,)`` from ``best_mode`` for the usual approximation.
        strict: Raise where the curvature is not positive definite; otherwise the answer is NaN there.

    Returns:
        Log marginal likelihoods, ``(*batch)``; ``-inf`` for the padding of ``distinct_modes``.

    Raises:
        FitError: A precision is not positive definite (the point is not a maximum); names the subjects.

    Example:
        >>> import torch
        >>> from nlme_torch.inference.modes.conditional_modes import best_mode, conditional_modes
        >>> log_joint = lambda effects: -0.5 * effects.pow(2).sum(0)
        >>> modes = conditional_modes(log_joint, torch.ones(2, 1, 3, dtype=torch.float64))
        >>> laplace_log_marginal(best_mode(modes)).exp() / (2 * torch.pi)
        tensor([1.0000, 1.0000, 1.0000], dtype=torch.float64)

    References:
        Tierney and Kadane (1986), Accurate approximations for posterior moments and marginal densities.
        doi:10.1080/01621459.1986.10478240
    """
    matrices = modes.precision.movedim((0, 1), (-2, -1))
    factors, info = torch.linalg.cholesky_ex(matrices)
    bad = (info != 0) | ~torch.isfinite(matrices).all(-1).all(-1)
    if strict and bool(bad.any()):
        where = sorted({int(i) for i in bad.reshape(-1, bad.shape[-1]).any(0).nonzero()[:, 0]})
        raise FitError(
            "Laplace approximation: minus the Hessian is not positive definite for the subjects at positions "
            f"{where} of the batch, so those points are no maxima. Search from more starts, or use "
            "importance sampling or annealed importance sampling, which need no curvature."
        )
    least = -modes.value - 0.5 * modes.effects.shape[0] * math.log(2 * math.pi)
    value = -0.5 * minus_two_log_integral(least, factors)
    return torch.where(bad, torch.nan, value)


def laplace_mixture(modes: Modes, *, df: float | int = 5, inflation: float = 1.0, floor: float = 0.2) -> Mixture:
    """Mixture of normal or Student-t distributions at the distinct modes, weighted by their Laplace masses.

    Args:
        modes: From ``distinct_modes``, batch ``(mode, subject)``.
        df: Degrees of freedom, a whole number or ``math.inf``.
        inflation: Factor on the standard deviations.
        floor: Share of the weight that is spread evenly over the modes of a subject, so that a mode whose
            mass Laplace underrates is still visited.

    Returns:
        A proposal for ``importance_sampling`` or the independence kernel.

    Raises:
        FitError: A precision is not positive definite.
    """
    mass = laplace_log_marginal(modes)
    present = torch.isfinite(mass)
    even = present / present.sum(0)
    weights = (1.0 - floor) * mass.softmax(0) + floor * even
    return Mixture(modes.effects, inflation * factor_of_precision(modes.precision), weights.log(), df)
