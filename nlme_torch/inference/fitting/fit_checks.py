"""What a finished fit is asked, whatever method made it: means of effects, correlations, collapsed scales, bounds."""

import math

import torch
from torch import Tensor
from torch.distributions import LogNormal, Normal

from nlme_torch._typing import Float
from nlme_torch.inference.effects.effect_estimates import EffectEstimates
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.raw_parameters import omega_matrix, raw_name
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.model.observation import Censored
from nlme_torch.model.parameters.individual_parameters import IndividualParameter
from nlme_torch.model.parameters.parameters import PopulationParameter
from nlme_torch.model.parameters.transforms import Identity, Logit

SIGNIFICANT = 0.001
"""P-value of a mean effect that is told: of 20 effects one in fifty fits says so by chance."""
NOTABLE = 0.2
"""Mean of an effect, in standard deviations of Omega, below which it is no warning however certain it is."""
DEGENERATE = 1e-4
"""Smallest eigenvalue of a correlation matrix that is estimated, and smallest distance from a bound, in shares."""
AT_BOUND = 12.0
"""Distance from the middle on the logit scale: 1 - 6e-6 of the range."""
COLLAPSED = 1e-5
"""Residual standard deviation over the spread of the observations, below which it has collapsed."""
EXTREME = 60.0
"""Logarithm of a positive parameter, 1e-26 or 1e26, that no unit explains."""


def fit_checks(density: Density, effects: EffectEstimates) -> tuple[str, ...]:
    """Return one warning for everything in a finished fit that should not be trusted.

    Args:
        density: The model at its estimates, joined to data and solver.
        effects: What is known of the random effects there.
    """
    model = density.model
    return (
        *_means(model, effects),
        *_degenerate_correlations(model),
        *_at_bounds(model),
        *_collapsed_residuals(density, effects.modes),
    )


def effect_mean_test(
    modes: Float[Tensor, "effect subject"],
) -> tuple[Float[Tensor, "effect"], Float[Tensor, "effect"]]:
    r"""Return the mean of every effect over the subjects and the p-value of its being zero (ETABAR of NONMEM).

    .. math:: \bar\eta = \frac1N \sum_i \hat\eta_i, \qquad z = \bar\eta \sqrt N / s, \qquad p = 2 (1 - \Phi(|z|))

    with the sample standard deviation s (n - 1).

    Args:
        modes: Conditional modes; subjects without a mode have NaN and do not count.

    Example:
        >>> import torch
        >>> mean, p = effect_mean_test(torch.tensor([[-1.0, 1.0, 0.0], [1.0, 1.1, 0.9]]))
        >>> mean.round(decimals=2).tolist(), (p < 0.001).tolist()
        ([0.0, 1.0], [False, True])

    References:
        Beal and Sheiner, NONMEM Users Guides, Part V (ETABAR and its p-value).
    """
    known = torch.isfinite(modes).all(0)
    kept = modes[:, known].double()
    count = kept.shape[1]
    if count < 2:
        return torch.full_like(modes[:, 0].double(), math.nan), torch.full_like(modes[:, 0].double(), math.nan)
    mean = kept.mean(1)
    error = kept.std(1, correction=1) / math.sqrt(count)
    return mean, torch.special.erfc((mean / error).abs() / math.sqrt(2))


def _means(model: Model, effects: EffectEstimates) -> list[str]:
    """Effects whose mean is away from zero: a biased typical value, or too short a fit."""
    if not model.n_effects or effects.modes.shape[1] < 5:
        return []
    mean, p = (value.tolist() for value in effect_mean_test(effects.modes))
    deviations = _deviations(model)
    messages = []
    for block in model.blocks:
        if block.kind == "occasion":
            continue
        for place, label in enumerate(block.labels, start=block.start):
            share = abs(mean[place]) / max(deviations[place], 1e-300)
            if p[place] < SIGNIFICANT and share > NOTABLE:
                messages.append(
                    f"the mean of {label} over the subjects is {mean[place]:.3g}, away from zero (p = {p[place]:.2g}; "
                    f"{share:.2f} of its standard deviation): {_remedy(block.kind)}"
                )
    return messages[:5]


