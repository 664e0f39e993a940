r"""How many iterations of Markov chains one independent draw costs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nlme_torch._typing import Float

NEGLIGIBLE = 0.05
"""Autocorrelation from which on longer lags are left out."""


def autocorrelation_time(draws: Sequence[Float[Tensor, "effect chain start subject"]]) -> float:
    r"""Return the integrated autocorrelation time of the slowest effect, at least one iteration.

    .. math:: \tau = 1 + 2 \sum_{k \ge 1} \rho_k

    rho is the mean over subjects of every subject's own autocorrelation about the mean of all its draws; the sum ends
    where rho has become negligible, at the latest at half of the length.

    Args:
        draws: Of successive iterations.

    Example:
        >>> import torch
        >>> from nlme_torch.inference.mcmc.autocorrelation import autocorrelation_time
        >>> generator = torch.Generator().manual_seed(1)
        >>> round(autocorrelation_time(torch.randn(100, 1, 8, 1, 20, generator=generator).unbind()), 1)
        1.0

    References:
        Geyer (1992), Practical Markov chain Monte Carlo. doi:10.1214/ss/1177011137
    """
    stacked = torch.stack(list(draws))
    deviations = stacked - stacked.mean((0, 2), keepdim=True)
    variance = deviations.square().mean((0, 2)).clamp_min(1e-300)
    time = torch.ones(stacked.shape[1], dtype=stacked.dtype, device=stacked.device)
    counting = torch.ones_like(time, dtype=torch.bool)
    for lag in range(1, len(stacked) // 2 + 1):
        products = (deviations[:-lag] * deviations[lag:]).mean((0, 2))
        correlation = (products / variance).mean((-2, -1))
        counting = counting & (correlation > NEGLIGIBLE)
        if not counting.any():
            break
        time = time + 2 * torch.where(counting, correlation, 0)
    return float(time.max())
