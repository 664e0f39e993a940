"""Where the density of an outcome is evaluated: at the records at which it was observed, and nowhere else.

An error model may be undefined where nothing was observed: a proportional error has no spread at a dose record without
drug, a log-normal density has no value at the zero that pads a batch. Masking such a density afterwards keeps its
value right and turns its gradient into NaN (0 x inf). So an unobserved record is shown an observed one of the same
subject, and then masked.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nlme_torch._typing import Bool, Float, Int
from nlme_torch.data.batch import Batch, Outcome


@dataclass(frozen=True)
class ObservedRecords:
    """The records at which some outcomes were observed together.

    Attributes:
        mask: ``(record, subject)``, True where they were observed.
        values: Outcome name to ``(record, subject)``, with an observed value wherever the mask is False.
        index: ``(record, subject)``, the record to evaluate in place of each one; None where each stands for itself.
    """

    mask: Bool[Tensor, "record subject"]
    values: Mapping[str, Float[Tensor, "record subject"]]
    index: Int[Tensor, "record subject"] | None

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
    groups: list[tuple[Tensor, dict[str, Tensor]]] = []
    for name, outcome in batch.outcomes.items():
        values = next((values for mask, values in groups if torch.equal(mask, outcome.mask)), None)
        if values is None:
            values = {}
            groups.append((outcome.mask, values))
        values[name] = _filled(outcome)
    return tuple(ObservedRecords(mask, values, _stand_in(mask, batch.record_mask)) for mask, values in groups)


def _filled(outcome: Outcome) -> Tensor:
    """The observed values, with one of the same subject (or of any) in place of the missing ones."""
    first = outcome.mask.int().argmax(0)
    known = outcome.mask.any(0)
    anywhere = outcome.value[outcome.mask][0] if bool(known.any()) else outcome.value.new_ones(())
    own = torch.where(known, outcome.value.gather(0, first[None])[0], anywhere)
    return torch.where(outcome.mask, outcome.value, own)


def _stand_in(mask: Tensor, record_mask: Tensor) -> Tensor | None:
    """The record itself where it was observed; else the subject's first observed record, or its last one."""
    if bool((mask | ~record_mask).all()) and bool(mask.any(0).all()):
        return None  # padding repeats the last record, which was observed
    record = torch.arange(mask.shape[0], device=mask.device)[:, None].expand(mask.shape)
    last = record_mask.sum(0) - 1
    instead = torch.where(mask.any(0), mask.int().argmax(0), last)
    return torch.where(mask, record, instead)
