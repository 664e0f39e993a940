"""Outcomes that happen or do not."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


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

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of yes (1) or no (0)."""
        return logsigmoid((2 * value - 1) * self.logits)

    def expand(self, batch_shape: Any, _instance: object = None) -> "Bernoulli":
        """Return the distribution with other batch axes."""
        return Bernoulli(self.logits.expand(batch_shape))


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

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of numbers of successes."""
        failures = self.total_count - value
        ways = torch.lgamma(self.total_count + 1) - torch.lgamma(value + 1) - torch.lgamma(failures + 1)
        return ways + value * logsigmoid(self.logits) + failures * logsigmoid(-self.logits)

    def expand(self, batch_shape: Any, _instance: object = None) -> "Binomial":
        """Return the distribution with other batch axes."""
        return Binomial(self.total_count.expand(batch_shape), self.logits.expand(batch_shape))
