"""Which fit is nested in which, and the distribution of the likelihood ratio between them."""

import math
from dataclasses import dataclass
from itertools import product

import torch

from nlme_torch.data import Dataset
from nlme_torch.errors import NLMEError
from nlme_torch.inference.estimates.fitted import Fitted
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.natural import values_from_natural
from nlme_torch.model.declare.scalars import omega_scalars, structural_scalars
from nlme_torch.model.declare.values import free_names, free_scalar_count, parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.model.networks.networks import Network
from nlme_torch.model.networks.random_weights import RandomWeights
from nlme_torch.model.parameters.individual_parameters import IndividualParameter
from nlme_torch.model.parameters.parameters import PopulationParameter

VANISHING = 1e-9
"""Stands for 0 where a parameter must be positive."""
SAME = 1e-3
"""Difference in a subject's log-likelihood that the solvers of two equations may make."""
MOST_CHOICES = 64
"""Combinations of removing values that are tried."""


@dataclass(frozen=True)
class Nesting:
    """How one model is a special case of another.

    Attributes:
        degrees: Number of parameters that the larger one estimates and the smaller one does not.
        at_bounds: How many of them have the value that removes them at the end of their range, as variances have 0.
    """

    degrees: int
    at_bounds: int = 0

    @property
    def distribution(self) -> str:
        """The asymptotic distribution of the likelihood ratio under the smaller model, as text."""
        if not self.at_bounds:
            return f"chi2({self.degrees})"
        terms = [f"chi2({self.degrees - self.at_bounds + k})" for k in range(self.at_bounds + 1)]
        weights = [math.comb(self.at_bounds, k) * 100 / 2**self.at_bounds for k in range(self.at_bounds + 1)]
        return f"{':'.join(f'{weight:.3g}' for weight in weights)} of {', '.join(terms)}"

    def p_value(self, statistic: float) -> float:
        r"""Return the probability of a likelihood ratio at least as large under the smaller model.

        .. math:: p = \sum_{k=0}^{m} \binom{m}{k} 2^{-m} P(\chi^2_{d - m + k} \ge x)

        with d parameters, m of them at a bound (exact for one; for several, where their estimates do not correlate).

        Args:
            statistic: Difference in -2LL.

        Example:
            >>> round(Nesting(1, at_bounds=1).p_value(2.7055), 4), round(Nesting(1).p_value(2.7055), 4)
            (0.05, 0.1)

        References:
            Self and Liang (1987), Asymptotic properties of maximum likelihood estimators and likelihood ratio tests
            under nonstandard conditions. doi:10.1080/01621459.1987.10478472
            Stram and Lee (1994), Variance components testing in the longitudinal mixed effects model.
            doi:10.2307/2533455
        """
        total = 0.0
        for k in range(self.at_bounds + 1):
            weight = math.comb(self.at_bounds, k) / 2**self.at_bounds
            total += weight * _survival(statistic, self.degrees - self.at_bounds + k)
        return total


def find_nesting(small: Fitted, large: Fitted) -> Nesting | None:
    """Say how one fit is nested in another, or None where that cannot be seen.

    Every parameter that the small model estimates must be one of the large model, and the others are given the value
    that removes them: a coefficient 0, a variance or covariance 0, another parameter 0 or 1. Whether that gives the
    small model is found by computing: the log-likelihoods of all subjects must be equal, at several effects.

    Args:
        small: The fit of fewer parameters.
        large: The other one.
    """
    if type(small.method) is not type(large.method):
        return None
    if not isinstance(small.data, Dataset):  # a fit that was loaded without its data
        return None
    same_class = _of_one_class(small.model, large.model)
    if same_class is not None:
        return same_class
    mine, theirs = _Scalars(small.model), _Scalars(large.model)
    if len(mine.free) >= len(theirs.free) or not mine.free <= theirs.free:
        return None
    if mine.networks != theirs.networks:
        return None
    extra = sorted(theirs.free - mine.free)
    variances = {name for name in extra if name.startswith("omega_") and name not in mine.values}
    known = {k: v for k, v in mine.values.items() if k in theirs.free and not k.startswith("omega_")}
    # what the large model has fixed must be what the small model has there; variances are no part of what is computed
    fixed = {name for name in theirs.values if name.startswith("omega_") and name not in theirs.free}
    if any(name not in mine.values or not math.isclose(mine.values[name], theirs.values[name]) for name in fixed):
        return None
    choices = {
        name: _removing(large.model, name) for name in extra if name not in mine.values and name not in variances
    }
    if math.prod(len(values) for values in choices.values()) > MOST_CHOICES:
        return None
    positions = _positions(small.model, large.model, variances)
    if positions is None:
        return None
    for chosen in product(*choices.values()):
        if _equal(small, large, known | dict(zip(choices, chosen, strict=True)), positions):
            bounds = sum("," not in name for name in variances) + sum(value == VANISHING for value in chosen)
            return Nesting(len(extra), bounds)
    return None


