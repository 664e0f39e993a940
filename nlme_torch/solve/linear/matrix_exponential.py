"""The exponential of many small matrices, accurate to rounding.

PyTorch's own truncates its series at 1e-11 for some norms, which is not what a closed form promises.
"""

from math import factorial

import torch
from torch import Tensor

# Taylor polynomial of degree 19 for norms up to 1/2: beyond rounding, with room for three derivatives.
_DEGREE, _BLOCK = 19, 4
# Every squaring doubles the rounding error: beyond this norm no digit of a result that is not zero would be left.
_LARGEST_NORM = 2.0**52


def matrix_exponential(argument: Tensor) -> Tensor:
    r"""exp(X) by scaling and squaring, each matrix scaled by its own norm.

    .. math:: e^X = \left(\sum_{k \le 19} \frac{(X / 2^s)^k}{k!}\right)^{2^s}

    Args:
        argument: (state, state, *shape).

    Returns:
        (state, state, *shape); NaN where X is not finite, or so large (norm above 2^52) that rounding leaves no digit.

    References:
        Paterson, Stockmeyer (1973), doi:10.1137/0202007; Moler, Van Loan (2003), doi:10.1137/S00361445024180.
    """
    rows = argument.movedim((0, 1), (-2, -1))
    if rows.numel() == 0:
        return argument
    with torch.no_grad():
        norm = rows.detach().abs().sum(-1).amax(-1)
        possible = norm <= _LARGEST_NORM
        halvings = torch.ceil(torch.log2(2 * torch.where(possible, norm, 0.0))).clamp(min=0)
        most = int(halvings.max())
    matrix = torch.where(possible[..., None, None], rows, 0.0) * torch.exp2(-halvings)[..., None, None]
    result = _polynomial(matrix)
    for done in range(most):
        result = torch.where((done < halvings)[..., None, None], result @ result, result)
    return torch.where(possible[..., None, None], result, torch.nan).movedim((-2, -1), (0, 1))


def _polynomial(matrix: Tensor) -> Tensor:
    """The Taylor polynomial with few products."""
    unit = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    powers = [unit, matrix]
    for _ in range(_BLOCK - 1):
        powers.append(powers[-1] @ matrix)
    result = torch.zeros_like(matrix)
    for start in range(_DEGREE + 1 - _BLOCK, -1, -_BLOCK):
        result = result @ powers[_BLOCK]
        for offset in range(_BLOCK):
            result = result + powers[offset] / factorial(start + offset)
    return result
