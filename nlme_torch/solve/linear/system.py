"""What every linear system offers, and the generic one, given by its matrix."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from nlme_torch.errors import SolveError
from nlme_torch.solve.linear.matrix_exponential import matrix_exponential
from nlme_torch.solve.linear.numbers import common_shape


class Linear(ABC):
    r"""dy/dt = A y + r with constant A: the solution is exact at any time.

    .. math:: y(t) = e^{A t} y(0) + \int_0^t e^{A s} ds \, r

    Subclasses are frozen dataclasses whose tensor fields broadcast to ``(*batch)``, and are differentiable in
    all of them (any number of times, in forward and in reverse mode), degenerate points included.
    """

    @property
    @abstractmethod
    def states(self) -> tuple[str, ...]:
        """Names of the compartments, in the order of the state axis."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """Return A, (state, state, *batch) [1 / time]; column j says where the amount of state j goes."""

    @abstractmethod
    def exponential(self, elapsed: Tensor) -> Tensor:
        """Return exp(A t), (state, state, *shape), for ``elapsed`` [time] that broadcasts with the parameters."""

    @abstractmethod
    def integral(self, elapsed: Tensor) -> Tensor:
        """Return the integral of exp(A s) from 0 to t, (state, state, *shape) [time]."""

    def transition(self, elapsed: Tensor) -> Tensor:
        """Return exp(A t) for several records at once.

        Args:
            elapsed: (record, *batch) [time]; its trailing axes broadcast with the parameters.

        Returns:
            (record, state, state, *batch).
        """
        return self.exponential(self._leading_record(elapsed)).movedim(2, 0)

    def response(self, elapsed: Tensor) -> Tensor:
        """Return what a constant unit rate into each state amounts to after the elapsed time.

        Args:
            elapsed: (record, *batch) [time].

        Returns:
            (record, state, state, *batch) [time].
        """
        return self.integral(self._leading_record(elapsed)).movedim(2, 0)

    def amounts(self, elapsed: Tensor, start: Tensor, rates: Tensor | None = None) -> Tensor:
        """Return the state some time after a known one: what feeds a differential equation.

        Args:
            elapsed: (*batch) [time] since the known state.
            start: (state, *batch) [amount] the known state.
            rates: (state, *batch) [amount / time] constant input since then, or None.

        Returns:
            (state, *batch) [amount].
        """
        reached = (self.exponential(elapsed) * start).sum(1)
        return reached if rates is None else reached + (self.integral(elapsed) * rates).sum(1)

    def parameters(self) -> dict[str, Tensor]:
        """Return the tensors of the system by the name of their field, numbers as float64 tensors."""
        return {name: value for name, value in self._fields().items() if isinstance(value, Tensor)}

    def batch(self) -> torch.Size:
        """Return the shape that the parameters broadcast to."""
        return common_shape(*(value.shape for value in self.parameters().values()))

    def without(self, failed: Tensor) -> "Linear":
        """Return the same system with harmless parameters for some subjects.

        Args:
            failed: (*batch) True where a subject is to be excluded.

        Returns:
            A system in which those subjects have parameters 1, without gradient.
        """
        return replace(self, **{n: torch.where(failed, 1.0, v) for n, v in self.parameters().items()})  # type: ignore[type-var]

    def _fields(self) -> dict[str, object]:
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}  # type: ignore[arg-type]

    def _leading_record(self, elapsed: Tensor) -> Tensor:
        """Let the first axis of ``elapsed`` stand before all axes of the parameters."""
        missing = len(self.batch()) + 1 - elapsed.ndim
        return elapsed.reshape(elapsed.shape[0], *(1,) * max(missing, 0), *elapsed.shape[1:])


@dataclass(frozen=True)
class LinearSystem(Linear):
    """Any linear system with constant coefficients, by the matrix exponential (scaling and squaring).

    Attributes:
        coefficients: (state, state, *batch) [1 / time] the matrix A: entry (i, j) times y_j flows into state i.
        names: names of the states; y1, y2, ... unless given.

    Raises:
        SolveError: if the matrix is not square, not floating point, or has another number of states than names.

    Example:
        >>> import torch
        >>> decay = LinearSystem(torch.tensor([[-0.5, 0.0], [0.5, -0.1]], dtype=torch.float64))
        >>> decay.transition(torch.tensor([2.0], dtype=torch.float64))[0, 0, 0].item()
        0.36787944117144233

    References:
        Higham (2005), The scaling and squaring method for the matrix exponential revisited,
        doi:10.1137/04061101X.
    """

    coefficients: Tensor
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = tuple(self.coefficients.shape)
        if len(shape) < 2 or shape[0] != shape[1] or not shape[0]:
            raise SolveError(f"the matrix of a linear system must be (state, state, *batch), got {shape}")
        if not self.coefficients.is_floating_point():
            raise SolveError(f"the matrix of a linear system must be real, got {self.coefficients.dtype}")
        if self.names and len(self.names) != shape[0]:
            raise SolveError(f"{len(self.names)} names {self.names} for a system of {shape[0]} states")

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the states."""
        return self.names or tuple(f"y{index + 1}" for index in range(self.coefficients.shape[0]))

    def matrix(self) -> Tensor:
        """Return A, (state, state, *batch)."""
        return self.coefficients

    def batch(self) -> torch.Size:
        """Return the batch shape of the matrix."""
        return self.coefficients.shape[2:]

    def exponential(self, elapsed: Tensor) -> Tensor:
        """Return exp(A t), (state, state, *shape)."""
        return matrix_exponential(scaled(self.coefficients, elapsed))

    def integral(self, elapsed: Tensor) -> Tensor:
        """Return the integral of exp(A s) from 0 to t, (state, state, *shape)."""
        return matrix_integral(self.coefficients, elapsed)

    def without(self, failed: Tensor) -> "LinearSystem":
        """Return the same system with A = 0 for the failed subjects."""
        return replace(self, coefficients=torch.where(failed, 0.0, self.coefficients))


def scaled(matrix: Tensor, elapsed: Tensor) -> Tensor:
    """A t, (state, state, *shape), with the batch axes of A aligned to the last axes of ``elapsed``."""
    missing = elapsed.ndim - (matrix.ndim - 2)
    return matrix.reshape(*matrix.shape[:2], *(1,) * max(missing, 0), *matrix.shape[2:]) * elapsed


def matrix_integral(matrix: Tensor, elapsed: Tensor) -> Tensor:
    """Integral of exp(A s) over (0, t), (state, state, *shape): a block of the exponential of a larger matrix.

    References:
        Van Loan (1978), Computing integrals involving the matrix exponential, doi:10.1109/TAC.1978.1101743.
    """
    count = matrix.shape[0]
    unit = torch.eye(count, dtype=matrix.dtype, device=matrix.device)
    unit = unit.reshape(count, count, *(1,) * (matrix.ndim - 2)).expand_as(matrix)
    lower = torch.zeros(count, 2 * count, *matrix.shape[2:], dtype=matrix.dtype, device=matrix.device)
    block = torch.cat([torch.cat([matrix, unit], 1), lower])
    return matrix_exponential(scaled(block, elapsed))[:count, count:]
