"""When subjects begin whose outcome is the time of an event: at 0, unless the data say otherwise.

A hazard is integrated from a subject's first record. A table with one row for each subject would integrate it over no
time at all, and its likelihood would hold the hazard alone.
"""

from typing import Any

import torch

from nlme_torch.errors import ModelError
from nlme_torch.model.density.conditional import Conditional
from nlme_torch.model.density.joined import Joined
from nlme_torch.model.density.observed import ObservedRecords
from nlme_torch.model.observation import IntervalCensoredEvent, TimeToEvent


def begins_at_zero(conditional: Conditional) -> bool:
    """Whether subjects must begin at 0: an outcome is the time of an event, and the data say nothing of their start.

    Args:
        conditional: A model joined to its data, at the model's own parameters.
    """
    batch, model = conditional.density.batch, conditional.density.model
    if batch.start is not None or not model.has_dynamics or not bool((batch.times[0] > 0).any()):
        return False
    observations, _ = conditional.observations(batch.times.new_zeros(model.n_effects, 1, 1, batch.n_subjects))
    return any(
        isinstance(distribution, TimeToEvent | IntervalCensoredEvent)
        for _, observed in observations
        if isinstance(observed, dict)
        for distribution in observed.values()
    )


def check_hazard(density: Joined, name: str, distribution: Any, group: ObservedRecords) -> None:
    """Refuse a hazard that is integrated over no time.

    Args:
        density: The model with its data.
        name: The outcome.
        distribution: What ``observe`` returned for it.
        group: The records at which it was observed.

    Raises:
        ModelError: A subject's only record, or an event, stands where the subject begins.
    """
    if not isinstance(distribution, TimeToEvent | IntervalCensoredEvent) or not density.model.has_dynamics:
        return
    times = density.batch.times
    later = times > times[:1]
    values = group.values[name]
    happened = group.mask & ~later & (values == 1) if values.dim() == 2 else torch.zeros_like(group.mask)
    empty = happened.any(0)
    if isinstance(distribution, TimeToEvent):
        empty = empty | (group.mask.any(0) & ~(group.mask & later).any(0))
    if bool(empty.any()):
        subject = int(empty.nonzero()[0])
        raise ModelError(
            f"outcome {name!r} of subject {density.batch.subjects[subject]!r} stands at time "
            f"{times[0, subject].item():g}, where the subject begins: its hazard is integrated over no time. Say in "
            "the data set when subjects begin, Dataset(..., start=0.0), or mend the time."
        )
