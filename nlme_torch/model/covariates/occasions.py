"""The occasions of a batch, and the random effects that belong to them."""

import torch
from torch import Tensor

from nlme_torch._typing import Float, Int
from nlme_torch.data.records.batch import Batch
from nlme_torch.errors import ModelError
from nlme_torch.model.declare.model import Model
from nlme_torch.model.parameters.individual_parameters import IndividualParameter


def occasions(batch: Batch, model: Model) -> Int[Tensor, "record subject"] | None:
    """Return the 0-based occasion of every record, ``(record, subject)``; None where no parameter varies between them.

    Args:
        batch: The data.
        model: The model.

    Raises:
        ModelError: A parameter varies between occasions, and the data have none, or more than it declares.
    """
    declared = {
        name: component.occasions.count
        for name, component in model.components.items()
        if isinstance(component, IndividualParameter) and component.occasions is not None
    }
    if not declared:
        return None
    name, count = min(declared.items(), key=lambda item: item[1])
    if batch.occasion is None:
        raise ModelError(
            f"{name!r} varies between occasions, but the data have none; name their column in "
            "Dataset(..., occasion='OCC')."
        )
    most = batch.occasion.amax(0)
    if int(most.max()) >= count:
        subject = int(most.argmax())
        raise ModelError(
            f"{name!r} declares {count} occasions, but subject {batch.subjects[subject]!r} has {int(most.max()) + 1}; "
            f"write nlme.Occasions({int(most.max()) + 1})."
        )
    return batch.occasion


def of_occasion(
    effects: Float[Tensor, "occasion chain start subject"],
    occasion: Int[Tensor, "record subject"] | Float[Tensor, "record subject"],
) -> Float[Tensor, "record chain start subject"]:
    """Return the effect of each record's occasion.

    Args:
        effects: One effect for each occasion.
        occasion: 0-based occasion of every record; as real numbers where a density is written out in scalars, which
            know no indices.
    """
    if occasion.is_floating_point():
        chosen = effects[:1]
        for index in range(1, len(effects)):
            chosen = torch.where((occasion[:, None, None] - index).abs() < 0.5, effects[index : index + 1], chosen)
        return chosen
    return effects.gather(0, occasion[:, None, None, :].expand(-1, *effects.shape[1:]))
