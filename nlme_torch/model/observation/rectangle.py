r"""The probability of a rectangle under the bivariate normal distribution, precise far out in the tails.

.. math:: P(a_1 < Z_1 \le b_1,\; a_2 < Z_2 \le b_2) = \int_{a_1}^{b_1} \varphi(x)
          \left[\Phi\left(\tfrac{b_2 - \rho x}{s}\right) - \Phi\left(\tfrac{a_2 - \rho x}{s}\right)\right] dx, \qquad
          s = \sqrt{1 - \rho^2}

The integrand is log-concave. It is integrated by Gauss and Legendre's rule in panels that double in length on both
sides of its mode and of the places where the bracket rises and falls, and the logarithms of the panels are added up.

References:
    Genz (2004), Numerical computation of rectangular bivariate and trivariate normal and t probabilities.
    doi:10.1023/B:STCO.0000035304.20635.31 (what it is checked against).
"""

import numpy as np
import torch
from torch import Tensor

from nlme_torch.model.observation.standard_normal import HALF_LOG_2PI, StandardNormal
from nlme_torch.model.observation.tails import standard_log_interval

NODES = 16
"""Of a panel: the integrand falls by a factor of e^16 at most within one that matters."""
DOUBLINGS = 14
"""Panels on each side: from a thousandth to sixteen standard deviations."""
REACH = 1e3
"""Where an infinite end is put, in standard deviations."""
HALVINGS = 70
"""Of the interval that holds the mode."""

_LAW = StandardNormal()


def log_rectangle(lower_1: Tensor, upper_1: Tensor, lower_2: Tensor, upper_2: Tensor, correlation: Tensor) -> Tensor:
    """Return the log probability of a rectangle.

    Args:
        lower_1: Lower end of the first, in standard deviations; may be infinite, as the others.
        upper_1: Its upper end, larger.
        lower_2: Lower end of the second.
        upper_2: Its upper end, larger.
        correlation: Between -1 and 1.

    Returns:
        A tensor of their common shape, with two derivatives.

    Example:
        >>> import math, torch
        >>> far, zero = torch.tensor(-math.inf, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
        >>> log_rectangle(far, zero, far, zero, zero).exp()
        tensor(0.2500, dtype=torch.float64)
    """
    a, b, c, d, rho = torch.broadcast_tensors(lower_1, upper_1, lower_2, upper_2, correlation)
    a, b = a.clamp_min(-REACH), b.clamp_max(REACH)
    spread = (1 - rho.square()).sqrt()
    points = _breakpoints(*(value.detach() for value in (a, b, c, d, rho, spread)))
    # within the reach of what matters the ends themselves, whose derivatives count
    points = torch.where(points > a, points, a)
    points = torch.where(points < b, points, b)
    nodes, weights = (torch.as_tensor(value, dtype=a.dtype) for value in np.polynomial.legendre.leggauss(NODES))
    shape = (-1, *(1,) * points.dim())
    half = 0.5 * (points[1:] - points[:-1])
    x = points[:-1] + half * (1 + nodes.reshape(shape))
    inside = half > 0
    log_half = torch.where(inside, half, 1.0).log()
    value = _log_integrand(x, c, d, rho, spread) + weights.log().reshape(shape) + log_half
    return torch.where(inside, value, -torch.inf).flatten(0, 1).logsumexp(0)


def _log_integrand(x: Tensor, c: Tensor, d: Tensor, rho: Tensor, spread: Tensor) -> Tensor:
    left, right = torch.isinf(c), torch.isinf(d)
    both = ~(left | right)
    low, high = torch.where(left, 0.0, c), torch.where(right, 0.0, d)
    top, bottom = (high - rho * x) / spread, (low - rho * x) / spread
    width = torch.where(both, (high - low) / spread, 1.0)
    log_mass = torch.where(both, standard_log_interval(_LAW, bottom, width), 0.0)
    log_mass = torch.where(left & ~right, _LAW.log_sf(-top), log_mass)
    log_mass = torch.where(right & ~left, _LAW.log_sf(bottom), log_mass)
    return -0.5 * x.square() - HALF_LOG_2PI + log_mass


def _slope(x: Tensor, c: Tensor, d: Tensor, rho: Tensor, spread: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(_log_integrand(x, c, d, rho, spread).sum(), x)
    return slope


def _breakpoints(a: Tensor, b: Tensor, c: Tensor, d: Tensor, rho: Tensor, spread: Tensor) -> Tensor:
    """Ends of the panels in order, ``(point, ...)``, some of them outside the interval."""
    low, high = a.clone(), b.clone()
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        rises = _slope(middle, c, d, rho, spread) > 0
        low, high = torch.where(rises, middle, low), torch.where(rises, high, middle)
    mode = 0.5 * (low + high)
    # at an end the integrand may fall from there on: as fast as it does is how short panels must be
    width = 1 / (1 + _slope(mode, c, d, rho, spread).abs())
    doubled = 2.0 ** torch.arange(DOUBLINGS, dtype=a.dtype).reshape(-1, *(1,) * a.dim())
    size = torch.where(rho == 0, 1.0, spread / rho.abs().clamp_min(1e-12)).clamp_max(1.0)
    steps = torch.where(rho == 0, 0.0, 1.0 / torch.where(rho == 0, 1.0, rho))
    places = [mode[None], mode + width * doubled, mode - width * doubled]
    for end in (c, d):
        kink = torch.where(torch.isinf(end), mode, torch.where(torch.isinf(end), 0.0, end) * steps)
        places += [kink[None], kink + size * doubled, kink - size * doubled]
    points = torch.cat([a[None], b[None], *places])
    reach = 40.0  # beyond it the normal density alone is e^-800 of that at the mode
    points = torch.minimum(torch.maximum(points, mode - reach), mode + reach)
    return torch.sort(points, dim=0).values
