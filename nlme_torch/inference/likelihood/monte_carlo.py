"""What every Monte-Carlo estimate of the marginal likelihood returns."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class MarginalEstimate(NamedTuple):
    r"""Estimates of :math:`\log p(y_i) = \log \int p(y_i, \eta)\, d\eta`, one per subject.

    Attributes:
        log_marginal: Log marginal likelihood of each subject, ``(subject,)``, with all constants.
        standard_error: Monte-Carlo standard error of each, ``(subject,)``.
        effective_size: Effective number of independent draws behind each, ``(subject,)``.
        khat: Pareto shape of the importance weights, ``(subject,)``; above 0.7 the estimate and its standard
            error cannot be trusted. NaN for methods that have no such diagnostic.
        evaluations: Number of calls of the log joint density.
        next_rule: The same as ``log_marginal`` by quadrature with two more nodes per effect, which shows the error of
            the rule; None for other methods, and where the grid would be too large.
    """

    log_marginal: Tensor
    standard_error: Tensor
    effective_size: Tensor
    khat: Tensor
    evaluations: int
    next_rule: Tensor | None = None

    @property
    def total(self) -> float:
        """Log marginal likelihood of the data set, the sum over subjects."""
        return self.log_marginal.sum().item()

    @property
    def total_standard_error(self) -> float:
        """Monte-Carlo standard error of ``total``: subjects are estimated independently."""
        return self.standard_error.pow(2).sum().sqrt().item()


def log_mean(log_values: Tensor, dim: int = 0) -> Tensor:
    """Logarithm of the mean of exponentials along ``dim``."""
    return torch.logsumexp(log_values, dim) - math.log(log_values.shape[dim])
