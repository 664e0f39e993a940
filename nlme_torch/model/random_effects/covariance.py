"""Covariance structures of random effects: what the user asks for.

A structure such as ``Diagonal(0.1)`` is a request without a size; ``build(size)`` makes the module with the parameters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nlme_torch.errors import ModelError
from nlme_torch.model.random_effects.covariance_modules import Covariance as Covariance
from nlme_torch.model.random_effects.covariance_modules import DiagonalCovariance as DiagonalCovariance
from nlme_torch.model.random_effects.covariance_modules import FixedCovariance as FixedCovariance
from nlme_torch.model.random_effects.covariance_modules import FullCovariance as FullCovariance
from nlme_torch.model.random_effects.covariance_modules import ScalarCovariance as ScalarCovariance
from nlme_torch.model.random_effects.partly_fixed_covariance import PartlyFixedCovariance as PartlyFixedCovariance
from nlme_torch.model.random_effects.repeated_covariance import RepeatedCovariance as RepeatedCovariance


@dataclass(frozen=True)
class Diagonal:
    """Independent random effects with one variance each.

    Args:
        variance: Initial variance of every effect, > 0, on the transformed scale; or one for each of them.
    """

    variance: float | Sequence[float] = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.variance, int | float):
            object.__setattr__(self, "variance", tuple(self.variance))

    def build(self, size: int) -> Covariance:
        """Return the covariance module for ``size`` effects."""
        given = self.variance if isinstance(self.variance, tuple) else (self.variance,) * size
        if len(given) != size:
            raise ModelError(f"Diagonal gives {len(given)} variances for {size} random effects.")
        for variance in given:
            check_variance(variance, "Diagonal")
        return DiagonalCovariance(torch.tensor(given, dtype=torch.float64))


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
        variance: Initial variance of every effect (initial correlations are zero), > 0; or the initial covariance
            matrix, whole or its lower triangle row by row, on the transformed scale. Entries written as
            ``nlme.Fixed(value)`` are given and not estimated.

    Raises:
        ModelError: A matrix is not square, symmetric and positive definite.

    Example:
        >>> import nlme_torch as nlme
        >>> structure = nlme.Full([[0.1], [nlme.Fixed(0.001), 0.2]])
        >>> structure.build(2).current()[1].tolist()
        [0.001, 0.2]
    """

    variance: Any = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.variance, int | float):
            object.__setattr__(self, "variance", matrix_rows(self.variance, "Full"))

    def build(self, size: int) -> Covariance:
        """Return the covariance module for ``size`` effects."""
        if not isinstance(self.variance, tuple):
            check_variance(self.variance, "Full")
            return FullCovariance(float(self.variance) * torch.eye(size, dtype=torch.float64))
        check_size(self.variance, size, "Full")
        given = [[entry.value if isinstance(entry, Fixed) else entry for entry in row] for row in self.variance]
        fixed = torch.tensor([[isinstance(entry, Fixed) for entry in row] for row in self.variance])
        matrix = torch.tensor(given, dtype=torch.float64)
        if not bool(fixed.any()):
            return FullCovariance(matrix)
        return FixedCovariance(matrix) if bool(fixed.all()) else PartlyFixedCovariance(matrix, fixed)


@dataclass(frozen=True)
class Fixed:
    """A value that is not estimated: a variance where a covariance is asked for, a constant as a model attribute.

    Args:
        value: The constant; as a covariance, the common variance of independent effects, or their covariance matrix,
            whole or its lower triangle row by row.

    Raises:
        ModelError: A matrix is not square, symmetric and positive definite.

    Example:
        >>> import nlme_torch as nlme
        >>> weights = nlme.RandomWeights(nlme.MLP(1, 2, 1), omega=nlme.Fixed(1.0))
        >>> block = nlme.Omega("cl", "v", structure=nlme.Fixed([[0.1], [0.02, 0.2]]))
    """

    value: Any

    def __post_init__(self) -> None:
        if not isinstance(self.value, int | float) and hasattr(self.value, "__len__"):
            object.__setattr__(self, "value", matrix_rows(self.value, "Fixed"))

    def build(self, size: int) -> Covariance:
        """Return the covariance module for ``size`` effects."""
        if isinstance(self.value, tuple):
            check_size(self.value, size, "Fixed")
            return FixedCovariance(torch.tensor(self.value, dtype=torch.float64))
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


def check_variance(variance: Any, owner: str) -> None:
    """Refuse a variance that is not a positive number.

    Args:
        variance: The variance.
        owner: What it belongs to, for the message.

    Raises:
        ModelError: It is zero, negative or not finite.
    """
    number = isinstance(variance, int | float) and not isinstance(variance, bool)
    if not (number and math.isfinite(variance) and variance > 0):
        raise ModelError(
            f"{owner}: a variance must be a positive number, got {variance}; for a variance of 0 drop the random "
            "effect."
        )


def check_size(rows: tuple[tuple[Any, ...], ...], size: int, owner: str) -> None:
    """Refuse a matrix of another number of effects.

    Raises:
        ModelError: The numbers differ.
    """
    if len(rows) != size:
        raise ModelError(f"{owner} gives a matrix of {len(rows)} random effects; the block has {size}.")


def matrix_rows(given: Any, owner: str) -> tuple[tuple[Any, ...], ...]:
    """Read a covariance matrix, whole or its lower triangle row by row.

    Args:
        given: Rows of numbers, or of ``Fixed`` numbers.
        owner: What asks, for the message.

    Returns:
        The whole matrix.

    Raises:
        ModelError: It is not square, symmetric, finite and positive definite.
    """
    given = given.tolist() if hasattr(given, "tolist") else given
    rows = [tuple(row) if isinstance(row, list | tuple) else (row,) for row in given]
    size = len(rows)
    if [len(row) for row in rows] == list(range(1, size + 1)):
        rows = [tuple(rows[max(i, j)][min(i, j)] for j in range(size)) for i in range(size)]
    if not size or any(len(row) != size for row in rows):
        raise ModelError(
            f"{owner} needs a square matrix or its lower triangle row by row, got rows of {[len(row) for row in rows]} "
            "numbers."
        )
    entries = [[entry.value if isinstance(entry, Fixed) else entry for entry in row] for row in rows]
    if not all(isinstance(entry, int | float) and math.isfinite(entry) for row in entries for entry in row):
        raise ModelError(f"{owner}: a covariance matrix must hold finite numbers, got {entries}.")
    if any(rows[i][j] != rows[j][i] for i in range(size) for j in range(i)):
        raise ModelError(f"{owner}: a covariance matrix must be symmetric, got {entries}.")
    smallest = float(torch.linalg.eigvalsh(torch.tensor(entries, dtype=torch.float64))[0])
    if smallest <= 0:
        raise ModelError(
            f"{owner}: {entries} is not positive definite (smallest eigenvalue {smallest:.3g}); variances must exceed "
            "0, and a covariance must be smaller than the root of the product of its two variances."
        )
    return tuple(rows)
