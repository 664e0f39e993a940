"""Which values of two outcomes belong together, and what is known of the one beside the other."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from nlme_torch._typing import Bool, Float, Int
from nlme_torch.data.records.batch import Batch, Outcome
from nlme_torch.model.observation.censored import Censored
from nlme_torch.model.observation.correlated import Correlated
from nlme_torch.model.observation.rectangle import log_rectangle
from nlme_torch.model.observation.tails import standardised


class Companion(NamedTuple):
    """The other outcome at the time of each record of an outcome, ``(record, 1, start or 1, subject)``.

    Attributes:
        value: What was observed, or some observed value where nothing was.
        there: Where it was observed.
        censored: Its CENS, or None where no value of it is censored.
        limit: Its LIMIT.
    """

    value: Tensor
    there: Tensor
    censored: Tensor | None
    limit: Tensor | None


class Companions:
    """The outcomes of a batch beside one another: the k-th value of each at one time belongs to the k-th of the others.

    Values of one time belong together if no dose and no reset stands between their rows.

    Args:
        batch: The data.
        values: Outcome to values that are to stand in place of the data's, ``(record, start, subject)``.
    """

    def __init__(self, batch: Batch, values: Mapping[str, Tensor] | None = None) -> None:
        self.batch, self._values = batch, dict(values or {})
        self._found: dict[tuple[str, str], Tensor] = {}

    def replaced(self, outcomes: Mapping[str, Float[Tensor, "record start subject"]]) -> "Companions":
        """Return the same with other values for every start."""
        other = Companions(self.batch, {**self._values, **outcomes})
        other._found = self._found
        return other

    def index(self, name: str, partner: str) -> Int[Tensor, "record subject"]:
        """Return the record at which the other outcome belongs to this one's, -1 where there is none."""
        if (name, partner) not in self._found:
            outcomes = self.batch.outcomes
            self._found[name, partner] = partners(self.batch, outcomes[name].mask, outcomes[partner].mask)
        return self._found[name, partner]

    def of(self, name: str, partner: str) -> Companion:
        """Return what is known of ``partner`` beside ``name``."""
        outcome, index = self.batch.outcomes[partner], self.index(name, partner)
        place, there = index.clamp_min(0), (index >= 0)[:, None, None]
        value = filled(outcome).gather(0, place)[:, None, None]
        if partner in self._values:
            own = self._values[partner]
            own = own.gather(0, place[:, None].expand(-1, own.shape[1], -1))[:, None]
            value = torch.where(there, own, value)
        if outcome.censoring is None or outcome.limit is None:
            return Companion(value, there, None, None)
        censored = torch.where(outcome.mask, outcome.censoring, 0).gather(0, place)[:, None, None]
        limit = outcome.limit.gather(0, place)[:, None, None]
        return Companion(value, there, torch.where(there, censored, 0), limit)


def partners(
    batch: Batch, mask: Bool[Tensor, "record subject"], other: Bool[Tensor, "record subject"]
) -> Int[Tensor, "record subject"]:
    """Return the record of another outcome that belongs to each of one, -1 where there is none.

    Args:
        batch: The data.
        mask: Where the one was observed.
        other: Where the other was.
    """
    record = torch.arange(batch.n_records, device=mask.device)[:, None].expand(mask.shape)
    if torch.equal(mask, other):
        return torch.where(mask, record, -1)
    happened = torch.zeros_like(mask)
    if batch.doses is not None:
        happened = batch.doses.mask | batch.doses.reset
    # records of one time between two events are one moment
    later = torch.ones_like(mask)
    later[1:] = (batch.times[1:] != batch.times[:-1]) | happened[1:]
    moment = later.cumsum(0)
    found = torch.full_like(record, -1)
    for subject in (mask.any(0) & other.any(0)).nonzero()[:, 0].tolist():
        mine, theirs = mask[:, subject].nonzero()[:, 0], other[:, subject].nonzero()[:, 0]
        waiting: dict[int, list[int]] = {}
        for place in theirs.tolist():
            waiting.setdefault(int(moment[place, subject]), []).append(place)
        for place in mine.tolist():
            queue = waiting.get(int(moment[place, subject]))
            if queue:
                found[place, subject] = queue.pop(0)
    return found


def filled(outcome: Outcome) -> Tensor:
    """Return observed values, with one of the same subject (or of any) in place of the missing ones."""
    first = outcome.mask.int().argmax(0)
    known = outcome.mask.any(0)
    anywhere = outcome.value[outcome.mask][0] if bool(known.any()) else outcome.value.new_ones(())
    own = torch.where(known, outcome.value.gather(0, first[None])[0], anywhere)
    return torch.where(outcome.mask, outcome.value, own)


class OtherInterval:
    """In which interval a censored companion lies, in its standard deviations.

    Args:
        own: The outcome itself.
        base: The companion's distribution.
        beside: What is known of it.
    """

    def __init__(self, own: Correlated, base: Any, beside: Companion) -> None:
        self.own, self.base, self.beside = own, base, beside

    def log_probability(self, value: Tensor, code: Tensor, limit: Tensor, together: Tensor) -> Tensor:
        """Return the log probability of the rectangle in which both lie, where they are censored together."""
        beside = self.beside
        assert beside.censored is not None and beside.limit is not None
        mine = _ends(self.own.base, value, code, limit)
        theirs = _ends(self.base, beside.value, beside.censored, beside.limit)
        shape = torch.broadcast_shapes(*(end.shape for end in (*mine, *theirs)), together.shape)
        there = together.expand(shape)
        # the integral is costly, and evaluated where it is meant only
        ends = [end.expand(shape)[there] for end in (*mine, *theirs)]
        lower, upper, other_lower, other_upper = ends
        found = log_rectangle(lower, upper, other_lower, other_upper, self.own.correlation.expand(shape)[there])
        return torch.zeros(shape, dtype=found.dtype, device=found.device).masked_scatter(there, found)


def _ends(base: Distribution, value: Tensor, code: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    """Both ends of the interval of a censored value, in standard deviations."""
    kind: Any = base
    left = code == 1

    def end(at: Tensor) -> Tensor:
        infinite = torch.isinf(at)
        return torch.where(infinite, at, standardised(kind, torch.where(infinite, value, at)))

    return end(torch.where(left, limit, value)), end(torch.where(left, value, limit))


class CensoredPair(Censored):
    """A censored outcome that may be censored together with the one it is correlated with.

    Args:
        base: Its distribution, given the other one where that is known.
        censoring: As for :class:`Censored`.
        limit: As for :class:`Censored`.
        together: Where both are censored.
        interval: Of the other one; None for the outcome whose factor is 1 there, as the other has the whole.
    """

    def __init__(
        self, base: Distribution, censoring: Tensor, limit: Tensor, together: Tensor, interval: OtherInterval | None
    ) -> None:
        super().__init__(base, censoring, limit)
        self._together, self._interval = together, interval

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log densities of observed values and log probabilities of censored ones."""
        single = super().log_prob(value)
        if not bool(self._together.any()):
            return single
        if self._interval is None:
            return torch.where(self._together, 0.0, single)
        pair = self._interval.log_probability(value, self.censoring, self.limit, self._together)
        return torch.where(self._together, pair, single)

    def expand(self, batch_shape: Any, _instance: object = None) -> "CensoredPair":
        """Return the distribution with other batch axes."""
        return CensoredPair(self.base.expand(batch_shape), self.censoring, self.limit, self._together, self._interval)
