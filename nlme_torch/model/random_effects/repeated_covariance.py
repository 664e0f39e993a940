r"""One covariance matrix for every occasion: NONMEM's ``$OMEGA BLOCK(n) SAME``."""

from collections.abc import Mapping

import torch
from torch import Tensor

from nlme_torch.model.random_effects.covariance_modules import Covariance


class RepeatedCovariance(Covariance):
    r"""Independent repeats of effects that covary.

    .. math:: \Omega = I_{count} \otimes \Gamma

    Args:
        inner: Gamma, of the effects of one occasion.
        count: Number of occasions; the effects of one stand together.
    """

    inner: Covariance

    def __init__(self, inner: Covariance, count: int) -> None:
        super().__init__(inner.size * count)
        self.inner, self.count = inner, count
        self.diagonal = inner.diagonal

    def cholesky(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the block-diagonal factor."""
        factor = self.inner.cholesky(_inner(parameters))
        identity = torch.eye(self.count, dtype=factor.dtype, device=factor.device)
        return torch.kron(identity, factor.contiguous())

    def maximise(self, moment: Tensor) -> dict[str, Tensor]:
        """Return the maximum for the mean of the second moments of all occasions."""
        size = self.inner.size
        blocks = [moment[:, k : k + size, k : k + size] for k in range(0, self.size, size)]
        return {f"inner.{name}": value for name, value in self.inner.maximise(torch.stack(blocks).mean(0)).items()}


def _inner(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("inner."): value for name, value in parameters.items()}
