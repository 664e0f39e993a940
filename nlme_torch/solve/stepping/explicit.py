"""One explicit step for all subjects, each with its own time and step size."""

import torch
from torch import Tensor

from nlme_torch._typing import VectorField
from nlme_torch.solve.tableau import Tableau, combine


def derivative(
    field: VectorField, time: Tensor, state: Tensor, parameters: tuple[Tensor, ...], rate: Tensor | None
) -> Tensor:
    """The vector field plus the zero-order input."""
    slope = field(time, state, parameters)
    return slope if rate is None else slope + rate


def explicit_step(
    field: VectorField,
    tableau: Tableau,
    time: Tensor,
    step: Tensor,
    state: Tensor,
    slope: Tensor,
    parameters: tuple[Tensor, ...],
    rate: Tensor | None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The solution after one step.

    Args:
        field: the vector field.
        tableau: the pair.
        time: (*batch) start of the step.
        step: (*batch) its size.
        state: (state, *batch) at the start.
        slope: (state, *batch) derivative at the start.
        parameters: handed to the field.
        rate: (state, *batch) zero-order input or None.

    Returns:
        (state, *batch) the new state, the argument of the last stage before it, and the slopes of all
        stages but the last.
    """
    slopes, inner = [slope], state
    for node, row in zip(tableau.nodes[:-1], tableau.stages[:-1], strict=True):
        inner = torch.addcmul(state, step, combine(row, slopes))
        slopes.append(derivative(field, time.add(step, alpha=node), inner, parameters, rate))
    return torch.addcmul(state, step, combine(tableau.stages[-1], slopes)), inner, slopes
