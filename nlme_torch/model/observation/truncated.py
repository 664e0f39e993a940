"""A continuous outcome that cannot lie below a bound: the M4 method for concentrations."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from nlme_torch.model.observation.tails import log_cdf, log_sf, require_tails


class Truncated(dist.TorchDistribution):
    r"""A distribution cut off below a bound.

    .. math:: p(y) = p_0(y) / P_0(Y > \ell), \qquad y > \ell

    With CENS marks in the data, a normal outcome truncated at zero is the method M4 of Beal: below the limit of
    quantification, yet positive. The distribution itself gives M3.

    Args:
        base: Normal, log-normal or Student distribution.
        lower: l, in the outcome's unit.

    Raises:
        ModelError: The distribution has no tail probabilities.

    Example:
        >>> import torch
        >>> half = Truncated(torch.distributions.Normal(torch.tensor(0.0), torch.tensor(1.0)))
        >>> round(half.log_prob(torch.tensor(0.0)).exp().item(), 4)
        0.7979

    References:
        Beal (2001), Ways to fit a PK model with some data below the quantification limit.
        doi:10.1023/A:1012299115260
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, base: Distribution, lower: float = 0.0) -> None:
        require_tails(base)
        self.base, self.lower = base, lower
        super().__init__(base.batch_shape, torch.Size(), validate_args=False)

    @property
    def support(self) -> Any:
        """Values above the bound."""
        return constraints.greater_than_eq(self.lower)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density."""
        inside = value >= self.lower
        return torch.where(inside, self.base.log_prob(value) - self._log_mass(), -torch.inf)

    def log_sf(self, value: Tensor) -> Tensor:
        """Return the log probability of a larger value."""
        above = value > self.lower
        return torch.where(above, log_sf(self.base, torch.where(above, value, self.lower)) - self._log_mass(), 0.0)

    def log_cdf(self, value: Tensor) -> Tensor:
        """Return the log probability of a smaller value."""
        above = value > self.lower
        below_value = log_cdf(self.base, torch.where(above, value, self.lower + 1.0))
        below_bound = log_cdf(self.base, value.new_full((), self.lower))
        inside = below_value + torch.log(-torch.expm1((below_bound - below_value).clamp(max=-1e-300)))
        return torch.where(above, inside - self._log_mass(), -torch.inf)

    def _log_mass(self) -> Tensor:
        like = next(value for value in vars(self.base).values() if isinstance(value, Tensor))
        return log_sf(self.base, like.new_full((), self.lower))

    @property
    def mean(self) -> Tensor:
        """Mean of the distribution before it was cut off: the prediction."""
        return self.base.mean

    @property
    def variance(self) -> Tensor:
        """Variance before it was cut off."""
        return self.base.variance

    def expand(self, batch_shape: Any, _instance: object = None) -> "Truncated":
        """Return the distribution with other batch axes."""
        return Truncated(self.base.expand(batch_shape), self.lower)
