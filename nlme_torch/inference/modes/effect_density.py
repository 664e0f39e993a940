"""The joint density as the kernels and mode searches see it: starts are further subjects."""

import math

import torch
from torch import Tensor

from nlme_torch._typing import Float, LogDensity
from nlme_torch.model.density.density import Conditional


def column_density(conditional: Conditional) -> LogDensity:
    """Return log p(y_i, eta_i) as a function of ``(effect, *batch, start * subject)``.

    Args:
        conditional: Densities at fixed parameters of one or several starts.

    Returns:
        A function whose values are ``(*batch, start * subject)``.
    """
    starts, subjects = conditional.starts, conditional.density.batch.n_subjects

    def log_joint(effects: Tensor) -> Tensor:
        columns = effects.reshape(effects.shape[0], -1, starts, subjects)
        return conditional.log_joint(columns).reshape(effects.shape[1:])

    return log_joint


class StandardisedDensity:
    r"""The joint density of ``eta = L z`` as a function of z, with :math:`\Omega = L L^\top`.

    Effects of all models are of size one in z: what a long step is means the same everywhere, and a variance may fall
    to zero.

    Args:
        conditional: Densities at fixed parameters of one or several starts.
    """

    def __init__(self, conditional: Conditional) -> None:
        self.conditional = conditional
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
        value = self.conditional.log_likelihood(self.conditional.colour(columns))
        value = value - 0.5 * columns.square().sum(0) - self._log_scale
        return value.reshape(standardised.shape[1:])

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