def _remedy(kind: str) -> str:
    if kind == "standard":
        return "the network's weights should have taken this up; allow a longer fit, or begin again at these estimates"
    return "its typical value is not at the maximum, or the effect is not normally distributed"


def _deviations(model: Model) -> list[float]:
    values, found = parameter_values(model), []
    for block in model.blocks:
        if block.covariance is None:
            found += [1.0] * block.size
        else:
            matrix = omega_matrix(block, values)[0]
            found += matrix.diagonal().sqrt().tolist()
    return found


def _degenerate_correlations(model: Model) -> list[str]:
    """Estimated covariance matrices whose correlations have reached one."""
    values, messages = parameter_values(model), []
    for block in model.blocks:
        if block.covariance is None or block.covariance.diagonal or not block.covariance.free() or block.size < 2:
            continue
        matrix = omega_matrix(block, values)[0]
        deviations = matrix.diagonal().sqrt()
        correlation = matrix / deviations[:, None] / deviations
        if not bool(torch.isfinite(correlation).all()):
            continue
        if float(torch.linalg.eigvalsh(correlation)[0]) > DEGENERATE:
            continue
        off = correlation - torch.eye(block.size).to(correlation)
        row, column = divmod(int(off.abs().argmax()), block.size)
        messages.append(
            f"the covariance matrix of {', '.join(block.labels)} is singular: the correlation of {block.labels[row]} "
            f"and {block.labels[column]} is {float(correlation[row, column]):.4f}; the data do not tell these effects "
            "apart, take a diagonal Omega or drop one of them"
        )
    return messages


def _at_bounds(model: Model) -> list[str]:
    """Estimated typical values and parameters that have run into the end of their range."""
    values, messages = parameter_values(model), []
    for name, component in model.components.items():
        raw = raw_name(name, component)
        if raw is None or not isinstance(component, IndividualParameter | PopulationParameter):
            continue
        if not model.get_parameter(raw).requires_grad:
            continue
        for place in values[raw].flatten().tolist():
            transform = component.transform
            if isinstance(transform, Logit) and abs(place) > AT_BOUND:
                bound = transform.upper if place > 0 else transform.lower
                messages.append(
                    f"{name} stands at its {'upper' if place > 0 else 'lower'} bound {bound:g} (logit {place:.3g}): "
                    "the data do not determine it there; fix it, or widen its bounds if they are not those of nature"
                )
            elif not isinstance(transform, Identity | Logit) and abs(place) > EXTREME:
                messages.append(
                    f"{name} has run to {float(transform.forward(torch.tensor(place))):.2g}, the end of what numbers "
                    "hold: the data do not determine it; fix it, or begin elsewhere"
                )
    return messages


def _collapsed_residuals(density: Density, modes: Tensor) -> list[str]:
    """Normal outcomes whose residual error is nothing beside the spread of their values."""
    with torch.no_grad():
        groups, _ = density.at().observations(modes.nan_to_num(0.0)[:, None, None])
    messages = []
    for records, distributions in groups:
        for name in records.values:
            kind = distributions[name]
            if isinstance(kind, Censored):
                kind = kind.base
            if not isinstance(kind, Normal | LogNormal):
                continue
            values = records.values[name][records.mask]
            values = values.log() if isinstance(kind, LogNormal) else values
            scale = kind.scale.expand(len(records.mask), 1, 1, -1)[:, 0, 0][records.mask].median()
            spread = values.std() if len(values) > 1 and float(values.std()) > 0 else values.abs().mean()
            if float(scale) < COLLAPSED * float(spread):
                messages.append(
                    f"the residual standard deviation of {name} is {float(scale):.2g}, nothing beside its values "
                    f"(spread {float(spread):.2g}): the error has collapsed and the likelihood grows without bound; "
                    "fix it, look for ties in the data, or take fewer effects"
                )
    return messages
