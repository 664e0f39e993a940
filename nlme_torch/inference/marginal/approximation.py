r"""What FO, FOCE, Laplace and quadrature have in common: standardised effects and an expansion point per subject.

.. math:: p(y_i) = \int p(y_i \mid \eta = L z)\, \phi(z)\, dz, \qquad \Omega = L L^\top, \qquad
          g_i(z) = -\log p(y_i \mid L z) + \tfrac12 z^\top z

Laplace's approximation does not change under a linear map, so z may stand for eta: then
:math:`\log|\Omega| + \log|H_\eta| = \log|H_z|`, no inverse of :math:`\Omega` is ever needed, and a variance may fall to
zero without harm.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from torch import Tensor

from nlme_torch._typing import Float, Int
from nlme_torch.inference.numerics import linear_algebra
from nlme_torch.model.declare.values import ParameterValues, flatten_values, free_names, unflatten_values
from nlme_torch.model.density.density import Conditional, Density
from nlme_torch.model.density.start_outcomes import of_subjects

Integrand = Callable[[Tensor], Tensor]
"""``(effect, chain, start, subject) -> (chain, start, subject)``: g of every subject."""


class Evaluation(NamedTuple):
    """An approximate -2 log-likelihood of every subject.

    Attributes:
        value: With all constants, ``(start, subject)``; infinite where it cannot be evaluated.
        curvature: H on the scale of the standardised effects, ``(effect, effect, start, subject)``.
        centre: Where it was expanded, ``(effect, start, subject)``.
        gradient: Of the (weighted) sum over subjects with respect to the free parameters, ``(start, parameter)``, or
            None.
    """

    value: Tensor
    curvature: Tensor
    centre: Tensor
    gradient: Tensor | None


class Approximation(ABC):
    """An approximation of the marginal likelihood, joined to a model and its data.

    Args:
        density: The model, joined to data and solver.

    Attributes:
        has_modes: Whether it is expanded at the mode of every subject, rather than at zero.
    """

    has_modes: ClassVar[bool] = True

    def __init__(self, density: Density) -> None:
        self.density = density
        self.names = free_names(density.model)

    @property
    @abstractmethod
    def name(self) -> str:
        """What its values are called."""

    @abstractmethod
    def integrand(self, conditional: Conditional) -> Integrand:
        """Return g, whose minimum is the expansion point."""

    @abstractmethod
    def evaluate(
        self,
        values: ParameterValues,
        centre: Float[Tensor, "effect start subject"],
        *,
        gradient: bool,
        weights: Float[Tensor, "start subject"] | None = None,
    ) -> Evaluation:
        """Approximate -2 log-likelihood at the expansion point.

        Args:
            values: Raw name to ``(start, *shape)``.
            centre: Minimum of g for every subject, as exact as it can be had.
            gradient: Whether to differentiate with respect to the free parameters.
            weights: Weight of every subject in the sum that is differentiated; None for 1.

        Returns:
            The value and, if asked for, its exact total derivative: the expansion point moves with the parameters.
        """

    @abstractmethod
    def restricted(self, subjects: Int[Tensor, "subject"]) -> "Approximation":
        """Return the same for some of the subjects, by their positions: what has converged costs nothing more."""

    def some_subjects(self, subjects: Int[Tensor, "subject"]) -> Density:
        """Return the density of some of the subjects."""
        return of_subjects(self.density, subjects)

    def origin(self, starts: int) -> Tensor:
        """Return zero effects, ``(effect, start, subject)``."""
        batch = self.density.batch
        return batch.times.new_zeros(self.density.model.n_effects, starts, batch.n_subjects)

    def parameters(self, values: ParameterValues, gradient: bool) -> tuple[Tensor, Conditional]:
        """Return the free parameters as one differentiable tensor, and the model that depends on it."""
        vector = flatten_values(values, self.names) if self.names else next(iter(values.values())).new_zeros(1, 0)
        vector = vector.detach().requires_grad_(gradient)
        return vector, self.density.at(unflatten_values(vector, values, self.names) if self.names else values)


def replicas(centre: Tensor) -> Tensor:
    """Return one copy per effect, ``(effect, replica, start, subject)``, as a leaf of the graph."""
    return centre.detach()[:, None].expand(-1, centre.shape[0], -1, -1).clone().requires_grad_()


def batched(matrix: Tensor) -> Tensor:
    """Turn ``(effect, effect, *batch)`` into ``(*batch, effect, effect)``, for linear algebra."""
    return matrix.movedim((0, 1), (-2, -1))


def solve_per_subject(matrix: Tensor, vector: Tensor) -> Tensor:
    """Solve for ``(effect, *batch)`` with symmetric matrices ``(effect, effect, *batch)``."""
    solution = linear_algebra.solve(batched(matrix), vector.movedim(0, -1)[..., None])
    return solution[..., 0].movedim(-1, 0)


def own_replica(tensor: Tensor) -> Tensor:
    """Sum the entries whose replica is their effect, of ``(effect, replica, *batch)``."""
    return tensor.diagonal(dim1=0, dim2=1).sum()
