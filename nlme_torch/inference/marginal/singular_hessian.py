r"""Where Laplace's approximation is not defined: next to a place where a subject's Hessian loses its rank.

.. math:: -2 \log p(y_i) \approx 2 g(\hat z) + \log |H|, \qquad H = I - \nabla^2 \log p(y_i \mid L z)

Where two modes of a subject merge an eigenvalue of H vanishes, and the approximation falls without bound although the
likelihood does not. A minimiser that is let there finds nothing else. The prior alone gives every eigenvalue one: a
small part of that is taken for the edge of what the approximation can say.

References:
    Poston and Stewart (1978), Catastrophe Theory and its Applications (the fold).
"""

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.inference.marginal.approximation import batched

SINGULAR = 0.05
"""Of the prior's own curvature: the conditional spread would exceed four standard deviations of the prior."""


def smallest_eigenvalues(hessian: Float[Tensor, "effect effect *batch"]) -> Float[Tensor, "*batch"]:
    """Return the smallest eigenvalue of every subject's Hessian; infinite where that is not finite.

    Args:
        hessian: Of standardised effects, so that the prior's is the identity.
    """
    matrices = batched(hessian)
    finite = torch.isfinite(matrices).all(-1).all(-1)
    safe = torch.where(finite[..., None, None], matrices, torch.eye(matrices.shape[-1]).to(matrices))
    return torch.where(finite, torch.linalg.eigvalsh(safe)[..., 0], torch.inf)
