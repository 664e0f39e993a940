"""Observations drawn from the distributions that a model returns."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from nlme_torch.data.records.batch import Batch
from nlme_torch.errors import ModelError
from nlme_torch.model.density.companions import partners
from nlme_torch.model.observation.correlated import Correlated, scale_free


def draw_outcomes(
    batch: Batch, observed: Mapping[str, Distribution], names: Iterable[str], shape: Sequence[int]
) -> dict[str, Tensor]:
    """Draw outcomes at all records by torch's global generator, correlated ones together.

    Args:
        batch: The data, which tell which records of two outcomes belong together.
        observed: Outcome name to what ``observe`` returned; it may be the same for all records or all subjects.
        names: Which outcomes.
        shape: ``(record, chain, start, subject)``.

    Returns:
        Outcome name to a tensor of that shape.

    Raises:
        ModelError: A distribution has no way to be drawn.
    """
    found: dict[str, Tensor] = {}
    for name in names:
        distribution: Any = observed[name]
        if not isinstance(distribution, Correlated):
            found[name] = _drawn(name, distribution, shape)
        elif name not in found:
            leader, follower = (name, distribution.partner) if distribution.leads else (distribution.partner, name)
            found |= _together(batch, observed, leader, follower, shape)
    return found


def _together(
    batch: Batch, observed: Mapping[str, Any], leader: str, follower: str, shape: Sequence[int]
) -> dict[str, Tensor]:
    """Draw one outcome, and the one that is correlated with it at the records that belong to its."""
    first = observed[leader].base.expand(torch.Size(shape))
    value = _drawn(leader, first, shape)
    everywhere = torch.ones((), dtype=torch.bool, device=value.device)
    residual = scale_free(first, value, everywhere)
    record = torch.arange(shape[0], device=value.device)[:, None].expand(shape[0], shape[-1])
    masks = (batch.outcomes[name].mask for name in (follower, leader))
    index = partners(batch, *masks)
    own = torch.where(index >= 0, index, record)[:, None, None].expand(torch.Size(shape))
    second = observed[follower].given(residual.gather(0, own), everywhere)
    return {leader: value, follower: _drawn(follower, second, shape)}


def _drawn(name: str, distribution: Distribution, shape: Sequence[int]) -> Tensor:
    try:  # expanded first: one draw for a distribution that is common to all records would be common to them too
        return distribution.expand(torch.Size(shape)).sample()
    except NotImplementedError:
        raise ModelError(f"outcome {name!r}: a {type(distribution).__name__} cannot be drawn.") from None


def expected(name: str, distribution: Distribution, shape: Sequence[int]) -> Tensor:
    """Return the mean of an outcome at every record.

    Args:
        name: The outcome, for messages.
        distribution: What ``observe`` returned.
        shape: ``(record, chain, start, subject)``.

    Raises:
        ModelError: The distribution has no mean.
    """
    try:
        return distribution.mean.expand(torch.Size(shape))
    except NotImplementedError:
        raise ModelError(
            f"outcome {name!r}: a {type(distribution).__name__} has no mean to be given without residual error."
        ) from None
