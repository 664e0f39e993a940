"""The joint density as the kernels and mode searches see it: starts are further subjects."""

import math
from functools import cached_property

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.model.compiled.column_likelihood import ColumnLikelihood
from nlme_torch.model.compiled.compiled_likelihood import compiled_likelihood
from nlme_torch.model.density.density import Conditional
from nlme_torch.solve.stepping.discrete_adjoint import is_transformed

MOST_EFFECTS = 8
"""With more, second derivatives written out are too long to be compiled soon."""


class ColumnDensity:
    """log p(y_i, eta_i) as a function of ``(effect, *batch, start * subject)``.

    Values without a graph, and derivatives, are compiled where the model's likelihood can be; the rest are tensor
    operations, differentiable in effects and parameters.

    Args:
        conditional: Densities at fixed parameters of one or several starts.
    """

    def __init__(self, conditional: Conditional) -> None:
        self.conditional = conditional
        self._shape = (conditional.starts, conditional.density.batch.n_subjects)

    @cached_property
    def compiled(self) -> ColumnLikelihood | None:
        """The compiled likelihood at these parameters; None where there is none."""
        found = compiled_likelihood(self.conditional)
        return None if found is None else found.at(self.conditional)

    def __call__(self, effects: Float[Tensor, "effect *batch row"]) -> Float[Tensor, "*batch row"]:
        """Return log p(y, eta)."""
        columns = effects.reshape(effects.shape[0], -1, *self._shape)
        if torch.is_grad_enabled() or is_transformed() or self.compiled is None:
            return self.conditional.log_joint(columns).reshape(effects.shape[1:])
        prior = self.conditional.log_effects(columns).reshape(effects.shape[1:])
        return self.compiled(effects) + prior

    def derivatives(self, effects: Float[Tensor, "effect *batch row"]) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return value, gradient and Hessian by compiled code; None where that cannot be done.

        Args:
            effects: Points.
        """
        found = likelihood_derivatives(self.compiled, effects)
        if found is None:
            return None
        value, gradient, hessian = found
        with torch.no_grad():
            prior = self.conditional.log_effects(effects.reshape(len(effects), -1, *self._shape))
            precision = self._precision().repeat_interleave(self._shape[1], -1)
            pull = torch.einsum("ijr,j...r->i...r", precision, effects)
            bent = hessian - precision.reshape(*precision.shape[:2], *(1,) * (effects.dim() - 2), precision.shape[-1])
            return value + prior.reshape(value.shape), gradient - pull, bent

    def _precision(self) -> Float[Tensor, "effect effect start"]:
        """Return the inverse of Omega; not finite where a variance is 0, in which no effect but 0 has a density."""
        count = self.conditional.density.model.n_effects
        identity = torch.eye(count, dtype=self.conditional.mean.dtype, device=self.conditional.mean.device)
        columns = identity[:, :, None, None].expand(-1, -1, self.conditional.starts, 1)
        factor = self.conditional.colour(columns)[..., 0].permute(2, 0, 1)
        root = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
        return (root.mT @ root).permute(1, 2, 0)


def column_density(conditional: Conditional) -> ColumnDensity:
    """Return log p(y_i, eta_i) as a function of ``(effect, *batch, start * subject)``.

    Args:
        conditional: Densities at fixed parameters of one or several starts.
    """
    return ColumnDensity(conditional)


def likelihood_derivatives(
    likelihood: ColumnLikelihood | None, effects: Float[Tensor, "effect *batch row"]
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return value, gradient and Hessian of log p(y | eta) by compiled code.

    Args:
        likelihood: The compiled likelihood at the parameters, or None.
        effects: Points.

    Returns:
        ``(*batch, row)``, ``(effect, *batch, row)`` and ``(effect, effect, *batch, row)``; None where derivatives are
        not compiled, or a closed form is inexact at one of the points.
    """
    count = len(effects)
    if likelihood is None or not 0 < count <= MOST_EFFECTS:
        return None
    jets = likelihood.jets(effects, range(count))
    if jets is None:
        return None
    value, gradient, entries = jets[0], jets[1 : 1 + count], jets[1 + count :]
    if bool((torch.isnan(value) | (torch.isfinite(value) & torch.isnan(entries).any(0))).any()):
        return None
    rows, columns = torch.tril_indices(count, count)
    hessian = entries.new_empty(count, count, *value.shape)
    hessian[rows, columns] = entries
    hessian[columns, rows] = entries
    return value, gradient, hessian


