"""Outcomes that happen or do not."""

from typing import Any

import pyro.distributions as dist
from torch import Tensor


class Bernoulli(dist.Bernoulli):
    r"""One yes (1) or no (0).

    .. math:: P(y = 1) = 1 / (1 + e^{-\ell})

    Args:
        logit: l, the log odds.

    Example:
        >>> import torch
        >>> Bernoulli(torch.tensor(0.0)).mean
        tensor(0.5000)
    """

    def __init__(self, logit: Tensor) -> None:
        super().__init__(logits=logit)

    def expand(self, batch_shape: Any, _instance: object = None) -> dist.Bernoulli:
        """Return the distribution with other batch axes."""
        return dist.Bernoulli(logits=self.logits).expand(batch_shape)


class Binomial(dist.Binomial):
    r"""How many of n tries succeed.

    .. math:: P(y = k) = \binom{n}{k} p^k (1 - p)^{n - k}, \qquad p = 1 / (1 + e^{-\ell})

    Args:
        trials: n.
        logit: l, the log odds of one success.

    Example:
        >>> import torch
        >>> Binomial(10, torch.tensor(0.0)).mean
        tensor(5.)
    """

    def __init__(self, trials: int | Tensor, logit: Tensor) -> None:
        super().__init__(total_count=trials, logits=logit)

    def expand(self, batch_shape: Any, _instance: object = None) -> dist.Binomial:
        """Return the distribution with other batch axes."""
        return dist.Binomial(total_count=self.total_count, logits=self.logits).expand(batch_shape)
