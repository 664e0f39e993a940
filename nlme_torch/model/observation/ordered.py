"""Ordered categories: scores and grades."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from nlme_torch.errors import ModelError


class OrderedCategorical(dist.TorchDistribution):
    r"""A score by the proportional odds model.

    .. math:: P(y \le k) = 1 / (1 + e^{-(c_k - \ell)}), \qquad k = 0, \dots, K - 1, \qquad c_0 < \dots < c_{K-1}

    Scores are 0, 1, ..., K. With cutpoints out of order every score has probability zero, so that a search backs off.

    Args:
        location: l; a larger one makes higher scores likelier.
        cutpoints: c_0 to c_{K-1}, each a number of one subject.

    Raises:
        ModelError: No cutpoints.

    Example:
        >>> import torch
        >>> score = OrderedCategorical(torch.tensor(0.0), [torch.tensor(-1.0), torch.tensor(1.0)])
        >>> [round(score.log_prob(torch.tensor(float(k))).exp().item(), 4) for k in range(3)]
        [0.2689, 0.4621, 0.2689]

    References:
        McCullagh (1980), Regression models for ordinal data. doi:10.1111/j.2517-6161.1980.tb01109.x
    """

    arg_constraints: dict[str, Any] = {"location": constraints.real}

    def __init__(self, location: Tensor, cutpoints: Sequence[Tensor]) -> None:
        if not len(cutpoints):
            raise ModelError("OrderedCategorical needs at least one cutpoint, which gives two scores.")
        self.location, *points = torch.broadcast_tensors(location, *(torch.as_tensor(c) for c in cutpoints))
        self.cutpoints = torch.stack(points)
        super().__init__(self.location.shape, torch.Size(), validate_args=False)

    @property
    def support(self) -> Any:
        """Scores 0 to K."""
        return constraints.integer_interval(0, len(self.cutpoints))

    def log_probabilities(self) -> Tensor:
        """Return the log probability of every score, ``(score, *batch)``."""
        logit = self.cutpoints - self.location
        step = self.cutpoints[1:] - self.cutpoints[:-1]
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)): no cancellation in either tail
        gap = torch.log(-torch.expm1(-torch.where(step > 0, step, 1.0)))
        inner = logsigmoid(logit[1:]) + logsigmoid(-logit[:-1]) + gap
        # a score that is never seen must not hide that its probability would be negative
        order = torch.where(step > 0, torch.zeros_like(step), -torch.inf).sum(0)
        return torch.cat([logsigmoid(logit[:1]), inner, logsigmoid(-logit[-1:])]) + order

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of scores."""
        table = self.log_probabilities()
        chosen = table[0]
        for score in range(1, len(table)):
            chosen = torch.where(value >= score, table[score], chosen)
        return chosen

    @property
    def mean(self) -> Tensor:
        """Expected score."""
        table = self.log_probabilities().exp()
        score = torch.arange(len(table), dtype=table.dtype, device=table.device)
        return torch.einsum("k...,k->...", table, score)

    @property
    def variance(self) -> Tensor:
        """Variance of the score."""
        table = self.log_probabilities().exp()
        score = torch.arange(len(table), dtype=table.dtype, device=table.device)
        return torch.einsum("k...,k->...", table, score.square()) - self.mean.square()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw scores."""
        cumulative = self.log_probabilities().exp().cumsum(0)
        uniform = torch.rand(torch.Size(sample_shape) + self.batch_shape, dtype=cumulative.dtype)
        return (uniform.to(cumulative.device) >= cumulative[:-1].reshape(-1, *(1,) * len(sample_shape),
                *self.batch_shape)).sum(0).to(cumulative.dtype)  # fmt: skip

    def expand(self, batch_shape: Any, _instance: object = None) -> "OrderedCategorical":
        """Return the distribution with other batch axes."""
        return OrderedCategorical(self.location.expand(batch_shape), [c.expand(batch_shape) for c in self.cutpoints])
