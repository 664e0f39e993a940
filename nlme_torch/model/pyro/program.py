"""A model with its data as a Pyro program, for whatever Pyro offers: NUTS, SVI with any guide, predictive draws.

Sites: one per parameter with a prior (on its natural scale, under its attribute name), ``pyro.param`` for the
    estimated ones
without, one ``eta_<block>`` per block of random effects in the plate ``subject``, and one per outcome in the plates
``record``
and ``subject``. Run it inside ``pyro.get_param_store().scope()``: Pyro keeps parameters in one global store.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.raw_parameters import Role, omega_values, raw_parameters
from nlme_torch.model.density.density import Density
from nlme_torch.model.networks.networks import Network
from nlme_torch.model.networks.random_weights import RandomWeights
from nlme_torch.model.parameters.individual_parameters import IndividualParameter
from nlme_torch.model.parameters.parameters import PopulationParameter
from nlme_torch.model.pyro.layout import PlateLayout
from nlme_torch.model.random_effects.random_effects import RandomEffectBlock
from nlme_torch.solve import Solver

if TYPE_CHECKING:
    from nlme_torch.data import Dataset


def program(model: Model, data: "Dataset", solver: Solver) -> Callable[[], None]:
    r"""Return the Pyro program of a model.

    .. math::
        \log p(y, \eta, \theta) = \sum_i \big( \log p(y_i \mid \eta_i, \theta) + \log p(\eta_i \mid \Omega) \big)
            + \log p(\theta)

    Args:
        model: The model.
        data: The data set.
        solver: How its differential equation is solved.

    Returns:
        A function without arguments that makes the sample statements.

    Example:
        >>> import nlme_torch as nlme, pyro
        >>> with pyro.get_param_store().scope():
        ...     model = nlme.examples.TheophyllineClosedForm().program(nlme.examples.theophylline())
        ...     trace = pyro.poutine.trace(model).get_trace()
        >>> trace.nodes["eta_individual"]["value"].shape, trace.nodes["conc"]["is_observed"]
        (torch.Size([12, 3]), True)
    """
    density = Density(model, data.batch(), solver)
    batch, model = density.batch, density.model

    def run() -> None:
        density.refreshed()
        drawn = _parameters(model)
        subjects = pyro.plate("subject", batch.n_subjects, dim=-1)
        with subjects:
            pieces = [pyro.sample(f"eta_{block.name}", _effect_prior(drawn, block)) for block in model.blocks]
            eta = torch.cat(pieces, dim=-1) if pieces else batch.times.new_zeros(batch.n_subjects, 0)
        # Pyro's (*particles, 1, subject, effect) becomes (effect, 1, particle, subject): particles are starts
        particles = eta.shape[:-3]
        columns = eta.reshape(-1, *eta.shape[-2:]).permute(2, 0, 1)[:, None]
        conditional = density.at(_on_start_axis(model, drawn, columns.shape[2]))
        observations, solved = conditional.observations(columns)
        solved = solved.expand(columns.shape[1:]).reshape(*particles, 1, batch.n_subjects)
        with subjects, pyro.plate("record", batch.n_records, dim=-2):
            for records, observed in observations:
                for name, values in records.values.items():
                    outcome = PlateLayout(observed[name], particles, batch.n_records, batch.n_subjects)
                    pyro.sample(name, outcome.mask(records.mask & solved), obs=values)
        with subjects:
            unsolved = torch.where(solved, 0.0, -math.inf)
            pyro.factor("unsolved", unsolved if particles else unsolved[0])

    return run


def _on_start_axis(model: Model, drawn: dict[str, Tensor], starts: int) -> dict[str, Tensor]:
    """Raw values ``(*particles, 1, 1, *shape)`` or ``shape`` as ``(start, *shape)``."""
    return {
        name: drawn[name].reshape(-1, *parameter.shape).expand(starts, *parameter.shape)
        for name, parameter in model.named_parameters()
    }


def _effect_prior(drawn: dict[str, Tensor], block: RandomEffectBlock) -> TorchDistributionMixin:
    if block.covariance is None:
        like = next(iter(drawn.values()))
        return dist.Normal(like.new_zeros(block.size), 1.0).to_event(1)
    raw = omega_values(block, drawn)
    factor = block.covariance.cholesky({name: value[None] for name, value in raw.items()})[0]
    return dist.MultivariateNormal(factor.new_zeros(block.size), scale_tril=factor)


def _parameters(model: Model) -> dict[str, Tensor]:
    """Make one site per parameter and return raw values by ``nn.Module`` name."""
    values: dict[str, Tensor] = {}
    table = raw_parameters(model)
    for name, parameter in model.named_parameters():
        values[name] = parameter.detach()
        if not parameter.requires_grad:
            continue
        role, site, _ = table[name]
        owner = _owner(model, site) if role in (Role.POPULATION, Role.TYPICAL, Role.WEIGHTS) else None
        prior = None if owner is None else owner.prior
        if prior is None:
            values[name] = pyro.param(name, parameter.detach().clone())
            continue
        if isinstance(owner, Network):
            values[name] = pyro.sample(site, _independent(prior, parameter))
        else:
            assert isinstance(owner, PopulationParameter | IndividualParameter)
            values[name] = owner.transform.inverse(pyro.sample(site, prior))
    return values


def _independent(prior: Any, weights: Tensor) -> Any:
    return prior.expand(weights.shape).to_event(1)


def _owner(model: Model, name: str) -> Any:
    component = model.components[name]
    return component.network if isinstance(component, RandomWeights) else component
