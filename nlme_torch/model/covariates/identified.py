"""Whether declared covariate effects can be told apart in the data at hand."""

from collections.abc import Mapping

import torch
from torch import Tensor

from nlme_torch.errors import ModelError
from nlme_torch.model.declare.model import Model
from nlme_torch.model.parameters.individual_parameters import IndividualParameter

RANK = 1e-8
"""Relative size of a singular value below which a regressor is a combination of others, as in double precision."""


def refuse_confounded(model: Model, regressors: Mapping[tuple[str, str], Tensor]) -> None:
    """Refuse covariate effects of a parameter that are linear combinations of each other or of its typical value.

    Args:
        model: The model.
        regressors: Parameter and covariate to what the effect multiplies, ``(subject,)`` or ``(level, subject)``.

    Raises:
        ModelError: A covariate is constant, or a combination of the others.
    """
    for owner, component in model.components.items():
        if not isinstance(component, IndividualParameter):
            continue
        kept: list[Tensor] = []
        for covariate, effect in component.covariates.items():
            if not effect.beta.requires_grad:
                continue
            for row in torch.atleast_2d(regressors[owner, covariate]):
                if not kept and not component.fixed:
                    kept.append(torch.ones_like(row))
                scaled = row / row.abs().max().clamp_min(1e-300)
                if torch.linalg.matrix_rank(torch.stack([*kept, scaled]), tol=RANK) <= len(kept):
                    raise ModelError(
                        f"covariate effects of {owner!r} cannot be told apart in these data: {covariate!r} is "
                        "constant, or a combination of the others; leave it out or fix its coefficient."
                    )
                kept.append(scaled)
