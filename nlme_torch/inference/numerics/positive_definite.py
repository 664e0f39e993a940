"""Cholesky factors of matrices that rounding, a collapsed variance or a failed search may have left without one."""

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.model.density.density import Conditional


def factor_or(
    matrices: Float[Tensor, "*batch effect effect"], otherwise: Float[Tensor, "*#batch effect effect"]
) -> Float[Tensor, "*batch effect effect"]:
    """Return lower Cholesky factors, and others where a matrix is not positive definite or not finite.

    Args:
        matrices: Symmetric matrices.
        otherwise: Factors to use where there is none.

    Example:
        >>> import torch
        >>> matrices = torch.tensor([[[4.0]], [[-1.0]], [[torch.nan]]])
        >>> factor_or(matrices, torch.ones(1, 1, 1)).flatten().tolist()
        [2.0, 1.0, 1.0]
    """
    factors, failed = torch.linalg.cholesky_ex(matrices)
    usable = (failed == 0) & torch.isfinite(factors).all(-1).all(-1)
    return torch.where(usable[..., None, None], factors, otherwise)


def root_of_diagonal(matrices: Float[Tensor, "*batch effect effect"]) -> Float[Tensor, "*batch effect effect"]:
    """Return diagonal factors of the diagonals, none smaller than rounding lets a number be beside the largest."""
    variances = torch.where(torch.isfinite(matrices), matrices, 0.0).diagonal(dim1=-2, dim2=-1)
    smallest = (torch.finfo(variances.dtype).eps * variances.amax(-1, keepdim=True)).clamp_min(1e-300)
    return torch.diag_embed(torch.maximum(variances, smallest).sqrt())


def prior_factor(conditional: Conditional) -> Float[Tensor, "start effect effect"]:
    """Return the Cholesky factor of Omega, which exists even where Omega itself is singular in rounding.

    Args:
        conditional: Densities at the parameters.
    """
    identity = torch.eye(conditional.density.model.n_effects).to(conditional.mean)
    coloured = conditional.colour(identity[:, :, None, None].expand(-1, -1, conditional.starts, 1))
    return coloured[..., 0].permute(2, 0, 1)
