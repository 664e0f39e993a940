"""Which part each raw parameter of a model plays: the one place that knows how modules name their parameters.

A raw parameter is an ``nn.Parameter`` by its ``nn.Module`` name, on the scale on which it is estimated; a reader knows
it by the name of what declares it, on the natural scale.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from nlme_torch._typing import Float
from nlme_torch.model.declare.values import ParameterValues, component_values
from nlme_torch.model.networks.networks import Network
from nlme_torch.model.networks.random_weights import RandomWeights
from nlme_torch.model.parameters.individual_parameters import IndividualParameter
from nlme_torch.model.parameters.parameters import PopulationParameter
from nlme_torch.model.random_effects.random_effects import RandomEffectBlock

OMEGA = "_covariances"
"""The attribute under which a model holds the covariances of its random effects."""


@runtime_checkable
class Declaring(Protocol):
    """A model, as far as it is asked here."""

    @property
    def components(self) -> Mapping[str, Any]:
        """Attribute to what is declared there."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield raw names and parameters."""
        ...


class Role(Enum):
    """What a raw parameter is.

    Attributes:
        POPULATION: A parameter without a random effect.
        TYPICAL: The typical value of an individual parameter, transformed.
        COEFFICIENT: Of a covariate.
        WEIGHTS: Of a network.
        LOADING: What weights low-rank effects have on a network's.
        OMEGA: Of the covariance of random effects.
    """

    POPULATION = "population parameter"
    TYPICAL = "typical value"
    COEFFICIENT = "coefficient of a covariate"
    WEIGHTS = "weights of a network"
    LOADING = "loadings of random weights"
    OMEGA = "covariance of random effects"

    @property
    def of_network(self) -> bool:
        """Whether it belongs to a network, whose units may be permuted: no entry has a meaning of its own."""
        return self in (Role.WEIGHTS, Role.LOADING)


class RawParameter(NamedTuple):
    """One raw parameter.

    Attributes:
        role: What it is.
        owner: The attribute of the model that declares it; of an Omega the name of its block.
        label: A short name of the whole.
    """

    role: Role
    owner: str
    label: str


def raw_name(name: str, component: object) -> str | None:
    """Return the raw name of what a component is declared with: its value, typical value or weights; None without one.

    Args:
        name: Attribute of the model.
        component: What stands there.

    Example:
        >>> import nlme_torch as nlme
        >>> raw_name("cl", nlme.LogNormal(2.0)), raw_name("sigma", nlme.Positive(1.0)), raw_name("z", nlme.Latent(1))
        ('cl.typical', 'sigma.unconstrained', None)
    """
    if isinstance(component, PopulationParameter):
        return f"{name}.unconstrained"
    if isinstance(component, IndividualParameter):
        return f"{name}.typical"
    if isinstance(component, Network):
        return f"{name}.weights"
    return f"{name}.network.weights" if isinstance(component, RandomWeights) else None


def coefficient_name(name: str, covariate: str) -> str:
    """Return the raw name of a covariate's coefficients.

    Args:
        name: Of the individual parameter.
        covariate: The column.
    """
    return f"{name}.covariates.{covariate}.beta"


def omega_name(block: RandomEffectBlock, entry: str) -> str:
    """Return the raw name of a parameter of a block's covariance, of one occasion where it repeats.

    Args:
        block: The block of random effects.
        entry: The parameter's name in its covariance.
    """
    return f"{OMEGA}.{block.name}.{'inner.' if block.repeats else ''}{entry}"


def loading_name(name: str) -> str:
    """Return the raw name of the loadings of random weights of low rank.

    Args:
        name: Of the random weights.
    """
    return f"{name}.loading"


def omega_values(block: RandomEffectBlock, values: ParameterValues) -> dict[str, Tensor]:
    """Return the values of a block's covariance by their names in it.

    Args:
        block: The block of random effects.
        values: Raw name to ``(start, *shape)``.
    """
    return component_values(values, f"{OMEGA}.{block.name}")


def omega_matrix(block: RandomEffectBlock, values: ParameterValues) -> Float[Tensor, "start effect effect"]:
    """Return the covariance matrix of a block that has one.

    Args:
        block: The block of random effects.
        values: Raw name to ``(start, *shape)``.
    """
    assert block.covariance is not None
    return block.covariance.matrix(omega_values(block, values))


def raw_parameters(model: Declaring) -> dict[str, RawParameter]:
    """Return what every raw parameter of a model is, in the model's order.

    Args:
        model: The model.

    Example:
        >>> import nlme_torch as nlme
        >>> table = raw_parameters(nlme.examples.TheophyllineClosedForm())
        >>> table["ka.typical"], table["sigma.unconstrained"].label
        (RawParameter(role=<Role.TYPICAL: 'typical value'>, owner='ka', label='ka'), 'sigma')
    """
    roles = {PopulationParameter: Role.POPULATION, IndividualParameter: Role.TYPICAL}
    known: dict[str, RawParameter] = {}
    for name, component in model.components.items():
        raw = raw_name(name, component)
        if raw is None:
            continue
        role = next((role for kind, role in roles.items() if isinstance(component, kind)), Role.WEIGHTS)
        known[raw] = RawParameter(role, name, raw if role is Role.WEIGHTS else name)
        if isinstance(component, IndividualParameter):
            for covariate in component.effects:
                label = f"{name}_{covariate}"
                known[coefficient_name(name, covariate)] = RawParameter(Role.COEFFICIENT, name, label)
        if isinstance(component, RandomWeights):
            loading = loading_name(name)
            known[loading] = RawParameter(Role.LOADING, name, loading)
    table = {}
    for raw, _ in model.named_parameters():
        if raw.startswith(f"{OMEGA}."):
            known[raw] = RawParameter(Role.OMEGA, raw.split(".")[1], raw)
        table[raw] = known[raw]
    return table


def names_of_omega(model: Declaring) -> set[str]:
    """Return the raw names of all covariances."""
    return {name for name, raw in raw_parameters(model).items() if raw.role is Role.OMEGA}
