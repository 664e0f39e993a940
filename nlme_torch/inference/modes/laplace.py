"""Laplace's approximation of an integral: one formula for whoever integrates over effects at their modes."""

from torch import Tensor

from nlme_torch._typing import Float


def minus_two_log_integral(
    least: Float[Tensor, "*batch"], factor: Float[Tensor, "*batch effect effect"]
) -> Float[Tensor, "*batch"]:
    r"""Laplace's approximation of an integral over standardised effects.

    .. math:: -2 \log \int (2 \pi)^{-k/2} e^{-g(z)}\, dz \approx 2 g(\hat z) + \log |H|, \qquad H = \nabla^2 g(\hat z)

    Nothing is added to H to make it invertible: a jitter would bias the answer.

    Args:
        least: g at its minimum.
        factor: Cholesky factor of H there.

    Example:
        >>> import torch
        >>> zero, root = torch.tensor([0.0]), torch.tensor([[[2.0]]])
        >>> minus_two_log_integral(zero, root).exp()  # of exp(-2 z^2) / sqrt(2 pi), which is 1/2, to the power -2
        tensor([4.])

    References:
        Tierney and Kadane (1986), Accurate approximations for posterior moments and marginal densities.
        doi:10.1080/01621459.1986.10478240
    """
    return 2 * least + 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
