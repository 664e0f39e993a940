"""The update of Broyden, Fletcher, Goldfarb and Shanno, for one inverse Hessian or many side by side."""

import torch
from torch import Tensor

from nlme_torch._typing import Float

STRAIGHT = 1e-10
"""Cosine of a step and the turn of the gradient along it, below which their product is rounding."""


def updated(
    inverse: Float[Tensor, "*batch parameter parameter"],
    move: Float[Tensor, "*batch parameter"],
    turn: Float[Tensor, "*batch parameter"],
) -> Float[Tensor, "*batch parameter parameter"]:
    r"""Return inverse Hessians that have learnt from a step; as they were where the function does not bend upwards.

    .. math:: B \leftarrow (I - \rho s y^\top) B (I - \rho y s^\top) + \rho s s^\top, \qquad \rho = 1 / (y^\top s)

    Args:
        inverse: B.
        move: s, the step.
        turn: y, the change of the gradient.

    Example:
        >>> import torch
        >>> step, hessian = torch.tensor([1.0, 2.0]), torch.tensor([[2.0, 0.0], [0.0, 4.0]])
        >>> learnt = updated(torch.eye(2), step, hessian @ step)
        >>> torch.allclose(learnt @ hessian @ step, step)  # the secant condition
        True

    References:
        Nocedal and Wright (2006), Numerical Optimization, chapter 6. doi:10.1007/978-0-387-40065-5
    """
    bend = torch.linalg.vecdot(move, turn)[..., None, None]
    good = bend > STRAIGHT * (move.norm(dim=-1) * turn.norm(dim=-1))[..., None, None]
    bend = torch.where(good, bend, 1.0)
    identity = torch.eye(move.shape[-1], dtype=move.dtype, device=move.device)
    left = identity - move[..., :, None] * turn[..., None, :] / bend
    learnt = left @ inverse @ left.mT + move[..., :, None] * move[..., None, :] / bend
    return torch.where(good, learnt, inverse)
