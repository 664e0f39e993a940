"""Times of events, through a hazard that the model integrates as a state."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from nlme_torch.model.observation.logarithms import log1mexp


class _Event(dist.TorchDistribution):
    """What an event means at a record, given that the subject was seen until the record before.

    Args:
        cumulative_hazard: H at the records: a state with derivative h and initial value 0.
        previous: H at the record before; None for 0, where the states began.
    """

    support = constraints.boolean

    def __init__(self, cumulative_hazard: Tensor, previous: Tensor | None) -> None:
        before = torch.zeros_like(cumulative_hazard) if previous is None else previous
        self.cumulative_hazard, self.previous = torch.broadcast_tensors(cumulative_hazard, before)
        super().__init__(self.cumulative_hazard.shape, torch.Size(), validate_args=False)

    def _before(self, index: Tensor) -> Tensor:
        """H at the record before each one, ``(record, *batch)``; 0 where its index is -1."""
        whole = self.cumulative_hazard
        shape = torch.broadcast_shapes(whole.shape, index.shape)
        before = whole.expand(shape).gather(0, index.clamp_min(0).expand(shape))
        return torch.where(index < 0, 0.0, before)

    @property
    def rise(self) -> Tensor:
        """Hazard since the record before."""
        return self.cumulative_hazard - self.previous

    @property
    def mean(self) -> Tensor:
        """Probability of an event since the record before."""
        return -torch.expm1(-self.rise)

    @property
    def variance(self) -> Tensor:
        """Variance of the indicator."""
        return self.mean * torch.exp(-self.rise)


class TimeToEvent(_Event):
    r"""Whether an event happened at a record's time (1), or the subject was seen without one until then (0).

    .. math::
        \log p(y_k = 1) = \log h(t_k) - \bigl(H(t_k) - H(t_{k-1})\bigr), \qquad
        \log p(y_k = 0) = -\bigl(H(t_k) - H(t_{k-1})\bigr), \qquad H' = h

    Every row of the outcome says what happened since the subject's row before, so that any number of rows counts the
    hazard once: one row for a single event (its time, or the end of observation); for repeated events one row for each
    of them and one for the end of observation; rows with 0 in between change nothing. The first row, and the first one
    after a reset (EVID 3 or 4), looks back to where the states began, with H = 0. A subject is not at risk after its
    last row: after a final event there is none.

    Args:
        hazard: h at the record's time, per time; positive where an event was observed.
        cumulative_hazard: H at the record's time: a state with derivative h and initial value 0.
        previous: H at the record before, which the library fills in; 0 if None.

    Example:
        >>> import torch
        >>> TimeToEvent(torch.tensor(0.5), torch.tensor(2.0)).log_prob(torch.tensor([0.0, 1.0]))
        tensor([-2.0000, -2.6931])

    References:
        Cook and Lawless (2007), The statistical analysis of recurrent events. doi:10.1007/978-0-387-69810-6
    """

    arg_constraints: dict[str, Any] = {"hazard": constraints.nonnegative, "cumulative_hazard": constraints.nonnegative}

    def __init__(self, hazard: Tensor, cumulative_hazard: Tensor, previous: Tensor | None = None) -> None:
        self.hazard, cumulative_hazard = torch.broadcast_tensors(hazard, cumulative_hazard)
        super().__init__(cumulative_hazard, previous)

    def since(self, index: Tensor) -> "TimeToEvent":
        """Look back to the previous record.

        Args:
            index: ``(record, *batch)``, the record before each one; -1 for the first.
        """
        return TimeToEvent(self.hazard, self.cumulative_hazard, self._before(index))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of an event at the record (1), or the log probability of none since the last (0)."""
        event = value == 1
        # the hazard may be zero where no event was seen
        safe = torch.where(event, self.hazard, 1.0)
        return torch.where(event, safe.log(), 0.0) - self.rise

    def expand(self, batch_shape: Any, _instance: object = None) -> "TimeToEvent":
        """Return the distribution with other batch axes."""
        parts = self.hazard, self.cumulative_hazard, self.previous
        return TimeToEvent(*(part.expand(batch_shape) for part in parts))


class IntervalCensoredEvent(_Event):
    r"""Whether the event happened since the subject's previous record of this outcome (1) or not (0).

    .. math:: P(y_k = 0) = e^{-(H(t_k) - H(t_{k-1}))}, \qquad P(y_k = 1) = 1 - P(y_k = 0), \qquad H' = h

    The first record, and the first one after a reset (EVID 3 or 4), looks back to where the states began, with H = 0. A
    subject is seen until its first 1; with several 1s the event may happen again, once per interval.

    Args:
        cumulative_hazard: H at the records: a state with derivative h and initial value 0.
        previous: H at the record before, which the library fills in; 0 if None.

    Example:
        >>> import torch
        >>> IntervalCensoredEvent(torch.tensor(2.0)).log_prob(torch.tensor(0.0))
        tensor(-2.)
    """

    arg_constraints: dict[str, Any] = {"cumulative_hazard": constraints.nonnegative}

    def __init__(self, cumulative_hazard: Tensor, previous: Tensor | None = None) -> None:
        super().__init__(cumulative_hazard, previous)

    def since(self, index: Tensor) -> "IntervalCensoredEvent":
        """Look back to the previous record.

        Args:
            index: ``(record, *batch)``, the record before each one; -1 for the first.
        """
        return IntervalCensoredEvent(self.cumulative_hazard, self._before(index))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of an event since the previous record (1), or of none (0)."""
        event = value == 1
        safe = torch.where(event, self.rise, 1.0)
        return torch.where(event, log1mexp(-safe), -self.rise)

    def expand(self, batch_shape: Any, _instance: object = None) -> "IntervalCensoredEvent":
        """Return the distribution with other batch axes."""
        return IntervalCensoredEvent(self.cumulative_hazard.expand(batch_shape), self.previous.expand(batch_shape))
