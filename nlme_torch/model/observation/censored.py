"""Observations of which only a side or an interval is known."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from nlme_torch.model.observation.tails import log_cdf, log_interval, log_sf, require_tails


class Censored(dist.TorchDistribution):
    r"""A continuous outcome with some values censored: the method M3 of Beal.

    .. math::
        p(y) \text{ where observed}, \qquad P(\ell < Y \le y) \text{ where left-censored}, \qquad
        P(y < Y \le \ell) \text{ where right-censored}

    Args:
        base: Normal, log-normal, Student or truncated distribution.
        censoring: 0 observed, 1 the truth lies below the value, -1 above it; broadcasts to ``base``.
        limit: The other end l of the interval; infinite where there is none.

    Raises:
        ModelError: The distribution has no tail probabilities.

    Example:
        >>> import torch
        >>> base = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
        >>> none = torch.tensor([-torch.inf, -torch.inf])
        >>> Censored(base, torch.tensor([0, 1]), none).log_prob(torch.zeros(2)).exp()
        tensor([0.3989, 0.5000])

    References:
        Beal (2001), Ways to fit a PK model with some data below the quantification limit.
        doi:10.1023/A:1012299115260
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, base: Distribution, censoring: Tensor, limit: Tensor) -> None:
        require_tails(base)
        self.base, self.censoring, self.limit = base, censoring, limit
        super().__init__(base.batch_shape, torch.Size(), validate_args=False)

    @property
    def support(self) -> Any:
        """Values that can occur."""
        return self.base.support

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log densities of observed values and log probabilities of censored ones."""
        left, right = self.censoring == 1, self.censoring == -1
        bounded = (left | right) & torch.isfinite(self.limit)
        some_left, some_right, some_bounded = self._occur(left, right, bounded)
        density = self.base.log_prob(value)
        if some_left:
            density = torch.where(left, log_cdf(self.base, value), density)
        if some_right:
            density = torch.where(right, log_sf(self.base, value), density)
        if some_bounded:
            # evaluated everywhere, hence shown ends that are in order wherever it is not meant
            lower = torch.where(bounded, torch.minimum(self.limit, value), value - 1.0)
            upper = torch.where(bounded, torch.maximum(self.limit, value), value)
            density = torch.where(bounded, log_interval(self.base, lower, upper), density)
        return density

    def _occur(self, left: Tensor, right: Tensor, bounded: Tensor) -> tuple[bool, bool, bool]:
        """Whether any value is left-censored, right-censored, or censored with a finite limit."""
        return bool(left.any()), bool(right.any()), bool(bounded.any())

    @property
    def mean(self) -> Tensor:
        """Mean of the outcome itself."""
        return self.base.mean

    @property
    def variance(self) -> Tensor:
        """Variance of the outcome itself."""
        return self.base.variance

    def expand(self, batch_shape: Any, _instance: object = None) -> "Censored":
        """Return the distribution with other batch axes."""
        return Censored(self.base.expand(batch_shape), self.censoring, self.limit)
