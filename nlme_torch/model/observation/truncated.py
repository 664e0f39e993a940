"""A continuous outcome that cannot lie below a bound: the M4 method for concentrations."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, LogNormal, Normal, StudentT, constraints

from nlme_torch.errors import ModelError
from nlme_torch.model.observation.standard_normal import StandardNormal
from nlme_torch.model.observation.student import StandardStudent
from nlme_torch.model.observation.tails import (
    standard,
    standard_log_excess,
    standard_log_interval,
    standard_log_interval_above,
    standardised,
    standardised_step,
)


class Truncated(dist.TorchDistribution):
    r"""A distribution cut off below a bound.

    .. math:: p(y) = p_0(y) / P_0(Y > \ell), \qquad y > \ell

    With CENS marks in the data, a normal outcome truncated at zero is the method M4 of Beal: below the limit of
    quantification, yet positive. The distribution itself gives M3.

    Args:
        base: Normal, log-normal or Student distribution.
        lower: l, in the outcome's unit.

    Raises:
        ModelError: The distribution is of another kind.

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
        if not isinstance(base, Normal | LogNormal | StudentT):
            raise ModelError(
                f"Truncated: a {type(base).__name__} has no tail probabilities here; cut off a normal, log-normal or "
                "Student outcome."
            )
        self.base: Normal | LogNormal | StudentT = base
        self.lower = lower
        super().__init__(base.batch_shape, torch.Size(), validate_args=False)

    @property
    def support(self) -> Any:
        """Values above the bound."""
        return constraints.greater_than_eq(self.lower)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density."""
        base, inside = self.base, value >= self.lower
        shown = torch.where(inside, value, self.lower + 1.0)
        law, bound, high = self._bound()
        step = standardised_step(base, bound.new_full((), self.lower), shown)
        z = torch.where(high, 0.0, standardised(base, shown))
        above, below = torch.where(high, bound, 1.0), torch.where(high, 0.0, bound)
        step = torch.where(high, step, 1.0)
        far = law.log_density_ratio(step, above) - law.log_mills(above)
        density = torch.where(high, far, law.log_density(z) - law.log_sf(below)) - base.scale.log()
        density = density - shown.log() if isinstance(base, LogNormal) else density
        return torch.where(inside, density, -torch.inf)

    def log_sf(self, value: Tensor) -> Tensor:
        """Return the log probability of a larger value."""
        above = value > self.lower
        shown = torch.where(above, value, self.lower + 1.0)
        law, bound, high = self._bound()
        step = torch.where(high, standardised_step(self.base, bound.new_full((), self.lower), shown), 1.0)
        far = standard_log_excess(law, step, torch.where(high, bound, 1.0))
        z = torch.where(high, 0.0, standardised(self.base, shown))
        near = law.log_sf(z) - law.log_sf(torch.where(high, 0.0, bound))
        return torch.where(above, torch.where(high, far, near), 0.0)

    def log_cdf(self, value: Tensor) -> Tensor:
        """Return the log probability of a smaller value."""
        return self.log_interval(value.new_full((), self.lower), value)

    def log_interval(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Return the log probability of a value in between."""
        lower = lower.clamp_min(self.lower)
        some = upper > lower
        shown = torch.where(some, upper, lower + 1.0)
        law, bound, high = self._bound()
        width = standardised_step(self.base, lower, shown)
        z = torch.where(high, 0.0, standardised(self.base, lower))
        near = standard_log_interval(law, z, torch.where(high, 1.0, width))
        near = near - law.log_sf(torch.where(high, 0.0, bound))
        step = torch.where(high, standardised_step(self.base, bound.new_full((), self.lower), lower), 0.0)
        far = standard_log_interval_above(law, step, torch.where(high, width, 1.0), torch.where(high, bound, 1.0))
        return torch.where(some, torch.where(high, far, near), -torch.inf)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw values above the bound; of Student's distribution there is no way to."""
        if isinstance(self.base, StudentT):
            raise NotImplementedError
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            _, bound, _ = self._bound()
            tail = 0.5 * torch.special.erfc(bound * math.sqrt(0.5)).expand(shape)
            # by the upper tail, which keeps its digits where the bound is high
            above = -torch.special.ndtri(tail * torch.rand(shape, dtype=tail.dtype, device=tail.device))
            value = self.base.loc + self.base.scale * above
            value = value.exp() if isinstance(self.base, LogNormal) else value
            return value.clamp_min(self.lower)

    def _bound(self) -> tuple[StandardNormal | StandardStudent, Tensor, Tensor]:
        """The standard distribution, the bound in its units, and whether that is above the middle.

        There everything is taken relative to the density at the bound, which would cancel.
        """
        bound = standardised(self.base, self.base.scale.new_full((), self.lower))
        return standard(self.base), bound, bound > 0

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
