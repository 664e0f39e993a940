"""Pareto-smoothed importance sampling: the weights' tail says whether an estimate can be trusted."""

import math

import torch
from torch import Tensor

from nlme_torch._typing import Float


def fit_generalized_pareto(
    exceedances: Float[Tensor, "tail subject"],
) -> tuple[Float[Tensor, "subject"], Float[Tensor, "subject"]]:
    r"""Fit a generalized Pareto distribution to positive exceedances.

    .. math:: p(x) = \frac1\sigma \left(1 + \frac{k x}{\sigma}\right)^{-1/k - 1}

    The quasi-Bayesian estimate: the profile likelihood averaged over a data-driven grid, no iterations.

    Args:
        exceedances: Sorted upwards along the first axis, positive, ``(tail, subject)``.

    Returns:
        ``(k, sigma)``, each ``(subject,)``.

    References:
        Zhang and Stephens (2009), A new and efficient estimation method for the generalized Pareto
        distribution. doi:10.1198/tech.2009.08017
    """
    count = exceedances.shape[0]
    grid = 30 + math.isqrt(count)
    index = torch.arange(1, grid + 1, dtype=exceedances.dtype, device=exceedances.device)[:, None]
    quartile = exceedances[max(0, int(count / 4 + 0.5) - 1)]
    theta = 1.0 / exceedances[-1] + (1.0 - (grid / (index - 0.5)).sqrt()) / (3.0 * quartile)
    shape = torch.log1p(-theta[:, None] * exceedances).mean(1)
    profile = count * (torch.log(-theta / shape) - shape - 1.0)
    mean_theta = (theta * profile.softmax(0)).sum(0)
    k = torch.log1p(-mean_theta * exceedances).mean(0)
    return k, -k / mean_theta


def pareto_smooth(
    log_weights: Float[Tensor, "sample subject"],
) -> tuple[Float[Tensor, "sample subject"], Float[Tensor, "subject"]]:
    r"""Smooth the largest importance weights of each subject and report the Pareto shape of their tail.

    The :math:`\min(0.2 S, 3 \sqrt S)` largest of ``S`` weights are replaced by expected order statistics of
    the fitted generalized Pareto distribution. The shape is pulled towards 0.5 by ten pseudo-observations.

    Args:
        log_weights: Log importance weights, ``(sample, subject)``, ``-inf`` allowed.

    Returns:
        ``(smoothed log weights, khat)``, ``(sample, subject)`` and ``(subject,)``. Below 0.5 the plain
        estimate has finite variance; up to 0.7 it is usable; above, it is not. ``khat`` is ``inf`` where the
        tail cannot be fitted (fewer than five distinct finite weights in the tail), and ``-inf`` where all
        weights are equal: nothing could be better.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> log_weights = torch.randn(1000, 1, generator=generator, dtype=torch.float64)
        >>> pareto_smooth(log_weights)[1] < 0.7
        tensor([True])

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling, JMLR 25(72).
    """
    count = log_weights.shape[0]
    tail = math.ceil(min(0.2 * count, 3.0 * math.sqrt(count)))
    if count < 25 or tail < 5:
        return log_weights, torch.full_like(log_weights[0], torch.inf)
    ordered, order = log_weights.sort(0)
    top = ordered[-1]
    cutoff = torch.maximum(ordered[-tail - 1], top - 700.0)  # exp(-700) is the smallest normal number
    exceedances = (ordered[-tail:] - top).exp() - (cutoff - top).exp()
    distinct = exceedances[-1] - exceedances[0] > 1e-12
    fittable = distinct & (exceedances > 0).sum(0).ge(tail) & torch.isfinite(top)
    safe = torch.where(fittable, exceedances, torch.arange(1.0, tail + 1.0).to(exceedances)[:, None])
    raw, sigma = fit_generalized_pareto(safe)
    khat = (raw * tail + 0.5 * 10.0) / (tail + 10.0)

    level = (torch.arange(tail).to(exceedances)[:, None] + 0.5) / tail
    quantile = sigma * torch.expm1(-khat * torch.log1p(-level)) / khat
    smoothed = (torch.log(quantile + (cutoff - top).exp())).clamp(max=0.0) + top
    finished = torch.where(fittable, smoothed, ordered[-tail:])
    result = torch.empty_like(log_weights).scatter(0, order, torch.cat([ordered[:-tail], finished]))
    equal = torch.isfinite(top) & (ordered[-1] - ordered[0] < 1e-12)
    return result, torch.where(fittable, khat, torch.where(equal, -torch.inf, torch.inf))
