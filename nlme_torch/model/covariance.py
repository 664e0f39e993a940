r"""Covariance structures of random effects: what the user asks for, and the parameters that hold it.

A structure such as ``Diagonal(0.1)`` is a request without a size; ``build(size)`` makes the module with the
parameters. Every module gives its matrix, its Cholesky factor and, for the closed-form M-step of SAEM, the maximum of

.. math:: -\tfrac{1}{2} \log|\Omega| - \tfrac{1}{2} \operatorname{tr}(\Omega^{-1} S)

over its own parameters given an empirical second moment ``S``.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nlme_torch._typing import Float
from nlme_torch.errors import ModelError


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


@dataclass(frozen=True)
class Diagonal:
    """Independent random effects with one variance each.

    Args:
        variance: Initial variance of every effect, > 0, on the transformed scale.
    """

    variance: float = 0.1

    def build(self, size: int) -> Covariance:
        """Return the covariance module for ``size`` effects."""
        check_variance(self.variance, "Diagonal")
        return DiagonalCovariance(torch.full((size,), float(self.variance), dtype=torch.float64))


@dataclass(frozen=True)
class Scalar:
    """Independent random effects with one common variance.

    Args:
        variance: Initial variance, > 0.
    """

    variance: float = 0.1

    def build(self, size: int) -> Covariance:
        """Return the covariance module for ``size`` effects."""
        check_variance(self.variance, "Scalar")
        return ScalarCovariance(float(self.variance), size)


@dataclass(frozen=True)
class Full:
    """Correlated random effects with a full covariance matrix.

    Args:
        variance: Initial variance of every effect (initial correlations are zero), > 0.
    """

    variance: float = 0.1

    def build(self, size: int) -> Covariance:
        """Return the covariance module for ``size`` effects."""
        check_variance(self.variance, "Full")
        return FullCovariance(float(self.variance) * torch.eye(size, dtype=torch.float64))


@dataclass(frozen=True)
class Fixed:
    """A value that is not estimated: a variance where a covariance is asked for, a constant as a model attribute.

    Args:
        value: The constant; as a covariance, the common variance of independent effects.

    Example:
        >>> import nlme_torch as nlme
        >>> weights = nlme.RandomWeights(nlme.MLP(1, 2, 1), omega=nlme.Fixed(1.0))
    """

    value: float

    def build(self, size: int) -> Covariance:
        """Return the covariance module for ``size`` effects."""
        check_variance(self.value, "Fixed")
        return FixedCovariance(float(self.value) * torch.eye(size, dtype=torch.float64))


@dataclass(frozen=True)
class LowRank:
    """Random weights that vary along few directions: w_i = w + B z_i with z_i ~ N(0, I), B lower triangular.

    Args:
        rank: Number q of random effects.
        scale: Initial size of the entries of B's diagonal.
    """

    rank: int
    scale: float = 0.3

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ModelError(f"LowRank needs a rank of at least 1, got {self.rank}.")


Structure = Diagonal | Scalar | Full | Fixed


def check_variance(variance: float, owner: str) -> None:
    """Refuse a variance that is not a positive number.

    Args:
        variance: The variance.
        owner: What it belongs to, for the message.

    Raises:
        ModelError: It is zero, negative or not finite.
    """
    if not (math.isfinite(variance) and variance > 0):
        raise ModelError(
            f"{owner}: a variance must be a positive number, got {variance}; for a variance of 0 drop the random "
            "effect."
        )
