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
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.saem.expanded_likelihood import moved_inputs
from nlme_torch.inference.saem.sufficient_statistics import residual_squares
from nlme_torch.model.compiled.compiled_likelihood import compiled_likelihood
from nlme_torch.model.density.absolute_zeros import gradients
from nlme_torch.model.density.density import Density

COLUMNS, MOST_COLUMNS = 8000, 200_000
"""Most draws of all subjects for which one call differentiates the model, and most that are held at once."""


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
    weights: Float[Tensor, "iteration chain subject"] | None = None,
) -> LouisSums:
    """Differentiate the complete-data log density at draws of phi, as many at once as one call should hold.

    Args:
        density: The model with its data.
        scalars: The parameters.
        draws: Of phi, at these parameters.
        scales: What :func:`nlme_torch.model.density.residual_scale.residual_scales` found.
        weights: Of the draws, with mean one for every subject; None where all count alike.
    """
    _, iterations, chains, subjects = draws.shape
    length = max(1, MOST_COLUMNS // (chains * subjects))
    if weights is None:
        weights = draws.new_ones(iterations, chains, subjects)
    parts = [
        derivatives(density, scalars, part, scales, share)
        for part, share in zip(draws.split(length, 1), weights.split(length), strict=True)
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
    weights: Float[Tensor, "iteration chain subject"] | None = None,
) -> LouisSums:
    """The same with all of them held at once; chains stand on the start axis."""
    iterations, chains, subjects = draws.shape[1:]
    if weights is None:
        weights = draws.new_ones(iterations, chains, subjects)
    whole = scalars.vector.detach().expand(chains, -1)
    shape = (iterations, chains, subjects, whole.shape[1])
    scores, curvature = draws.new_zeros(shape), draws.new_zeros(chains, shape[-1], shape[-1])
    owners = _owners(scalars)
    kinds = [_kind(name, scales) for name in owners]
    columns = [column for column, own in enumerate(kinds) if own == "effects"]
    if columns:
        place = torch.tensor(columns, device=draws.device)
        each, bends = _by_effects(density, scalars, place, draws, weights)
        scores[..., place] = each
        curvature[:, place[:, None], place] = bends
    length = max(1, COLUMNS // (chains * subjects))
    columns = [column for column, own in enumerate(kinds) if own == "outcomes"]
    if columns:
        place = torch.tensor(columns, device=draws.device)
        pairs = zip(draws.split(length, 1), weights.split(length), strict=True)
        parts = [_by_outcomes(density, scalars, place, part, share) for part, share in pairs]
        scores[..., place] = torch.cat([each for each, _ in parts])
        curvature[:, place[:, None], place] = torch.stack([bends for _, bends in parts]).sum(0)
    if "scale" in kinds:
        with torch.no_grad():
            conditional = density.at(scalars.at(whole))
            residuals = [residual_squares(conditional, part, scales) for part in draws.split(length, 1)]
        for column, (owner, kind) in enumerate(zip(owners, kinds, strict=True)):
            if kind == "scale":
                name = owner.removesuffix(".unconstrained")
                count = sum(density.batch.outcomes[outcome].mask.sum(0) for outcome in scales[name])
                found = torch.cat([part[name] for part in residuals])
                scores[..., column] = found - count
                curvature[:, column, column] = -2 * (weights * found).sum((0, 2))
    scores = torch.where(weights[..., None] > 0, scores, 0.0)  # what cannot be evaluated weighs nothing
    weighted = weights[..., None] * scores
    squares = torch.einsum("tcni,tcnj->cij", weighted, scores)
    return LouisSums(iterations, weighted.sum(0), squares, curvature)


def _by_effects(
    density: Density, scalars: FreeScalars, place: Tensor, draws: Tensor, weights: Tensor
) -> tuple[Float[Tensor, "iteration chain subject kept"], Float[Tensor, "chain kept kept"]]:
    r"""Derivatives of log p(phi) by typical values, covariate effects and Omega.

    With :math:`z = \phi - \mu_i(\theta_0)` and :math:`\Delta_i = \mu_i(\theta) - \mu_i(\theta_0)`,

    .. math:: \log p = z^\top \Omega^{-1} \Delta_i - \tfrac12 z^\top \Omega^{-1} z
              - \tfrac12 \Delta_i^\top \Omega^{-1} \Delta_i - \tfrac12 \log |\Omega|

    is linear in z and z z', so that nothing need be differentiated draw by draw.
    """
    chains, subjects = draws.shape[2:]
    whole = scalars.vector.detach().expand(chains, -1)
    leaf = whole[:, place].clone().requires_grad_()
    total = draws.new_zeros(())
    pieces: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    with torch.enable_grad():
        conditional = density.at(scalars.at(whole.index_copy(1, place, leaf)))
        mean = conditional.mean.expand(-1, chains, subjects)
        moved = mean - mean.detach()
        centred = draws - mean.detach()[:, None]
        weighted, count = weights * centred, weights.sum((0, 2))
        for block in density.model.blocks:
            if block.covariance is None:
                continue
            factor, part = conditional.cholesky(block.name).expand(chains, -1, -1), block.slice
            precision = torch.cholesky_inverse(factor)
            log_determinant = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            pulled = torch.einsum("cij,jcn->cin", precision, moved[part])
            first = weighted[part].sum(1).movedim(0, 1)
            second = torch.einsum("itcn,jtcn->cij", weighted[part], centred[part])
            total = total + (pulled * (first - 0.5 * weights.sum(0)[:, None] * moved[part].movedim(0, 1))).sum()
            total = total - 0.5 * (precision * second).sum() - 0.5 * (count * log_determinant).sum()
            pieces.append((centred[part], pulled[0], precision[0], log_determinant[0]))
        scores = draws.new_zeros(*draws.shape[1:], len(place))
        for columns, *functions in pieces:
            by_mean, by_precision, by_determinant = (_slopes(function, leaf)[..., 0, :] for function in functions)
            scores = scores + torch.einsum("itcn,ink->tcnk", columns, by_mean)
            squares = torch.einsum("itcn,jtcn->tcnij", columns, columns).flatten(-2)
            scores = scores - 0.5 * (squares @ by_precision.flatten(0, 1) + by_determinant)
        rows: list[Tensor] = []
        if total.requires_grad:
            (slope,) = torch.autograd.grad(total, leaf, create_graph=True, materialize_grads=True)
            for entry in range(len(place)):
                if slope.requires_grad:
                    rows += torch.autograd.grad(slope[:, entry].sum(), leaf, retain_graph=True, materialize_grads=True)
        bends = torch.stack(rows, 1) if rows else draws.new_zeros(chains, len(place), len(place))
    return scores.detach(), bends


def _slopes(function: Tensor, leaf: Float[Tensor, "chain kept"]) -> Float[Tensor, "*shape chain kept"]:
    """Derivatives of every entry of a function by the leaf: linear in weights, by which the slope is differentiated."""
    zero = function.new_zeros(*function.shape, *leaf.shape)
    if not function.requires_grad:
        return zero
    weights = torch.ones_like(function, requires_grad=True)
    (slope,) = torch.autograd.grad((weights * function).sum(), leaf, create_graph=True, materialize_grads=True)
    if not slope.requires_grad:
        return zero
    for entry in range(leaf.shape[1]):
        (each,) = torch.autograd.grad(slope[0, entry], weights, retain_graph=True, materialize_grads=True)
        zero[..., 0, entry] = each
    return zero


def _by_outcomes(
    density: Density, scalars: FreeScalars, place: Tensor, draws: Tensor, weights: Tensor
) -> tuple[Float[Tensor, "iteration chain subject kept"], Float[Tensor, "chain kept kept"]]:
    """Derivatives of log p(y | phi) by all other parameters."""
    compiled = _compiled_outcomes(density, scalars, place, draws, weights)
    if compiled is not None:
        return compiled
    chains = draws.shape[2]
    whole = scalars.vector.detach().expand(chains, -1)
    leaf = whole[:, place].clone().requires_grad_()
    scores = draws.new_zeros(*draws.shape[1:], len(place))
    bends = draws.new_zeros(chains, len(place), len(place))
    share = weights.clone().requires_grad_()
    with torch.enable_grad():
        conditional = density.at(scalars.at(whole.index_copy(1, place, leaf)))
        value = conditional.log_likelihood(draws - conditional.mean[:, None])
        if not value.requires_grad:  # nothing depends on these parameters
            return scores, bends
        (slope,) = gradients((share * value).sum(), leaf, create_graph=True, materialize_grads=True)
        for entry in range(len(place)):
            if slope.requires_grad:
                # the slope is linear in the weights, so that its derivative by them is every column's own score
                each, row = gradients(slope[:, entry].sum(), (share, leaf), materialize_grads=True)
                scores[..., entry] = each
                bends[:, entry] = row
    return scores, bends


def _compiled_outcomes(
    density: Density, scalars: FreeScalars, place: Tensor, draws: Tensor, weights: Tensor
) -> tuple[Float[Tensor, "iteration chain subject kept"], Float[Tensor, "chain kept kept"]] | None:
    r"""The same by compiled derivatives g and H in what the model reads of the population, r; None without them.

    .. math:: \nabla_\theta = J^\top g, \qquad \nabla^2_\theta = J^\top H J + \sum_r g_r \nabla^2 r,
              \qquad J = \partial r / \partial \theta
    """
    with torch.no_grad():
        conditional = density.at(scalars.at(scalars.vector.detach()[None]))
        moved = moved_inputs(conditional, [_owners(scalars)[column] for column in place.tolist()], effects_held=False)
        compiled = None if moved is None else compiled_likelihood(conditional)
        if moved is None or compiled is None:
            return None
        eta = draws - conditional.mean[:, None]
        jets = compiled.at(conditional).jets(eta, moved.directions(density.model.n_effects))
    if jets is None:
        return None
    used = weights > 0
    if bool((torch.isfinite(jets[0]) & used & ~torch.isfinite(jets).all(0)).any()):
        return None
    jets = torch.where(torch.isfinite(jets[0]) & used, jets, 0.0)
    leaf = scalars.vector.detach()[None, place].clone().requires_grad_()
    with torch.enable_grad():
        at = density.at(scalars.at(scalars.vector.detach()[None].index_copy(1, place, leaf)))
        readings = moved.values(at)[:, 0, 0]
        slopes = [torch.autograd.grad(reading, leaf, create_graph=True)[0][0] for reading in readings]
        curved = torch.stack(
            [
                torch.stack(
                    [
                        torch.autograd.grad(entry, leaf, retain_graph=True, materialize_grads=True)[0][0]
                        for entry in slope
                    ]
                )
                if slope.requires_grad
                else slope.new_zeros(len(slope), len(slope))
                for slope in slopes
            ]
        )
    jacobian, count = torch.stack(slopes).detach(), len(slopes)
    first = jets[1 : 1 + count]
    means = torch.einsum("etcn,tcn->ce", jets[1:], weights)
    rows, columns = torch.tril_indices(count, count)
    packed = means.new_zeros(len(means), count, count)
    packed[:, rows, columns] = means[:, count:]
    packed[:, columns, rows] = means[:, count:]
    bends = jacobian.mT @ packed @ jacobian + torch.einsum("cr,rij->cij", means[:, :count], curved)
    return torch.einsum("rtcn,rk->tcnk", first, jacobian), bends


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
