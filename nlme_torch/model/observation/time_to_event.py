"""Times of events, through a hazard that the model integrates as a state."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


class TimeToEvent(dist.TorchDistribution):
    r"""Whether the event happened at a record's time (1), or the subject was seen without it until then (0).

    .. math:: \log p(y = 1) = \log h(t) - H(t), \qquad \log p(y = 0) = -H(t), \qquad H' = h

    One record per subject carries the outcome: the time of the event, or of the end of observation. For repeated
    events use :class:`IntervalCensoredEvent`, or restart H.

    Args:
        hazard: h at the record's time, per time; positive where an event was observed.
        cumulative_hazard: H at the record's time: a state with derivative h and initial value 0.

    Example:
        >>> import torch
        >>> TimeToEvent(torch.tensor(0.5), torch.tensor(2.0)).log_prob(torch.tensor([0.0, 1.0]))
        tensor([-2.0000, -2.6931])
    """

    arg_constraints: dict[str, Any] = {"hazard": constraints.positive, "cumulative_hazard": constraints.nonnegative}
    support = constraints.boolean

    def __init__(self, hazard: Tensor, cumulative_hazard: Tensor) -> None:
        self.hazard, self.cumulative_hazard = torch.broadcast_tensors(hazard, cumulative_hazard)
        super().__init__(self.hazard.shape, torch.Size(), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of an event (1), or the log probability of none so far (0)."""
        event = value == 1
        # the hazard may be zero where no event was seen
        safe = torch.where(event, self.hazard, 1.0)
        return torch.where(event, safe.log(), 0.0) - self.cumulative_hazard

    @property
    def mean(self) -> Tensor:
        """Probability that the event has happened by then."""
        return -torch.expm1(-self.cumulative_hazard)

    @property
    def variance(self) -> Tensor:
        """Variance of the indicator that it has happened by then."""
        return self.mean * torch.exp(-self.cumulative_hazard)

    def expand(self, batch_shape: Any, _instance: object = None) -> "TimeToEvent":
        """Return the distribution with other batch axes."""
        return TimeToEvent(self.hazard.expand(batch_shape), self.cumulative_hazard.expand(batch_shape))


class IntervalCensoredEvent(dist.TorchDistribution):
    r"""Whether the event happened since the subject's previous record of this outcome (1) or not (0).

    .. math:: P(y_k = 0) = e^{-(H(t_k) - H(t_{k-1}))}, \qquad P(y_k = 1) = 1 - P(y_k = 0), \qquad H' = h

    The first record looks back to the initial state, where H = 0. A subject is seen until its first 1; with several
    1s the event may happen again, once per interval.

    Args:
        cumulative_hazard: H at the records: a state with derivative h and initial value 0.

    Example:
        >>> import torch
        >>> IntervalCensoredEvent(torch.tensor(2.0)).log_prob(torch.tensor(0.0))
        tensor(-2.)
    """

    arg_constraints: dict[str, Any] = {"cumulative_hazard": constraints.nonnegative}
    support = constraints.boolean

    def __init__(self, cumulative_hazard: Tensor, previous: Tensor | None = None) -> None:
        before = torch.zeros_like(cumulative_hazard) if previous is None else previous
        self.cumulative_hazard, self.previous = torch.broadcast_tensors(cumulative_hazard, before)
        super().__init__(self.cumulative_hazard.shape, torch.Size(), validate_args=False)

    def since(self, index: Tensor) -> "IntervalCensoredEvent":
        """Look back to the previous record.

        Args:
            index: ``(record, *batch)``, the record before each one; -1 for the first.
        """
        whole = self.cumulative_hazard
        before = whole.gather(0, index.clamp_min(0).expand(whole.shape))
        return IntervalCensoredEvent(whole, torch.where(index < 0, 0.0, before))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of an event since the previous record (1), or of none (0)."""
        rise = self.cumulative_hazard - self.previous
        event = value == 1
        safe = torch.where(event, rise, 1.0)
        return torch.where(event, torch.log(-torch.expm1(-safe)), -rise)

    @property
    def mean(self) -> Tensor:
        """Probability of an event since the previous record."""
        return -torch.expm1(self.previous - self.cumulative_hazard)

    @property
    def variance(self) -> Tensor:
        """Variance of the indicator."""
        return self.mean * (1 - self.mean)

    def expand(self, batch_shape: Any, _instance: object = None) -> "IntervalCensoredEvent":
        """Return the distribution with other batch axes."""
        return IntervalCensoredEvent(self.cumulative_hazard.expand(batch_shape), self.previous.expand(batch_shape))
