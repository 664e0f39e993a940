r"""Ratios of gamma functions by Stirling's series, so that what cancels between them is never formed.

.. math:: \log \Gamma(x) = (x - \tfrac12) \log x - x + \tfrac12 \log 2 \pi + S(x), \qquad
          S(x) = \frac{1}{12 x} - \frac{1}{360 x^3} + \dots

References:
    Loader (2000), Fast and accurate computation of binomial probabilities.
"""

import math

import torch
from torch import Tensor

from nlme_torch.model.observation.logarithms import NEAR, horner, shortfall_log1p

LARGE = 10.0
"""From here on seven terms of the series are exact to rounding."""

_SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
"""Stirling's series: Bernoulli numbers over 2k (2k - 1)."""


def stirling_remainder(inverse: Tensor) -> Tensor:
    """Return S(x).

    Args:
        inverse: 1 / x, between 0 and 0.1.
    """
    return inverse * horner(_SERIES, inverse.square())


def log_gamma(x: Tensor) -> Tensor:
    """Return the logarithm of the gamma function of x > 0.

    Ten digits are right in the second derivative of torch's own.
    """
    large = x >= LARGE
    small = torch.where(large, 1.0, x)
    shifted = torch.where(large, x, small + LARGE)
    product = small
    for step in range(1, int(LARGE)):
        product = product * (small + step)
    stirling = (shifted - 0.5) * shifted.log() - shifted + 0.5 * math.log(2 * math.pi)
    stirling = stirling + stirling_remainder(1 / shifted)
    return torch.where(large, stirling, stirling - product.log())


def log_gamma_ratio(inverse: Tensor, shift: Tensor | float) -> Tensor:
    r"""Return :math:`\log \Gamma(x + \delta) - \log \Gamma(x) - \delta \log x`, which tends to 0 as x grows.

    Args:
        inverse: 1 / x, between 0 and 0.1.
        shift: delta, with ``x + delta`` at least 9.
    """
    rise = shift * inverse
    moved = stirling_remainder(inverse / (1 + rise)) - stirling_remainder(inverse)
    return -shift * rise * shortfall_log1p(rise) + (shift - 0.5) * torch.log1p(rise) + moved


def log_factorial_remainder(count: Tensor) -> Tensor:
    r"""Return :math:`\log k! - (k + \tfrac12) \log k + k - \tfrac12 \log 2 \pi` of counts k >= 1."""
    large = count >= LARGE
    some, many = torch.where(large, 1.0, count), torch.where(large, count, LARGE)
    direct = torch.lgamma(some + 1) - (some + 0.5) * some.log() + some - 0.5 * math.log(2 * math.pi)
    return torch.where(large, stirling_remainder(1 / many), direct)


def deviance(count: Tensor, mean: Tensor) -> Tensor:
    r"""Return :math:`k \log (k / m) - (k - m) \ge 0`, exact to rounding near k = m too.

    Args:
        count: k > 0.
        mean: m > 0.
    """
    difference = mean - count
    near = difference.abs() <= NEAR * count
    close = torch.where(near, difference, 0.0)
    far = torch.where(near, count, mean)
    return torch.where(
        near,
        close.square() / count * shortfall_log1p(close / count),
        count * (count.log() - far.log()) + (far - count),
    )
