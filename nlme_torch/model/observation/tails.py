"""Log probabilities of values below and above a point, precise far out in the tails."""

import torch
from torch import Tensor
from torch.distributions import Distribution, LogNormal, Normal, StudentT
from torch.special import log_ndtr

from nlme_torch.errors import ModelError
from nlme_torch.model.observation.student import student_log_cdf


def log_cdf(distribution: Distribution, value: Tensor) -> Tensor:
    """Return log P(Y <= value).

    Args:
        distribution: Normal, log-normal, Student or truncated.
        value: Points that broadcast to the distribution.

    Raises:
        ModelError: The distribution is of another kind.
    """
    if isinstance(distribution, Normal | LogNormal | StudentT):
        z = _standardised(distribution, value)
        return student_log_cdf(z, distribution.df) if isinstance(distribution, StudentT) else log_ndtr(z)
    require_tails(distribution)
    return distribution.log_cdf(value)  # type: ignore[attr-defined]


def log_sf(distribution: Distribution, value: Tensor) -> Tensor:
    """Return log P(Y > value); see :func:`log_cdf`."""
    if isinstance(distribution, Normal | LogNormal | StudentT):
        z = -_standardised(distribution, value)
        return student_log_cdf(z, distribution.df) if isinstance(distribution, StudentT) else log_ndtr(z)
    require_tails(distribution)
    return distribution.log_sf(value)  # type: ignore[attr-defined]


def log_interval(distribution: Distribution, lower: Tensor, upper: Tensor) -> Tensor:
    """Return log P(lower < Y <= upper), taken on the side where it loses no digits.

    Args:
        distribution: As for :func:`log_cdf`.
        lower: Finite lower ends.
        upper: Finite upper ends, larger.
    """
    left = log_cdf(distribution, lower), log_cdf(distribution, upper)
    right = log_sf(distribution, upper), log_sf(distribution, lower)
    use_right = left[0] > right[1]
    small = torch.where(use_right, right[0], left[0])
    large = torch.where(use_right, right[1], left[1])
    return large + torch.log(-torch.expm1((small - large).clamp(max=-1e-300)))


def _standardised(distribution: Normal | LogNormal | StudentT, value: Tensor) -> Tensor:
    if isinstance(distribution, LogNormal):
        positive = value > 0
        return torch.where(positive, torch.where(positive, value, 1.0).log(), -1e6) / distribution.scale - (
            distribution.loc / distribution.scale
        )
    return (value - distribution.loc) / distribution.scale


def require_tails(distribution: Distribution) -> None:
    """Refuse a distribution whose tail probabilities are not known.

    Raises:
        ModelError: It is neither normal, log-normal, Student nor truncated.
    """
    if not (isinstance(distribution, Normal | LogNormal | StudentT) or hasattr(distribution, "log_sf")):
        raise ModelError(
            f"a {type(distribution).__name__} has no tail probabilities here, so it cannot be censored or cut off; use "
            "a normal, log-normal, Student or truncated outcome, or leave the CENS column out."
        )