class StandardisedDensity:
    r"""The joint density of ``eta = L z`` as a function of z, with :math:`\Omega = L L^\top`.

    Effects of all models are of size one in z: what a long step is means the same everywhere, and a variance may fall
    to zero.

    Args:
        conditional: Densities at fixed parameters of one or several starts.
    """

    def __init__(self, conditional: Conditional) -> None:
        self.conditional, self._columns = conditional, ColumnDensity(conditional)
        starts, subjects = conditional.starts, conditional.density.batch.n_subjects
        count = conditional.density.model.n_effects
        identity = torch.eye(count, dtype=conditional.mean.dtype, device=conditional.mean.device)
        with torch.no_grad():
            factor = conditional.colour(identity[:, :, None, None].expand(-1, -1, starts, 1))[..., 0]
            log_scale = factor.diagonal(dim1=0, dim2=1).abs().log().sum(-1) + 0.5 * count * math.log(2 * math.pi)
        self._shape = (starts, subjects)
        self._factor = factor.permute(2, 0, 1).repeat_interleave(subjects, 0)  # (column, effect, effect)
        self._log_scale = log_scale.nan_to_num(neginf=0.0)[:, None]

    def __call__(self, standardised: Float[Tensor, "effect *batch column"]) -> Float[Tensor, "*batch column"]:
        """Return log p(y, eta), with the density of eta."""
        columns = standardised.reshape(standardised.shape[0], -1, *self._shape)
        effects, compiled = self.conditional.colour(columns), self._columns.compiled
        if torch.is_grad_enabled() or is_transformed() or compiled is None:
            value = self.conditional.log_likelihood(effects)
        else:
            value = compiled(effects.flatten(-2)).reshape(columns.shape[1:])
        value = value - 0.5 * columns.square().sum(0) - self._log_scale
        return value.reshape(standardised.shape[1:])

    def derivatives(self, standardised: Float[Tensor, "effect *batch column"]) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return value, gradient and Hessian by compiled code; None where that cannot be done."""
        with torch.no_grad():
            effects = self.effects(standardised)
            found = likelihood_derivatives(self._columns.compiled, effects)
            if found is None:
                return None
            value, gradient, hessian = found
            columns = standardised.reshape(standardised.shape[0], -1, *self._shape)
            prior = -0.5 * columns.square().sum(0) - self._log_scale
            turned = torch.einsum("rji,j...r->i...r", self._factor, gradient) - standardised
            bent = torch.einsum("rki,kl...r,rlj->ij...r", self._factor, hessian, self._factor)
            identity = torch.eye(len(effects), dtype=effects.dtype)
            bent = bent - identity.reshape(*identity.shape, *(1,) * (bent.dim() - 2))
            return value + prior.reshape(value.shape), turned, bent

    def effects(self, standardised: Float[Tensor, "effect *batch column"]) -> Float[Tensor, "effect *batch column"]:
        """Return eta."""
        columns = standardised.reshape(standardised.shape[0], -1, *self._shape)
        return self.conditional.colour(columns).reshape(standardised.shape)

    def standardise(self, effects: Float[Tensor, "effect start column"]) -> Float[Tensor, "effect start column"]:
        """Return z; zero for effects without variance."""
        with torch.no_grad():
            solved = torch.linalg.solve_triangular(self._factor, effects.permute(2, 0, 1), upper=False)
        return solved.permute(1, 2, 0).nan_to_num(0.0, posinf=0.0, neginf=0.0)

    def precision(self, matrices: Float[Tensor, "effect effect *start column"]) -> Tensor:
        """Return minus the Hessian with respect to eta from the one with respect to z."""
        batched = matrices.movedim((0, 1), (-2, -1))
        half = torch.linalg.solve_triangular(self._factor.mT, batched, upper=True)
        whole = torch.linalg.solve_triangular(self._factor.mT, half.mT, upper=True)
        return whole.movedim((-2, -1), (0, 1))
