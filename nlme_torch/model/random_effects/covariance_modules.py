r"""The parameters that hold the covariance matrix of a block of random effects.

Every module gives its matrix, its Cholesky factor and, for the closed-form M-step of SAEM, the maximum of

.. math:: -\tfrac{1}{2} \log|\Omega| - \tfrac{1}{2} \operatorname{tr}(\Omega^{-1} S)

over its own parameters given an empirical second moment ``S``.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nlme_torch._typing import Float


class Covariance(nn.Module):
    """The covariance matrix of one block of random effects; subclasses hold its parameters.

    Args:
        size: Number of random effects of the block.
    """

    diagonal: bool = True

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    @abstractmethod
    def cholesky(self, parameters: Mapping[str, Tensor]) -> Float[Tensor, "start effect effect"]:
        """Return the lower Cholesky factor from raw parameters, each ``(start, *shape)``."""

    @abstractmethod
    def maximise(self, moment: Float[Tensor, "start effect effect"]) -> dict[str, Tensor]:
        """Return the raw parameters that maximise the Gaussian likelihood of a second moment."""

    def matrix(self, parameters: Mapping[str, Tensor]) -> Float[Tensor, "start effect effect"]:
        """Return the covariance matrix from raw parameters, each ``(start, *shape)``."""
        factor = self.cholesky(parameters)
        return factor @ factor.mT

    def free(self) -> bool:
        """Whether any entry is estimated."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def current(self) -> Float[Tensor, "effect effect"]:
        """Return the covariance matrix at the module's own parameters."""
        raw = {name: parameter.detach()[None] for name, parameter in self.named_parameters()}
        return self.matrix(raw)[0]


class DiagonalCovariance(Covariance):
    """Independent effects: one variance each."""

    def __init__(self, variances: Float[Tensor, "effect"]) -> None:
        super().__init__(variances.shape[0])
        self.log_sd = nn.Parameter(0.5 * variances.log())

    def cholesky(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the diagonal matrix of standard deviations."""
        return torch.diag_embed(parameters["log_sd"].exp())

    def maximise(self, moment: Tensor) -> dict[str, Tensor]:
        """Return the root of the second moment's diagonal."""
        return {"log_sd": 0.5 * moment.diagonal(dim1=-2, dim2=-1).log()}


class ScalarCovariance(Covariance):
    """Independent effects with one common variance."""

    def __init__(self, variance: float, size: int) -> None:
        super().__init__(size)
        self.log_sd = nn.Parameter(torch.tensor(0.5 * math.log(variance), dtype=torch.float64))

    def cholesky(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the identity times the common standard deviation."""
        return torch.diag_embed(parameters["log_sd"].exp()[:, None].expand(-1, self.size))

    def maximise(self, moment: Tensor) -> dict[str, Tensor]:
        """Return the root of the mean of the second moment's diagonal."""
        return {"log_sd": 0.5 * moment.diagonal(dim1=-2, dim2=-1).mean(-1).log()}


class FullCovariance(Covariance):
    """Correlated effects: the Cholesky factor with its diagonal on the log scale."""

    diagonal = False

    def __init__(self, matrix: Float[Tensor, "effect effect"]) -> None:
        super().__init__(matrix.shape[0])
        rows, columns = torch.tril_indices(self.size, self.size)
        self._rows, self._columns = rows, columns
        self.factor = nn.Parameter(self._pack(torch.linalg.cholesky(matrix)[None])[0])

    def _pack(self, factor: Tensor) -> Tensor:
        entries = factor[:, self._rows, self._columns]
        return torch.where(self._rows == self._columns, entries.clamp_min(1e-300).log(), entries)

    def cholesky(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the lower-triangular factor."""
        packed = parameters["factor"]
        on_diagonal = self._rows.to(packed.device) == self._columns.to(packed.device)
        entries = torch.where(on_diagonal, packed, 0).exp() * on_diagonal + packed * ~on_diagonal
        factor = packed.new_zeros(packed.shape[0], self.size, self.size)
        factor[:, self._rows, self._columns] = entries
        return factor

    def maximise(self, moment: Tensor) -> dict[str, Tensor]:
        """Return the Cholesky factor of the second moment."""
        return {"factor": self._pack(torch.linalg.cholesky(moment))}


class FixedCovariance(Covariance):
    """A covariance that is given and never estimated."""

    def __init__(self, matrix: Float[Tensor, "effect effect"]) -> None:
        super().__init__(matrix.shape[0])
        self.diagonal = bool((matrix == torch.diag(matrix.diagonal())).all())
        self.register_buffer("factor", torch.linalg.cholesky(matrix))

    def cholesky(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the given factor."""
        return self.get_buffer("factor")[None]

    def maximise(self, moment: Tensor) -> dict[str, Tensor]:
        """Return nothing: there is no parameter."""
        return {}
