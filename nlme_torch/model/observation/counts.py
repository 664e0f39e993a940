"""Counts."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

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

    def expand(self, batch_shape: Any, _instance: object = None) -> dist.Poisson:
        """Return the distribution with other batch axes."""
        return dist.Poisson(self.rate).expand(batch_shape)


class NegativeBinomial(dist.NegativeBinomial):
    r"""An overdispersed count.

    .. math:: \operatorname{E} y = m, \qquad \operatorname{Var} y = m + d\,m^2

    Args:
        mean: m, positive.
        dispersion: d, positive; towards zero it becomes a Poisson distribution.

    Example:
        >>> import torch
        >>> NegativeBinomial(torch.tensor(2.0), torch.tensor(0.5)).variance
        tensor(4.)
    """

    def __init__(self, mean: Tensor, dispersion: Number) -> None:
        size = 1.0 / torch.as_tensor(dispersion, dtype=mean.dtype, device=mean.device)
        super().__init__(total_count=size, logits=mean.log() - size.log())

    def expand(self, batch_shape: Any, _instance: object = None) -> dist.NegativeBinomial:
        """Return the distribution with other batch axes."""
        return dist.NegativeBinomial(total_count=self.total_count, logits=self.logits).expand(batch_shape)
