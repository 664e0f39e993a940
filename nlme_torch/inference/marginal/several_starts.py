"""The penalised objective at many parameter vectors at once: differences, importance weights, bootstrap refits."""

from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.inference.marginal.approximation import Approximation
from nlme_torch.inference.marginal.expansion_points import expand
from nlme_torch.model.declare.values import ParameterValues, unflatten_values

COLUMNS = 4000
"""Largest number of starts times subjects that one call should evaluate."""


class SeveralValues(NamedTuple):
    """An objective at several vectors.

    Attributes:
        value: -2 (log-likelihood + log prior), ``(start,)``; infinite where a subject could not be evaluated.
        gradient: ``(start, parameter)``, zero where the value is infinite; None where it was not asked for.
        centre: The modes there, ``(effect, start, subject)``.
    """

    value: Tensor
    gradient: Tensor | None
    centre: Tensor


def evaluate_several(
    approximation: Approximation,
    values: ParameterValues,
    vectors: Float[Tensor, "start parameter"],
    centre: Float[Tensor, "effect start subject"],
    *,
    gradient: bool,
    weights: Float[Tensor, "start subject"] | None = None,
) -> SeveralValues:
    """Return the penalised objective of every vector, from warm modes.

    Args:
        approximation: FO, FOCE, ... joined to a model and its data.
        values: Raw name to ``(1, *shape)``, for the parameters that are fixed.
        vectors: Free parameters on the estimation scale.
        centre: Where the search of the modes begins.
        gradient: Whether to differentiate.
        weights: How often every subject counts; None for once.

    Returns:
        Values, gradients and modes.
    """
    named = unflatten_values(vectors, values, approximation.names)
    found = expand(approximation, named, centre.contiguous(), gradient=gradient, weights=weights)
    each = found.evaluation.value
    if weights is not None:  # a subject that does not count may fail
        each = torch.where(weights > 0, weights * each, 0.0)
    total = each.sum(-1)
    free = vectors.detach().requires_grad_()
    with torch.enable_grad():
        log_prior = approximation.density.log_prior(unflatten_values(free, values, approximation.names))
        slope = torch.autograd.grad(log_prior.sum(), free)[0] if log_prior.requires_grad else torch.zeros_like(free)
    total = total - 2 * log_prior.detach()
    modes = found.evaluation.centre if approximation.has_modes else centre
    if not gradient:
        return SeveralValues(torch.where(torch.isfinite(total), total, torch.inf), None, modes)
    assert found.evaluation.gradient is not None
    slopes = found.evaluation.gradient - 2 * slope
    good = torch.isfinite(total) & torch.isfinite(slopes).all(-1)
    return SeveralValues(torch.where(good, total, torch.inf), torch.where(good[:, None], slopes, 0.0), modes)
