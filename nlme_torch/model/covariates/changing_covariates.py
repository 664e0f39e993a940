"""Covariates at the records, and what holds between them by each covariate's rule."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nlme_torch.data.records.batch import Batch
from nlme_torch.model.individual.category import Category
from nlme_torch.model.individual.individual import Covariates


def changing_covariates(
    batch: Batch, coded: Mapping[str, Tensor | Category], refused: Mapping[str, str]
) -> tuple[Covariates, tuple[Covariates, Covariates] | None]:
    """Show a batch's covariates as a model reads them.

    From record r to r + 1 a covariate is its value at r (``"locf"``), at r + 1 (``"nocb"``), or the straight line
    between them (``"linear"``).

    Args:
        batch: The data.
        coded: The covariates as the model knows them.
        refused: Covariates that cannot be read, to the reason.

    Returns:
        The covariates at the records, ``(subject,)`` or ``(record, 1, 1, subject)`` where they change; and what they
        are just after each record and just before the next, the same object where it is the same, None where no
        covariate changes.
    """
    changing = {name for name in coded if batch.covariates[name].dim() > 1}
    values = {name: _mapped(v, _with_axes) if name in changing else v for name, v in coded.items()}
    at_records = Covariates(values, refused)
    if not changing:
        return at_records, None
    rules = {name: batch.interpolation.get(name, "locf") for name in changing}

    def with_next(shifted: set[str]) -> Covariates:
        moved = {name: _mapped(value, _next) if name in shifted else value for name, value in values.items()}
        return Covariates(moved, refused)

    backward = {name for name, rule in rules.items() if rule == "nocb"}
    linear = {name for name, rule in rules.items() if rule == "linear"}
    after = with_next(backward) if backward else at_records
    return at_records, (after, with_next(backward | linear) if linear else after)


def _mapped(value: Tensor | Category, function: Callable[[Tensor], Tensor]) -> Tensor | Category:
    return value.map(function) if isinstance(value, Category) else function(value)


def _with_axes(value: Tensor) -> Tensor:
    return value[:, None, None, :]


def _next(value: Tensor) -> Tensor:
    return torch.cat([value[1:], value[-1:]])
