r"""Sufficient statistics of the complete data, averaged over iterations by stochastic approximation.

.. math:: s_k = s_{k-1} + \gamma_k (S(y, \phi^{(k)}) - s_{k-1})

Each chain enters with its own products: averaging the chains' draws first and forming products of the averages would
shrink Omega by the spread between chains.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch.model.compiled.compiled_likelihood import compiled_likelihood
from nlme_torch.model.declare.model import Model
from nlme_torch.model.density.density import Conditional
from nlme_torch.model.density.residual_scale import scaled_residuals


class Statistics(NamedTuple):
    """What the M-step needs of the chains.

    Attributes:
        first: ``(effect, start, subject)``, mean over chains of the transformed parameters phi.
        second: Block name to ``(start, effect, effect)``, sum over subjects of the mean over chains of phi phi'.
        residual: Residual-scale name to ``(start,)``, sum of squared residuals at sigma = 1, mean over chains.
    """

    first: Tensor
    second: dict[str, Tensor]
    residual: dict[str, Tensor]


def statistics(
    model: Model, conditional: Conditional, transformed: Tensor, scales: dict[str, tuple[str, ...]]
) -> Statistics:
    """Compute the statistics of one set of draws.

    Args:
        model: The model.
        conditional: Densities at the parameters under which the residuals are formed.
        transformed: phi = mean + eta, ``(effect, chain, start, subject)``.
        scales: What :func:`nlme_torch.model.density.residual_scale.residual_scales` found.

    Returns:
        Statistics of these draws alone.
    """
    second = {}
    for block in model.blocks:
        if block.kind != "standard" and block.covariance is not None and block.covariance.free():
            part = transformed[block.slice]
            second[block.name] = torch.einsum("icsn,jcsn->sij", part, part) / transformed.shape[1]
    return Statistics(transformed.mean(1), second, _residual_sums(conditional, transformed, scales))


def blend(old: Statistics, new: Statistics, step_size: float) -> Statistics:
    """Move the averaged statistics towards new ones by a step."""
    if step_size >= 1:
        return new

    def mix(before: Tensor, after: Tensor) -> Tensor:
        return before + step_size * (after - before)

    return Statistics(
        mix(old.first, new.first),
        {name: mix(old.second[name], new.second[name]) for name in new.second},
        {name: mix(old.residual[name], new.residual[name]) for name in new.residual},
    )


def _residual_sums(
    conditional: Conditional, transformed: Tensor, scales: dict[str, tuple[str, ...]]
) -> dict[str, Tensor]:
    return {
        name: each.sum(-1).mean(0) * conditional.values[f"{name}.unconstrained"].exp().square()
        for name, each in residual_squares(conditional, transformed, scales).items()
    }


def residual_squares(
    conditional: Conditional, transformed: Tensor, scales: Mapping[str, tuple[str, ...]]
) -> dict[str, Tensor]:
    """Return every subject's sum of squared residuals in units of their standard deviations.

    Args:
        conditional: Densities at the parameters under which the residuals are formed.
        transformed: phi, ``(effect, chain, start, subject)``.
        scales: What :func:`nlme_torch.model.density.residual_scale.residual_scales` found.

    Returns:
        Residual-scale name to ``(chain, start, subject)``; zero where the model cannot be solved or a prediction is
        not finite.
    """
    if not scales:
        return {}
    eta = transformed - conditional.mean[:, None]
    compiled = None if torch.is_grad_enabled() else compiled_likelihood(conditional)
    squares = None
    if compiled is not None:
        squares = compiled.at(conditional).residual_squares(conditional, eta.flatten(-2), scales)
    if squares is not None:
        return dict(zip(scales, squares.reshape(-1, *eta.shape[1:]), strict=True))
    observed, solved = conditional.observe(eta)
    sums = {}
    for name, outcomes in scales.items():
        total = transformed.new_zeros(transformed.shape[1:])
        for outcome_name in outcomes:
            outcome = conditional.density.batch.outcomes[outcome_name]
            residuals = scaled_residuals(observed[outcome_name], outcome.value[:, None, None, :])
            total = total + torch.where(outcome.mask[:, None, None, :], residuals.square(), 0.0).sum(0)
        sums[name] = torch.where(solved & torch.isfinite(total), total, 0.0)
    return sums
