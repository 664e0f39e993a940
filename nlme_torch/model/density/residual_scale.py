r"""Which parameters are nothing but the scale of a residual error, so that SAEM has their update in closed form.

A positive population parameter qualifies when every outcome it touches is normal or log-normal with standard deviation
proportional to it, and nothing else depends on it. With ``y = f + sigma g epsilon`` the complete-data maximum is

.. math:: \hat\sigma^2 = \frac{1}{n} \sum_{ij} \frac{(y_{ij} - f_{ij})^2}{g_{ij}^2}

The property is tested numerically, by doubling the parameter at random effects other than zero, so that the user
writes a plain distribution. An outcome has one such scale at most: two that multiply each other are left to the
gradient.
"""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, LogNormal, Normal

from nlme_torch.model.declare.raw_parameters import raw_name
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Conditional, Density
from nlme_torch.model.parameters.parameters import PopulationParameter
from nlme_torch.model.parameters.transforms import Log


def residual_scales(density: Density) -> dict[str, tuple[str, ...]]:
    """Find the parameters that are pure residual scales.

    Args:
        density: The model with its data.

    Returns:
        Attribute name of the parameter to the outcomes whose standard deviation it scales.
    """
    values = parameter_values(density.model)
    candidates = [
        name
        for name, component in density.model.components.items()
        if isinstance(component, PopulationParameter) and isinstance(component.transform, Log) and not component.fixed
    ]
    if not candidates:
        return {}
    with torch.no_grad():
        eta = 0.3 * density.at(values).sample(1, torch.Generator().manual_seed(0))
        reference = _moments(density.at(values), eta)
        found: dict[str, tuple[str, ...]] = {}
        for name in candidates:
            raw = raw_name(name, density.model.components[name])
            assert raw is not None
            doubled = {**values, raw: values[raw] + math.log(2.0)}
            scaled = _scaled_outcomes(reference, _moments(density.at(doubled), eta))
            claimed = {outcome for outcomes in found.values() for outcome in outcomes}
            # what is censored has no residual
            censored = {outcome for outcome, data in density.batch.outcomes.items() if data.censoring is not None}
            if scaled and not (claimed | censored) & set(scaled):
                found[name] = scaled
    return found


def scaled_residuals(distribution: Distribution, observed: Tensor) -> Tensor:
    """Return ``(y - f) / sd`` of a normal outcome, on the log scale for a log-normal one.

    Args:
        distribution: Normal or log-normal, ``(record, *batch)``.
        observed: Values that broadcast to it.
    """
    location, scale = _location_scale(distribution)
    value = observed.log() if isinstance(distribution, LogNormal) else observed
    return (value - location) / scale


def _location_scale(distribution: Distribution) -> tuple[Tensor, Tensor]:
    if isinstance(distribution, LogNormal):
        return distribution.loc, distribution.scale
    assert isinstance(distribution, Normal)
    return distribution.loc, distribution.scale


Moments = dict[str, tuple[Tensor, Tensor] | None]


def _moments(conditional: Conditional, eta: Tensor) -> Moments:
    observed, _ = conditional.observe(eta)
    return {
        name: _location_scale(distribution) if isinstance(distribution, Normal | LogNormal) else None
        for name, distribution in observed.items()
    }


def _scaled_outcomes(reference: Moments, doubled: Moments) -> tuple[str, ...]:
    """Outcomes whose scale doubled; empty if anything else moved."""
    scaled = []
    for name, before in reference.items():
        after = doubled[name]
        if before is None or after is None:
            return ()
        if not torch.equal(before[0], after[0]):
            return ()
        if torch.equal(before[1], after[1]):
            continue
        if not torch.allclose(after[1], 2 * before[1], rtol=1e-12, atol=0.0):
            return ()
        scaled.append(name)
    return tuple(scaled)


def only_scales(density: Density, name: str) -> bool:
    """Whether a parameter is part of the standard deviation of normal outcomes and of nothing else.

    Args:
        density: The model with its data.
        name: Attribute name of the parameter.
    """
    component = density.model.components.get(name)
    raw = raw_name(name, component)
    if raw is None or not isinstance(component, PopulationParameter):
        return False
    values = parameter_values(density.model)
    with torch.no_grad():
        eta = 0.3 * density.at(values).sample(1, torch.Generator().manual_seed(0))
        before = _moments(density.at(values), eta)
        after = _moments(density.at({**values, raw: values[raw] + math.log(2.0)}), eta)
    pairs = [(before[outcome], after[outcome]) for outcome in before]
    return all(a is not None and b is not None and torch.equal(a[0], b[0]) for a, b in pairs)
