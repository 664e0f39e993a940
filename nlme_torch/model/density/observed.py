"""Where the density of an outcome is evaluated: at the records at which it was observed, and nowhere else.

An error model may be undefined where nothing was observed: a proportional error has no spread at a dose record without
drug, a log-normal density has no value at the zero that pads a batch. Masking such a density afterwards keeps its
value right and turns its gradient into NaN (0 x inf). So an unobserved record is shown an observed one of the same
subject, and then masked.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from nlme_torch._typing import Bool, Float, Int
from nlme_torch.data.records.batch import Batch
from nlme_torch.errors import ModelError
from nlme_torch.model.density.companions import CensoredPair, Companions, OtherInterval, filled
from nlme_torch.model.observation import Censored, IntervalCensoredEvent, TimeToEvent, with_positive_scale
from nlme_torch.model.observation.correlated import Correlated, scale_free


@dataclass(frozen=True)
class ObservedRecords:
    """The records at which some outcomes were observed together.

    Attributes:
        mask: ``(record, subject)``, True where they were observed.
        values: Outcome name to ``(record, subject)``, with an observed value wherever the mask is False; or to
            ``(record, start, subject)`` where every start has its own observations.
        index: ``(record, subject)``, the record to evaluate in place of each one; None where each stands for itself.
        censoring: Outcome name to CENS and LIMIT, each ``(record, subject)``, for outcomes with censored values.
        reset: ``(record, subject)``, True where the states begin anew (EVID 3, 4); None where they never do.
        companions: What the other outcomes of the data are at the time of each record; None for a single record.
    """

    mask: Bool[Tensor, "record subject"]
    values: Mapping[str, Float[Tensor, "record *start subject"]]
    index: Int[Tensor, "record subject"] | None
    censoring: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    reset: Bool[Tensor, "record subject"] | None = None
    companions: Companions | None = None

    def aligned(self, name: str) -> Tensor:
        """Return the values of an outcome so that they broadcast to ``(record, chain, start, subject)``."""
        values = self.values[name]
        return values[:, None, None] if values.ndim == 2 else values[:, None]

    def replaced(self, outcomes: Mapping[str, Float[Tensor, "record start subject"]]) -> "ObservedRecords":
        """Return the same records with other values where there were some.

        Args:
            outcomes: Outcome name to values for every start; outcomes that are missing keep theirs.
        """
        values = {
            name: torch.where(self.mask[:, None], outcomes[name], value[:, None]) if name in outcomes else value
            for name, value in self.values.items()
        }
        companions = None if self.companions is None else self.companions.replaced(outcomes)
        return replace(self, values=values, companions=companions)

    def complete(self, observed: Any) -> Any:
        """Read distributions with their data: spreads without sign, what is censored, and the record before each one.

        Args:
            observed: What ``observe`` returned; anything but a dictionary is left to the probe.
        """
        if not isinstance(observed, dict):
            return observed
        completed = {name: with_positive_scale(distribution) for name, distribution in observed.items()}
        alone = dict(completed)
        for name in self.values:
            distribution = completed.get(name)
            if isinstance(distribution, Correlated):
                completed[name] = self._beside(name, distribution, alone.get(distribution.partner))
                continue
            if isinstance(distribution, TimeToEvent | IntervalCensoredEvent):
                completed[name] = distribution.since(self.previous[:, None, None])
            if name in self.censoring and isinstance(distribution, Distribution):
                code, limit = self.censoring[name]
                completed[name] = Censored(distribution, code[:, None, None], limit[:, None, None])
        return completed

    def _beside(self, name: str, own: Correlated, other: Any) -> Distribution:
        """The distribution of an outcome given the one that it is correlated with, where that was observed too."""
        if self.companions is None or not isinstance(other, Correlated):
            raise ModelError(f"outcome {name!r} is correlated with {own.partner!r}, which is not there.")
        beside = self.companions.of(name, own.partner)
        base: Any = other.base
        residual = scale_free(base, beside.value, beside.there)
        censored, lost = self.censoring.get(name), beside.censored
        if censored is None and lost is None:
            return own.base if own.leads else own.given(residual, beside.there)
        code = torch.zeros_like(beside.there, dtype=torch.long) if censored is None else censored[0][:, None, None]
        there = beside.there if lost is None else beside.there & (lost == 0)
        if own.leads:  # given the other where that is known and it is not itself
            there = there & (code != 0)
        given = own.given(residual, there)
        if censored is None:
            return given
        limit = censored[1][:, None, None]
        if lost is None:
            return Censored(given, code, limit)
        together = beside.there & (code != 0) & (lost != 0)
        return CensoredPair(given, code, limit, together, None if own.leads else OtherInterval(own, base, beside))

    @cached_property
    def previous(self) -> Int[Tensor, "record subject"]:
        """The subject's last observed record before each one, -1 where the states began between the two."""
        record = torch.arange(self.mask.shape[0], device=self.mask.device)[:, None]
        seen = torch.where(self.mask, record, -1).cummax(0).values
        before = torch.cat([torch.full_like(seen[:1], -1), seen[:-1]])
        if self.reset is None:
            return before
        began = torch.where(self.reset, record, -1).cummax(0).values
        return torch.where(before < began, -1, before)

    def take(self, tensor: Tensor) -> Tensor:
        """Show an observed record wherever nothing was observed.

        Args:
            tensor: ``(record, ..., subject)``.

        Returns:
            A tensor of the same shape.
        """
        if self.index is None:
            return tensor
        index = self.index.reshape(self.index.shape[0], *(1,) * (tensor.dim() - 2), self.index.shape[1])
        return tensor.gather(0, index.expand_as(tensor))


def observed_records(batch: Batch) -> tuple[ObservedRecords, ...]:
    """Group the outcomes of a batch by the records at which they were observed.

    Args:
        batch: The data.

    Returns:
        One entry per pattern, with all outcomes that share it.
    """
    groups: list[tuple[Tensor, dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]] = []
    for name, outcome in batch.outcomes.items():
        group = next((group for group in groups if torch.equal(group[0], outcome.mask)), None)
        if group is None:
            group = (outcome.mask, {}, {})
            groups.append(group)
        group[1][name] = filled(outcome)
        if outcome.censoring is not None and outcome.limit is not None:
            group[2][name] = torch.where(outcome.mask, outcome.censoring, 0), outcome.limit
    reset = None if batch.doses is None or not bool(batch.doses.reset.any()) else batch.doses.reset
    companions = Companions(batch)
    return tuple(
        ObservedRecords(mask, values, _stand_in(mask, batch.record_mask), censoring, reset, companions)
        for mask, values, censoring in groups
    )


def _stand_in(mask: Tensor, record_mask: Tensor) -> Tensor | None:
    """The record itself where it was observed; else the subject's first observed record, or its last one."""
    if bool((mask | ~record_mask).all()) and bool(mask.any(0).all()):
        return None  # padding repeats the last record, which was observed
    record = torch.arange(mask.shape[0], device=mask.device)[:, None].expand(mask.shape)
    last = record_mask.sum(0) - 1
    instead = torch.where(mask.any(0), mask.int().argmax(0), last)
    return torch.where(mask, record, instead)
