"""One linearly implicit step for all subjects, each with its own time, step size and Jacobian."""

import torch
from torch import Tensor

from nlme_torch._typing import VectorField
from nlme_torch.solve.stepping.explicit import derivative
from nlme_torch.solve.tableau import RosenbrockTableau, combine


def linearise(field: VectorField, time: Tensor, state: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The derivatives of the vector field by forward mode.

    Args:
        field: the vector field.
        time: (*batch).
        state: (state, *batch).
        parameters: handed to the field.

    Returns:
        (slope, state, *batch) the Jacobian f_y, and (state, *batch) f_t.
    """
    time, state = time.contiguous(), state.contiguous()
    columns = []
    for index in range(state.shape[0]):
        direction = torch.zeros_like(state)
        direction[index] = 1.0
        columns.append(torch.func.jvp(lambda y: field(time, y, parameters), (state,), (direction,))[1])
    slant = torch.func.jvp(lambda t: field(t, state, parameters), (time,), (torch.ones_like(time),))[1]
    return torch.stack(columns, 1), slant


def implicit_step(
    field: VectorField,
    tableau: RosenbrockTableau,
    time: Tensor,
    step: Tensor,
    state: Tensor,
    slope: Tensor,
    jacobian: Tensor,
    slant: Tensor,
    parameters: tuple[Tensor, ...],
    rate: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The solution after one step.

    Args:
        field: the vector field.
        tableau: the linearly implicit pair.
        time: (*batch) start of the step.
        step: (*batch) its size, positive.
        state: (state, *batch) at the start.
        slope: (state, *batch) derivative at the start.
        jacobian: (slope, state, *batch) f_y at the start.
        slant: (state, *batch) f_t at the start.
        parameters: handed to the field.
        rate: (state, *batch) zero-order input or None.

    Returns:
        (state, *batch) the new state and its error.
    """
    unit = torch.eye(state.shape[0], dtype=state.dtype, device=state.device)
    unit = unit.reshape(*unit.shape, *(1,) * step.ndim)
    matrix = (unit / (tableau.gamma * step) - jacobian).movedim((0, 1), (-2, -1))
    increments: list[Tensor] = []
    inner = state
    for index, (node, factor) in enumerate(zip(tableau.nodes, tableau.slants, strict=True)):
        right = slope
        if index:
            inner = state + combine(tableau.stages[index - 1], increments)
            right = derivative(field, time.add(step, alpha=node), inner, parameters, rate)
            right = right + combine(tableau.couplings[index - 1], increments) / step
        right = torch.addcmul(right, step, slant, value=factor)
        solved, _ = torch.linalg.solve_ex(matrix, right.movedim(0, -1).unsqueeze(-1))
        increments.append(solved.squeeze(-1).movedim(-1, 0))
    return inner + increments[-1], increments[-1]
