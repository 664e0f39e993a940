"""An outcome whose likelihood is written out: NONMEM's LIKE, -2LL and F_FLAG."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


class Likelihood(dist.TorchDistribution):
    """An outcome given by its log density (log probability) alone.

    Values cannot be drawn from it; write the distribution by its name (``nlme.observation.Poisson``) to simulate.

    Args:
        log_density: Observed values ``(record, chain, start, subject)`` to their log density.

    Example:
        >>> import torch
        >>> coin = Likelihood(lambda dv: torch.log(torch.where(dv == 1, 0.25, 0.75)))
        >>> coin.log_prob(torch.tensor([0.0, 1.0])).exp()
        tensor([0.7500, 0.2500])
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real

    def __init__(self, log_density: Callable[[Tensor], Tensor]) -> None:
        self.log_density = log_density
        super().__init__(torch.Size(), torch.Size(), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of observed values."""
        return self.log_density(value)

    def expand(self, batch_shape: Any, _instance: object = None) -> "Likelihood":
        """Return the distribution itself, which takes values of any shape."""
        return self
