"""Whether a model still has values where SAEM stands, and just beside: a search by draws ends at such an edge."""

import math

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.inference.estimates.free_scalars import raw_labels
from nlme_torch.inference.saem.newton_m_step import LOST
from nlme_torch.model.compiled.compiled_likelihood import log_likelihood
from nlme_torch.model.declare.values import ParameterValues, flatten_values, unflatten_values
from nlme_torch.model.density.density import Density

BESIDE = 0.01
"""Step of a parameter on the estimation scale, in units of one and its own size."""
MOST_COLUMNS = 20_000
"""Draws of all subjects from which the share that is lost is told; of each subject one at least."""


def edge(
    density: Density,
    values: ParameterValues,
    transformed: Float[Tensor, "effect chain start subject"],
    names: tuple[str, ...],
) -> str:
    """Say where a model has no value: at the estimates, or just beyond that of a parameter.

    Args:
        density: The model with its data.
        values: The estimates.
        transformed: Draws of phi.
        names: Raw names of the parameters that have no effect, which move while phi is held.

    Returns:
        A clause; empty where the model has values all around.
    """
    apart = math.ceil(transformed.shape[1] / max(1, MOST_COLUMNS // transformed.shape[-1]))
    transformed = transformed[:, ::apart]
    why = "an equation that cannot be solved, a number that is not finite"
    if _lost(density, values, transformed):
        return f"the model has no value at these estimates ({why}): check what it does there, and begin elsewhere"
    if not names:
        return ""
    vector = flatten_values(values, names)
    found = []
    for place, label in enumerate(raw_labels(density.model, names)):
        step = torch.zeros_like(vector)
        step[:, place] = BESIDE * (1 + vector[:, place].abs())
        if any(_lost(density, _moved(values, names, vector + sign * step), transformed) for sign in (-1, 1)):
            found.append(label)
    if not found:
        return ""
    return (
        f"just beyond this value of {' and of '.join(found)} the model has no value ({why}): check what it does there"
    )


def _moved(values: ParameterValues, names: tuple[str, ...], vector: Tensor) -> ParameterValues:
    return {**values, **unflatten_values(vector, values, names)}


def _lost(density: Density, values: ParameterValues, transformed: Tensor) -> bool:
    """Whether more draws than a few have no value."""
    with torch.no_grad():
        conditional = density.at(values)
        each = log_likelihood(conditional, transformed - conditional.mean[:, None])
    return float((~torch.isfinite(each)).double().mean()) > LOST
