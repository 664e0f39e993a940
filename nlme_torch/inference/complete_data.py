r"""Score and information of the marginal likelihood from draws of the random effects.

With complete-data scores :math:`s_i = \nabla_\theta \log p(y_i, \phi_i; \theta)`, Fisher's identity and Louis's formula
read

.. math:: \nabla \ell = \sum_i E[s_i \mid y_i], \qquad
          -\nabla^2 \ell = \sum_i \big(-E[\nabla^2_\theta \log p(y_i, \phi_i) \mid y_i]
          - \operatorname{Cov}[s_i \mid y_i]\big)

phi is held, so that the complete-data log density falls into two parts: p(phi) depends on typical values, covariate
effects and Omega alone, p(y | phi) on all others. Scales of normal residuals need no derivative of the model: with
:math:`r_i` the sum of squared residuals in units of sigma, n_i of them, :math:`\partial \log p / \partial \log \sigma
= r_i - n_i` and the second derivative is :math:`-2 r_i`.

References:
    Louis (1982), Finding the observed information matrix when using the EM algorithm.
    doi:10.1111/j.2517-6161.1982.tb01203.x
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.inference.free_scalars import FreeScalars
from nlme_torch.inference.sufficient_statistics import residual_squares
from nlme_torch.model.absolute_zeros import gradients
from nlme_torch.model.density import Density

COLUMNS = 8000
"""Most draws of all subjects that one call differentiates."""


class LouisSums(NamedTuple):
    """Sums over the iterations, kept apart for every chain.

    Attributes:
        iterations: How many.
        scores: ``(chain, subject, kept)``.
        squares: Of the scores, summed over subjects, ``(chain, kept, kept)``.
        curvature: Second derivatives of the complete-data log density, summed over subjects, ``(chain, kept, kept)``.
    """

    iterations: int
    scores: Tensor
    squares: Tensor
    curvature: Tensor

    def plus(self, other: "LouisSums") -> "LouisSums":
        """Add further iterations."""
        return LouisSums(
            self.iterations + other.iterations,
            self.scores + other.scores,
            self.squares + other.squares,
            self.curvature + other.curvature,
        )

    def mean_scores(self) -> Float[Tensor, "subject kept"]:
        """Every subject's expected complete-data score, which is its score."""
        return self.scores.mean(0) / self.iterations

    def complete(self) -> Float[Tensor, "kept kept"]:
        """The information of the complete data."""
        return -self.curvature.mean(0) / self.iterations

    def information(self) -> Float[Tensor, "chain kept kept"]:
        """Louis's formula for every chain, deviations taken from the mean of all chains."""
        mean, own = self.mean_scores(), self.scores / self.iterations
        crossed = torch.einsum("cni,nj->cij", own, mean)
        covariance = self.squares / self.iterations - crossed - crossed.mT + mean.mT @ mean
        return -self.curvature / self.iterations - covariance


def louis_sums(
    density: Density,
    scalars: FreeScalars,
    draws: Float[Tensor, "effect iteration chain subject"],
    scales: Mapping[str, tuple[str, ...]],
) -> LouisSums:
    """Differentiate the complete-data log density at draws of phi, as many at once as one call should hold.

    Args:
        density: The model with its data.
        scalars: The parameters.
        draws: Of phi, at these parameters.
        scales: What :func:`nlme_torch.model.residual_scale.residual_scales` found.
    """
    _, _, chains, subjects = draws.shape
    parts = [
        derivatives(density, scalars, part, scales) for part in draws.split(max(1, COLUMNS // (chains * subjects)), 1)
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total.plus(part)
    return total


def derivatives(
    density: Density,
    scalars: FreeScalars,
    draws: Float[Tensor, "effect iteration chain subject"],
    scales: Mapping[str, tuple[str, ...]],
) -> LouisSums:
    """The same in one call; chains stand on the start axis."""
    iterations, chains, subjects = draws.shape[1:]
    whole = scalars.vector.detach().expand(chains, -1)
    shape = (iterations, chains, subjects, whole.shape[1])
    scores, curvature = draws.new_zeros(shape), draws.new_zeros(chains, shape[-1], shape[-1])
    owners = _owners(scalars)
    kinds = [_kind(name, scales) for name in owners]
    for kind in ("effects", "outcomes"):
        columns = [column for column, own in enumerate(kinds) if own == kind]
        if not columns:
            continue
        place = torch.tensor(columns, device=draws.device)
        leaf = whole[:, place].clone().requires_grad_()
        weights = torch.ones(shape[:-1], dtype=draws.dtype, device=draws.device, requires_grad=True)
        with torch.enable_grad():
            conditional = density.at(scalars.at(whole.index_copy(1, place, leaf)))
            eta = draws - conditional.mean[:, None]
            value = conditional.log_effects(eta) if kind == "effects" else conditional.log_likelihood(eta)
            if not value.requires_grad:  # nothing depends on these parameters
                continue
            (slope,) = gradients((weights * value).sum(), leaf, create_graph=True, materialize_grads=True)
            for entry, column in enumerate(columns):
                if not slope.requires_grad:
                    continue
                # the slope is linear in the weights, so that its derivative by them is every column's own score
                each, row = gradients(slope[:, entry].sum(), (weights, leaf), materialize_grads=True)
                scores[..., column] = each
                curvature[:, column, place] = row
    if "scale" in kinds:
        with torch.no_grad():
            found = residual_squares(density.at(scalars.at(whole)), draws, scales)
        for column, (owner, kind) in enumerate(zip(owners, kinds, strict=True)):
            if kind == "scale":
                name = owner.removesuffix(".unconstrained")
                count = sum(density.batch.outcomes[outcome].mask.sum(0) for outcome in scales[name])
                scores[..., column] = found[name] - count
                curvature[:, column, column] = -2 * found[name].sum((0, 2))
    squares = torch.einsum("tcni,tcnj->cij", scores, scores)
    return LouisSums(iterations, scores.sum(0), squares, curvature)


def prior_derivatives(
    density: Density, scalars: FreeScalars
) -> tuple[Float[Tensor, "kept"], Float[Tensor, "kept kept"]]:
    """First and second derivatives of the log prior."""
    vector = scalars.vector.detach()[None].clone().requires_grad_()
    with torch.enable_grad():
        log_prior = density.log_prior(scalars.at(vector))
        if not log_prior.requires_grad:
            return vector.new_zeros(vector.shape[1]), vector.new_zeros(vector.shape[1], vector.shape[1])
        (slope,) = torch.autograd.grad(log_prior.sum() + 0.0 * vector.square().sum(), vector, create_graph=True)
        rows = [torch.autograd.grad(entry, vector, retain_graph=True)[0][0] for entry in slope[0]]
    return slope[0].detach(), torch.stack(rows)


def _owners(scalars: FreeScalars) -> list[str]:
    """Raw name of the parameter of every kept entry."""
    names: list[str] = []
    for name in scalars.free:
        names += [name] * scalars.model.get_parameter(name).numel()
    return [names[place] for place in scalars.kept.tolist()]


def _kind(name: str, scales: Mapping[str, tuple[str, ...]]) -> str:
    """Where a parameter enters: through the density of phi, as a residual scale, or otherwise through the outcomes."""
    if name.startswith("_covariances.") or name.endswith((".typical", ".beta")):
        return "effects"
    return "scale" if name.removesuffix(".unconstrained") in scales else "outcomes"