def _of_one_class(small: Model, large: Model) -> Nesting | None:
    """The nesting of two models of one class and one size, of which the smaller has fixed what the larger estimates."""
    if type(small) is not type(large):
        return None
    if dict(small.named_parameters()).keys() != dict(large.named_parameters()).keys():
        return None
    mine, theirs = set(free_names(small)), set(free_names(large))
    return Nesting(free_scalar_count(large) - free_scalar_count(small)) if mine < theirs else None


class _Scalars:
    """The named parameters of a model, their values, and which of them are estimated."""

    def __init__(self, model: Model) -> None:
        raw = parameter_values(model)
        found = {**structural_scalars(model, raw), **omega_scalars(model, raw)}
        self.values = {name: float(value[0]) for name, value in found.items()}
        try:
            self.free = set(FreeScalars(model, raw).names)
        except NLMEError:
            self.free = set()
        self.networks = {
            name: [(tuple(parameter.shape), parameter.requires_grad) for parameter in component.parameters()]
            for name, component in model.components.items()
            if isinstance(component, Network | RandomWeights)
        }


def _removing(model: Model, name: str) -> list[float]:
    """Values that may remove a parameter of the large model: a coefficient 0; else 0, 1, or next to nothing."""
    component = model.components.get(name)
    if not isinstance(component, PopulationParameter | IndividualParameter):
        return [0.0]  # a coefficient
    inside = [value for value in (0.0, 1.0) if component.transform.contains(value)]
    vanishes = [] if 0.0 in inside or not component.transform.contains(VANISHING) else [VANISHING]
    return inside + vanishes or [float(component.value)]


def _positions(small: Model, large: Model, variances: set[str]) -> list[int] | None:
    """Where the effects of the small model stand among those of the large one, whose others must be removed."""
    labels = list(large.effect_labels)
    if not set(small.effect_labels) <= set(labels):
        return None
    for block in large.blocks:
        others = [label for label in block.labels if label not in small.effect_labels]
        names = {f"omega_{label.removeprefix('eta_')}" for label in others}
        if block.kind == "occasion":
            names = {f"omega_{name}" for name in block.distinct_names} if block.repeats else {f"omega_{block.name}"}
        if others and not names <= variances:
            return None
    return [labels.index(label) for label in small.effect_labels]


def _equal(small: Fitted, large: Fitted, values: dict[str, float], positions: list[int]) -> bool:
    """Whether the large model at these values is the small one, at no effects and at some of every subject."""
    try:
        raw = values_from_natural(large.model, values)
    except NLMEError:
        return False
    networks = tuple(f"{k}." for k, c in small.model.components.items() if isinstance(c, Network | RandomWeights))
    raw |= {name: value for name, value in parameter_values(small.model).items() if name.startswith(networks)}
    batch = small.data.batch(device=small.effects.modes.device)
    solver = small.solver
    mine = Density(small.model, batch, solver).at()
    theirs = Density(large.model, batch, solver).at({name: value.to(batch.times.device) for name, value in raw.items()})
    with torch.no_grad():
        eta = mine.sample(2, torch.Generator().manual_seed(0))
        eta = torch.cat([torch.zeros_like(eta[:, :1]), eta], 1)
        wide = eta.new_zeros(large.model.n_effects, *eta.shape[1:])
        wide[positions] = eta
        one, other = mine.log_likelihood(eta), theirs.log_likelihood(wide)
    known = torch.isfinite(one)
    return bool((known == torch.isfinite(other)).all()) and bool(((one - other)[known].abs() < SAME).all())


def _survival(statistic: float, degrees: int) -> float:
    """P(chi-squared >= statistic); with no degrees of freedom all of it lies at 0."""
    if degrees == 0:
        return 1.0 if statistic <= 0 else 0.0
    half = torch.tensor(0.5, dtype=torch.float64)
    return 1 - float(torch.special.gammainc(degrees * half, statistic * half))
