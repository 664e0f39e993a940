r"""Log probabilities of values below, above and between points, precise far out in the tails.

Normal, log-normal and Student outcomes are a standard distribution after shift and scale, with density p and Mills'
ratio M = P(Z > z) / p(z). An interval far out is

.. math:: P(a < Z \le b) = p(a)\,M(a) \left(1 - \frac{p(b)\,M(b)}{p(a)\,M(a)}\right)

on the side of the shorter tail; one so narrow that the difference would cancel is the integral of its density.
"""

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, LogNormal, Normal, StudentT

from nlme_torch.errors import ModelError
from nlme_torch.model.observation.logarithms import log1mexp
from nlme_torch.model.observation.standard_normal import StandardNormal
from nlme_torch.model.observation.student import StandardStudent

LOWEST = -1e8
"""Where the logarithm of a value that is not positive is put, in standard deviations."""


def log_cdf(distribution: Distribution, value: Tensor) -> Tensor:
    """Return log P(Y <= value).

    Args:
        distribution: Normal, log-normal, Student or truncated.
        value: Points that broadcast to the distribution.

    Raises:
        ModelError: The distribution is of another kind.
    """
    if isinstance(distribution, Normal | LogNormal | StudentT):
        return standard(distribution).log_sf(-standardised(distribution, value))
    require_tails(distribution)
    return distribution.log_cdf(value)  # type: ignore[attr-defined]


def log_sf(distribution: Distribution, value: Tensor) -> Tensor:
    """Return log P(Y > value); see :func:`log_cdf`."""
    if isinstance(distribution, Normal | LogNormal | StudentT):
        return standard(distribution).log_sf(standardised(distribution, value))
    require_tails(distribution)
    return distribution.log_sf(value)  # type: ignore[attr-defined]


def log_interval(distribution: Distribution, lower: Tensor, upper: Tensor) -> Tensor:
    """Return log P(lower < Y <= upper).

    Args:
        distribution: As for :func:`log_cdf`.
        lower: Finite lower ends.
        upper: Finite upper ends, larger.
    """
    if isinstance(distribution, Normal | LogNormal | StudentT):
        width = standardised_step(distribution, lower, upper)
        return standard_log_interval(standard(distribution), standardised(distribution, lower), width)
    require_tails(distribution)
    return distribution.log_interval(lower, upper)  # type: ignore[attr-defined]


def standard(distribution: Normal | LogNormal | StudentT) -> StandardNormal | StandardStudent:
    """Return the standard distribution behind one with location and scale."""
    return StandardStudent(distribution.df) if isinstance(distribution, StudentT) else StandardNormal()


def standardised(distribution: Normal | LogNormal | StudentT, value: Tensor) -> Tensor:
    """Return ``(value - location) / scale``, of the logarithm for a log-normal distribution."""
    if not isinstance(distribution, LogNormal):
        return (value - distribution.loc) / distribution.scale
    positive = value > 0
    z = (torch.where(positive, value, 1.0).log() - distribution.loc) / distribution.scale
    return torch.where(positive, z, LOWEST)


def standardised_step(distribution: Normal | LogNormal | StudentT, lower: Tensor, upper: Tensor) -> Tensor:
    """Return the difference of two standardised values, which keeps its digits where they are large."""
    if not isinstance(distribution, LogNormal):
        return (upper - lower) / distribution.scale
    positive = lower > 0
    safe = torch.where(positive, lower, 1.0)
    step = torch.log1p((upper - lower) / safe) / distribution.scale
    return torch.where(positive, step, standardised(distribution, upper) - LOWEST)


def standard_log_interval(law: StandardNormal | StandardStudent, lower: Tensor, width: Tensor) -> Tensor:
    """Return log P(lower < Z <= lower + width).

    Args:
        law: A standard distribution, symmetric about zero.
        lower: Lower ends.
        width: Positive.
    """
    lower, width = torch.broadcast_tensors(lower, width)
    lower = torch.where(2 * lower + width < 0, -(lower + width), lower)
    middle = lower + 0.5 * width
    narrow = _is_narrow(law, width, middle)
    # where the one form is meant the other is shown an interval of its own kind
    close, centre = torch.where(narrow, width, 0.5), torch.where(narrow, middle, 0.0)
    start, end = torch.where(narrow, 0.0, lower), torch.where(narrow, 2.0, lower + width)
    inside = _narrow(law, close, centre) + law.log_density(centre)
    bottom, top = law.log_sf(start), law.log_sf(end)
    return torch.where(narrow, inside, bottom + log1mexp((top - bottom).clamp(max=-1e-300)))


def standard_log_excess(law: StandardNormal | StandardStudent, step: Tensor, above: Tensor) -> Tensor:
    """Return log P(Z > above + step | Z > above) for a positive ``above``."""
    return law.log_mills(above + step) - law.log_mills(above) + law.log_density_ratio(step, above)


def standard_log_interval_above(
    law: StandardNormal | StandardStudent, step: Tensor, width: Tensor, above: Tensor
) -> Tensor:
    """Return log P(above + step < Z <= above + step + width | Z > above) for a positive ``above``."""
    step, width, above = torch.broadcast_tensors(step, width, above)
    middle = above + step + 0.5 * width
    narrow = _is_narrow(law, width, middle)
    close, far = torch.where(narrow, width, 0.5), torch.where(narrow, 2.0, width)
    inside = _narrow(law, close, torch.where(narrow, middle, 0.0)) - law.log_mills(above)
    inside = inside + law.log_density_ratio(step + 0.5 * close, above)
    first = standard_log_excess(law, step, above)
    return torch.where(narrow, inside, first + log1mexp(standard_log_excess(law, far, above + step)))


def _is_narrow(law: StandardNormal | StandardStudent, width: Tensor, middle: Tensor) -> Tensor:
    """Whether the density changes little within an interval."""
    return width.square() * law.curvature(middle) <= 1.0


def _narrow(law: StandardNormal | StandardStudent, width: Tensor, middle: Tensor) -> Tensor:
    """Log of the integral of the density over a narrow interval, in terms of that at its middle."""
    node, weight = (torch.as_tensor(x).to(width) for x in np.polynomial.legendre.leggauss(12))
    shape = (-1, *(1,) * width.dim())
    ratio = law.log_density_ratio(0.5 * width * node.reshape(shape), middle)
    return torch.log(width) + torch.log((0.5 * weight.reshape(shape) * ratio.exp()).sum(0))


def require_tails(distribution: Distribution) -> None:
    """Refuse a distribution whose tail probabilities are not known.

    Raises:
        ModelError: It is neither normal, log-normal, Student nor truncated.
    """
    if not (isinstance(distribution, Normal | LogNormal | StudentT) or hasattr(distribution, "log_interval")):
        raise ModelError(
            f"a {type(distribution).__name__} has no tail probabilities here, so it cannot be censored or cut off; use "
            "a normal, log-normal, Student or truncated outcome, or leave the CENS column out."
        )
