"""Covariates at the records, and what holds between them by each covariate's rule."""

import torch
from torch import Tensor

from nlme_torch.data.batch import Batch
from nlme_torch.model.individual import Covariates


def changing_covariates(batch: Batch) -> tuple[Covariates, tuple[Covariates, Covariates] | None]:
    """Show a batch's covariates as a model reads them.

    From record r to r + 1 a covariate is its value at r (``"locf"``), at r + 1 (``"nocb"``), or the straight line
    between them (``"linear"``).

    Args:
        batch: The data.

    Returns:
        The covariates at the records, ``(subject,)`` or ``(record, 1, 1, subject)`` where they change; and what they
        are just after each record and just before the next, the same object where it is the same, None where no
        covariate changes.
    """
    values = {name: v if v.dim() == 1 else v[:, None, None, :] for name, v in batch.covariates.items()}
    changing = {name for name, value in values.items() if value.dim() > 1}
    at_records = Covariates(values)
    if not changing:
        return at_records, None
    rules = {name: batch.interpolation.get(name, "locf") for name in changing}

    def with_next(shifted: set[str]) -> Covariates:
        return Covariates({name: _next(value) if name in shifted else value for name, value in values.items()})

    backward = {name for name, rule in rules.items() if rule == "nocb"}
    linear = {name for name, rule in rules.items() if rule == "linear"}
    after = with_next(backward) if backward else at_records
    return at_records, (after, with_next(backward | linear) if linear else after)


def _next(value: Tensor) -> Tensor:
    return torch.cat([value[1:], value[-1:]])
