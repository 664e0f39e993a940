"""Densities whose starts have their own observations: many simulated data sets of one design, evaluated at once."""

import copy
from collections.abc import Mapping

from torch import Tensor

from nlme_torch._typing import Float, Int
from nlme_torch.model.density.density import Density


def with_outcomes(density: Density, outcomes: Mapping[str, Float[Tensor, "record start subject"]]) -> Density:
    """Return a density with other observations wherever there are some.

    Args:
        density: The model with its data.
        outcomes: Outcome to values, its own for every start; a NaN leaves that subject without a density.
    """
    other = copy.copy(density)
    other._observed = tuple(records.replaced(outcomes) for records in density._observed)
    return other


def of_subjects(density: Density, subjects: Int[Tensor, "subject"]) -> Density:
    """Return the density of some of the subjects, by their positions, with whatever observations it has."""
    part = Density(density.model, density.batch.select(subjects), density.solver)
    own = {
        name: value[: part.batch.n_records, :, subjects]
        for records in density._observed
        for name, value in records.values.items()
        if value.ndim == 3
    }
    return with_outcomes(part, own) if own else part
