"""A model with its data as a Pyro program, for whatever Pyro offers: NUTS, SVI with any guide, predictive draws.

Sites: one per parameter with a prior (on its natural scale, under its attribute name), ``pyro.param`` for the estimated ones
without, one ``eta_<block>`` per block of random effects in the plate ``subject``, and one per outcome in the plates ``record``
and ``subject``. Run it inside ``pyro.get_param_store().scope()``: Pyro keeps parameters in one global store.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from nlme_torch.model.density import Density
from nlme_torch.model.individual import Individual
from nlme_torch.model.individual_parameters import IndividualParameter
from nlme_torch.model.model import Model
from nlme_torch.model.networks import Network
from nlme_torch.model.parameters import PopulationParameter
from nlme_torch.model.random_effects import RandomEffectBlock
from nlme_torch.model.random_weights import RandomWeights
from nlme_torch.model.values import component_values
from nlme_torch.solve import Solver

if TYPE_CHECKING:
    from nlme_torch.data import Dataset


def program(model: Model, data: "Dataset", solver: Solver) -> Callable[[], None]:
    r"""Return the Pyro program of a model.

    .. math::
        \log p(y, \eta, \theta) = \sum_i \big( \log p(y_i \mid \eta_i, \theta) + \log p(\eta_i \mid \Omega) \big) + \log p(\theta)

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
    batch = density.batch

    def run() -> None:
        values = {name: value[None] for name, value in _parameters(model).items()}
        conditional = density.at(values)
        subjects = pyro.plate("subject", batch.n_subjects, dim=-1)
        with subjects:
            pieces = [pyro.sample(f"eta_{block.name}", _effect_prior(block, values)) for block in model.blocks]
            eta = torch.cat(pieces, dim=-1) if pieces else batch.times.new_zeros(batch.n_subjects, 0)
            # Pyro puts effects last and its particles in front: (particle, 1, subject, effect)
            columns = eta.movedim(-1, 0).reshape(eta.shape[-1], -1, 1, batch.n_subjects)
            individual = conditional.individual(columns)
            prediction, solved = _record_before_subject(conditional.predict, individual, columns, density)
            pyro.factor("unsolved", torch.where(solved.any(-2), 0.0, -math.inf).expand(columns.shape[1:]))
        # the start axis has length one here, so parameters (particle, 1, subject) meet records (particle, record, subject)
        observed = model.observe(batch.times, prediction, individual)
        with subjects, pyro.plate("record", batch.n_records, dim=-2):
            for name, outcome in batch.outcomes.items():
                distribution = observed[name]
                shape = torch.broadcast_shapes(distribution.batch_shape, outcome.mask.shape)
                usable = outcome.mask & solved
                pyro.sample(name, distribution.expand(shape).mask(usable.expand(shape)), obs=outcome.value)

    return run


def _record_before_subject(
    predict: Callable[..., tuple[Any, Tensor]], individual: Individual, columns: Tensor, density: Density
) -> tuple[Any, Tensor]:
    """Predictions as ``(particle, record, subject)``, and the solved mask as ``(particle, 1, subject)``."""
    if not density.model.has_dynamics:
        prediction = density.model.predict(density.batch.times, individual, density._covariates)
        return prediction, torch.ones(columns.shape[1:], dtype=torch.bool, device=columns.device)
    states, solved = predict(individual, columns)
    return type(states)(*(state.squeeze(2).movedim(0, 1) for state in states)), solved


def _effect_prior(block: RandomEffectBlock, values: dict[str, Tensor]) -> dist.Distribution:
    if block.covariance is None:
        like = next(iter(values.values()))
        return dist.Normal(like.new_zeros(block.size), 1.0).to_event(1)
    factor = block.covariance.cholesky(component_values(values, f"_covariances.{block.name}"))[0]
    return dist.MultivariateNormal(factor.new_zeros(block.size), scale_tril=factor)


def _parameters(model: Model) -> dict[str, Tensor]:
    """Make one site per parameter and return raw values by ``nn.Module`` name."""
    values: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        values[name] = parameter.detach()
        owner = _owner(model, name)
        if not parameter.requires_grad:
            continue
        prior = getattr(owner, "prior", None) if name.endswith((".unconstrained", ".typical", ".weights")) else None
        if prior is None:
            values[name] = pyro.param(name, parameter.detach().clone())
            continue
        site = name.split(".")[0]
        if isinstance(owner, Network):
            values[name] = pyro.sample(site, _independent(prior, parameter))
        else:
            assert isinstance(owner, PopulationParameter | IndividualParameter)
            values[name] = owner.transform.inverse(pyro.sample(site, prior))
    return values


def _independent(prior: Any, weights: Tensor) -> Any:
    return prior.expand(weights.shape).to_event(1)


def _owner(model: Model, name: str) -> Any:
    component = model.components.get(name.split(".")[0])
    return component.network if isinstance(component, RandomWeights) else component
