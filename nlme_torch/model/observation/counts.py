"""Counts."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from nlme_torch.model.observation.gamma_functions import (
    LARGE,
    deviance,
    log_factorial_remainder,
    log_gamma,
    log_gamma_ratio,
    stirling_remainder,
)
from nlme_torch.model.observation.logarithms import NEAR, mean_log1p, shortfall_log1p

Number = Tensor | float


class Poisson(dist.Poisson):
    r"""A count whose variance is its mean.

    .. math:: P(y = k) = \lambda^k e^{-\lambda} / k!

    Args:
        mean: lambda, positive.

    Example:
        >>> import torch
        >>> Poisson(torch.tensor(2.0)).variance
        tensor(2.)
    """

    def __init__(self, mean: Tensor) -> None:
        super().__init__(mean)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of counts."""
        rate, count = torch.broadcast_tensors(self.rate, torch.as_tensor(value).to(self.rate))
        some = count > 0
        known, mean = torch.where(some, count, 1.0), torch.where(some, rate, 1.0)
        return torch.where(some, -_log_peak(known) - deviance(known, mean), -rate)

    def expand(self, batch_shape: Any, _instance: object = None) -> "Poisson":
        """Return the distribution with other batch axes."""
        return Poisson(self.rate.expand(batch_shape))


class NegativeBinomial(dist.TorchDistribution):
    r"""An overdispersed count.

    .. math:: P(y = k) = \frac{\Gamma(k + 1/d)}{k!\,\Gamma(1/d)} \frac{(d\,m)^k}{(1 + d\,m)^{k + 1/d}}, \qquad
        \operatorname{E} y = m, \qquad \operatorname{Var} y = m + d\,m^2

    It is evaluated as the Poisson probability and what the dispersion adds to it, so that value and derivatives hold
    for every dispersion down to zero.

    Args:
        mean: m, positive.
        dispersion: d, not negative; at zero it is a Poisson distribution.

    Example:
        >>> import torch
        >>> NegativeBinomial(torch.tensor(2.0), torch.tensor(0.5)).variance
        tensor(4.)
    """

    arg_constraints: dict[str, Any] = {"mean": constraints.positive, "dispersion": constraints.nonnegative}
    support = constraints.nonnegative_integer

    def __init__(self, mean: Tensor, dispersion: Number) -> None:
        dispersion = torch.as_tensor(dispersion, dtype=mean.dtype, device=mean.device)
        self._mean, self.dispersion = torch.broadcast_tensors(mean, dispersion)
        super().__init__(self._mean.shape, torch.Size(), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Expected count."""
        return self._mean

    @property
    def variance(self) -> Tensor:
        """Variance of the count."""
        return self._mean + self.dispersion * self._mean.square()

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of counts."""
        mean, spread, count = torch.broadcast_tensors(
            self._mean, self.dispersion, torch.as_tensor(value).to(self._mean)
        )
        some, near = count > 0, spread <= 1 / LARGE
        known, rate = torch.where(some, count, 1.0), torch.where(some, mean, 1.0)
        slight = _slightly_dispersed(known, rate, torch.where(near, spread, 0.0))
        strong = _strongly_dispersed(known, rate, torch.where(near, 1.0, spread))
        # beyond 1e300 the product overflows, where nothing is likely
        none = -mean * mean_log1p(spread * mean)
        return torch.where(some, torch.where(near, slight, strong), none)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw counts: Poisson ones whose mean is gamma distributed."""
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            mean, dispersion = self._mean.expand(shape), self.dispersion.expand(shape)
            # below 1e-12 the spread of the mean is lost in that of the count
            size = 1 / dispersion.clamp_min(1e-12)
            drawn = torch._standard_gamma(size) / size
            return torch.poisson(mean * drawn)

    def expand(self, batch_shape: Any, _instance: object = None) -> "NegativeBinomial":
        """Return the distribution with other batch axes."""
        return NegativeBinomial(self._mean.expand(batch_shape), self.dispersion.expand(batch_shape))


def _log_peak(count: Tensor) -> Tensor:
    """Minus the log probability of a Poisson count at its own mean."""
    return 0.5 * (2 * math.pi * count).log() + log_factorial_remainder(count)


def _slightly_dispersed(count: Tensor, mean: Tensor, dispersion: Tensor) -> Tensor:
    """Log probability for dispersions from 0 to 0.1: Stirling's series in the dispersion."""
    inverse = dispersion / (1 + count * dispersion)  # 1 / (k + 1/d)
    peak = 0.5 * torch.log1p(count * dispersion) + stirling_remainder(dispersion) - stirling_remainder(inverse)
    difference = mean - count
    near = difference.abs() <= NEAR * count
    close = torch.where(near, difference, 0.0)
    less = shortfall_log1p(close / count) / count - inverse * shortfall_log1p(close * inverse)
    far, apart = torch.where(near, count, mean), torch.where(near, 0.0, difference)
    rise = apart * inverse
    low = rise.abs() <= NEAR
    some = torch.where(low, 1.0, dispersion)
    grown = (count + 1 / some) * (torch.log1p(far * some) - torch.log1p(count * some))
    grown = torch.where(low, apart * mean_log1p(torch.where(low, rise, 0.0)), grown)
    away = count * (count.log() - far.log()) + grown
    return -_log_peak(count) - peak - torch.where(near, close.square() * less, away)


def _strongly_dispersed(count: Tensor, mean: Tensor, dispersion: Tensor) -> Tensor:
    """Log probability for dispersions above 0.1, where 1/d is small."""
    size, log_spread = 1 / dispersion, dispersion.log()
    many = count >= 2 * LARGE
    large, small = torch.where(many, count, 2 * LARGE), torch.where(many, 1.0, count)
    inverse = 1 / (large + 1)
    rising = torch.where(
        many,
        log_gamma_ratio(inverse, size - 1) - (size - 1) * inverse.log(),
        log_gamma(small + size) - torch.lgamma(small + 1),
    )
    log_odds = log_spread + mean.log()
    return rising - log_gamma(1 + size) - log_spread + count * logsigmoid(log_odds) + size * logsigmoid(-log_odds)
