"""Factorisations in batches, where a matrix that has none is marked and harms nobody else.

``torch.linalg.cholesky``, ``inv``, ``solve`` and ``torch.cholesky_inverse`` raise for a whole batch when one of its
matrices cannot be factorised; their ``_ex`` variants return numbers that mean nothing. Here that matrix becomes NaN.
"""

import torch
from torch import Tensor

from nlme_torch._typing import Float


def cholesky(matrices: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """Return lower Cholesky factors; NaN where a matrix is not positive definite.

    Args:
        matrices: Symmetric matrices.

    Example:
        >>> import torch
        >>> cholesky(torch.tensor([[[4.0]], [[-1.0]]])).flatten().tolist()
        [2.0, nan]
    """
    factors, failed = torch.linalg.cholesky_ex(matrices)
    good = (failed == 0) & torch.isfinite(factors).all(-1).all(-1)
    return torch.where(good[..., None, None], factors, torch.nan)


def inverse(matrices: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """Return inverses; NaN where a matrix is singular.

    Args:
        matrices: Square matrices.
    """
    inverses, failed = torch.linalg.inv_ex(matrices)
    return torch.where((failed == 0)[..., None, None], inverses, torch.nan)


def solve(matrices: Float[Tensor, "*batch n n"], right: Float[Tensor, "*batch n k"]) -> Float[Tensor, "*batch n k"]:
    """Return the solutions of linear systems; NaN where a matrix is singular.

    Args:
        matrices: Square matrices.
        right: Right-hand sides, one or more columns each.
    """
    solutions, failed = torch.linalg.solve_ex(matrices, right)
    return torch.where((failed == 0)[..., None, None], solutions, torch.nan)


def symmetric_eigen(
    matrices: Float[Tensor, "*batch n n"],
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n n"]]:
    """Return eigenvalues in rising order and eigenvectors; NaN where a matrix is not finite.

    Args:
        matrices: Symmetric matrices.
    """
    finite = torch.isfinite(matrices).all(-1).all(-1)[..., None, None]
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    values, vectors = torch.linalg.eigh(torch.where(finite, matrices, identity))
    return torch.where(finite[..., 0], values, torch.nan), torch.where(finite, vectors, torch.nan)
