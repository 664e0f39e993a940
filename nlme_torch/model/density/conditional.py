r"""The densities of a model at fixed parameters, as functions of the random effects.

.. math:: \log p(y_i, \eta_i \mid \theta) = \log p(y_i \mid \eta_i, \theta) + \log p(\eta_i \mid \Omega)

``(effect, chain, start, subject)`` in, ``(chain, start, subject)`` out. This is the only place where a likelihood is
computed by tensor operations.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from nlme_torch._typing import Float
from nlme_torch.model.covariates.derived import derived
from nlme_torch.model.covariates.occasions import of_occasion
from nlme_torch.model.declare.raw_parameters import coefficient_name, loading_name, omega_values, raw_name
from nlme_torch.model.declare.values import ParameterValues
from nlme_torch.model.density.joined import Joined
from nlme_torch.model.density.observed import ObservedRecords
from nlme_torch.model.individual.individual import Individual, at_records
from nlme_torch.model.networks.networks import Network
from nlme_torch.model.networks.random_weights import RandomWeights
from nlme_torch.model.observation import with_positive_scale
from nlme_torch.model.observation.unchecked import unchecked
from nlme_torch.model.parameters.individual_parameters import IndividualParameter, Latent
from nlme_torch.model.parameters.parameters import PopulationParameter
from nlme_torch.model.trajectory.trajectory import Trajectory
from nlme_torch.solve import Solution

LOG_2PI = math.log(2 * math.pi)


class Conditional:
    """The densities of a model at fixed parameters, as functions of the random effects.

    Args:
        density: The model joined to data and solver.
        values: Raw name to ``(start, *shape)``; gradients flow to them.

    Attributes:
        mean: ``(effect, start, subject or 1)``, what eta is added to on the transformed scale; zero for latents.
    """

    def __init__(self, density: Joined, values: ParameterValues) -> None:
        self.density, self.values = density, values
        model = density.model
        self.starts = next(iter(values.values())).shape[0]
        self._population: dict[str, Any] = {}
        self._loading: dict[str, Tensor] = {}
        means: list[Tensor] = []
        for name, component in model.components.items():
            if isinstance(component, PopulationParameter):
                self._population[name] = component.natural(self._raw(name))[:, None]
            elif isinstance(component, Network):
                self._population[name] = component.bind(self._raw(name).mT[:, None, :, None])
            elif isinstance(component, RandomWeights) and component.low_rank:
                self._loading[name] = component.loading_matrix(values[loading_name(name)])
        for block in model.blocks:
            if block.kind == "individual":
                means += [self._typical(owner) for owner in block.owners]
            elif block.kind == "weights":
                means += list(self._raw(block.owners[0]).mT[:, :, None].unbind(0))
            else:
                means += [density._times.new_zeros(1, 1)] * block.size
        mean = torch.stack(torch.broadcast_tensors(*means)) if means else density._times.new_zeros(0, 1, 1)
        self.mean = mean.expand(-1, self.starts, -1)
        self._factors = {
            block.name: block.covariance.cholesky(omega_values(block, values))
            for block in model.blocks
            if block.covariance is not None
        }

    def _raw(self, name: str) -> Tensor:
        """What a component is declared with, on the estimation scale, ``(start, *shape)``."""
        raw = raw_name(name, self.density.model.components[name])
        assert raw is not None
        return self.values[raw]

    def _typical(self, name: str) -> Tensor:
        """Mean of a transformed individual parameter, ``(start, subject or 1)``."""
        mean = self._raw(name)[:, None]
        component = self.density.model.components[name]
        for covariate in component.covariates:  # type: ignore[union-attr]
            beta = self.values[coefficient_name(name, covariate)]
            regressor = self.density._regressors[name, covariate]
            mean = mean + (beta[:, None] * regressor if regressor.dim() == 1 else beta @ regressor)
        return mean

    def cholesky(self, block: str) -> Float[Tensor, "start effect effect"]:
        """Return the Cholesky factor of a block's covariance matrix."""
        return self._factors[block]

    def covariance(self) -> Float[Tensor, "start effect effect"]:
        """Return the covariance matrix of all random effects."""
        pieces = []
        for block in self.density.model.blocks:
            factor = self._factors.get(block.name)
            if factor is None:
                factor = torch.eye(block.size, dtype=self.mean.dtype, device=self.mean.device)[None]
            pieces.append((factor @ factor.mT).expand(self.starts, -1, -1))
        if not pieces:
            return self.mean.new_zeros(self.starts, 0, 0)
        return torch.stack([torch.block_diag(*(piece[start] for piece in pieces)) for start in range(self.starts)])

    def sample(self, chains: int, generator: torch.Generator) -> Float[Tensor, "effect chain start subject"]:
        """Draw random effects from N(0, Omega).

        Args:
            chains: Number of draws per subject and start.
            generator: Source of randomness.
        """
        model, batch = self.density.model, self.density.batch
        shape = (model.n_effects, chains, self.starts, batch.n_subjects)
        noise = torch.randn(shape, generator=generator, dtype=self.mean.dtype, device=generator.device)
        return self.colour(noise.to(self.mean.device))

    def colour(self, noise: Tensor) -> Tensor:
        """Multiply standard normal noise, ``(effect, chain, start, subject)``, by the Cholesky factor of Omega."""
        pieces = []
        for block in self.density.model.blocks:
            part, factor = noise[block.slice], self._factors.get(block.name)
            if factor is None:
                pieces.append(part)
            elif block.covariance is not None and block.covariance.diagonal:
                pieces.append(part * factor.diagonal(dim1=-2, dim2=-1).mT[:, None, :, None])
            else:
                pieces.append(torch.einsum("sij,jcsn->icsn", factor, part))
        return torch.cat(pieces) if pieces else noise

    def individual(self, eta: Tensor) -> Individual:
        """Return the parameters of every subject on the natural scale.

        Args:
            eta: ``(effect, chain, start, subject)``.
        """
        density = self.density
        transformed = self.mean[:, None] + eta
        values: dict[str, Any] = {}
        for name, component in density.model.components.items():
            if isinstance(component, PopulationParameter | Network):
                values[name] = self._population[name]
            elif isinstance(component, IndividualParameter):
                inner = transformed[density._position[name]]
                if density._occasions is not None and component.occasions is not None:
                    inner = inner + of_occasion(eta[density._slices[name]], density._occasions)
                values[name] = component.transform.forward(inner)
            elif isinstance(component, Latent):
                effects = eta[density._slices[name]]
                values[name] = effects[0] if component.size == 1 else tuple(effects.unbind(0))
            elif isinstance(component, RandomWeights):
                if component.low_rank:
                    shift = torch.einsum("swq,qcsn->wcsn", self._loading[name], eta[density._slices[name]])
                    weights = self._raw(name).mT[:, None, :, None] + shift
                else:
                    weights = transformed[density._slices[name]]
                values[name] = component.network.bind(weights)
        return derived(density.model, values, density._covariates, density._covariates_between)

    def trajectory(self, individual: Individual, eta: Tensor) -> Trajectory:
        """Return the equations of all subjects with their doses and changing quantities, ready to be solved.

        Args:
            individual: Parameters from :meth:`individual`.
            eta: The effects they came from, for the batch shape.
        """
        density = self.density
        like = self.mean.new_zeros(eta.shape[1], self.starts, eta.shape[3])
        return Trajectory(
            density.model, individual, like, density._times, density._plan, density.solver, density.fields
        )

    def solution(self, individual: Individual, eta: Tensor) -> Solution:
        """Solve the equations of every subject.

        Args:
            individual: Parameters from :meth:`individual`.
            eta: The effects they came from, for the batch shape.
        """
        return self.trajectory(individual, eta).solve()

    def observe(self, eta: Tensor) -> tuple[Mapping[str, Distribution], Tensor]:
        """Return the distribution of every outcome at every record, and where it can be trusted.

        Args:
            eta: ``(effect, chain, start, subject)``.

        Returns:
            Outcome name to a distribution over ``(record, chain, start, subject)``, and the mask
            ``(chain, start, subject)`` of the subjects whose equation could be solved.
        """
        with unchecked():
            individual = self.individual(eta)
            prediction, solved = self.predict(individual, eta)
            observed = self.density.model.observe(self.density._times, prediction, individual)
            return {name: with_positive_scale(distribution) for name, distribution in observed.items()}, solved

    def observations(self, eta: Tensor) -> tuple[tuple[tuple[ObservedRecords, Any], ...], Tensor]:
        """Return the distributions of the outcomes where they were observed, for densities and their gradients.

        Args:
            eta: ``(effect, chain, start, subject)``.

        Returns:
            For every pattern of observed records, the pattern and outcome name to a distribution over
            ``(record, chain, start, subject)``; and the mask ``(chain, start, subject)`` of the subjects whose equation
            could be solved.
        """
        groups, solved = self.as_written(eta)
        with unchecked():
            return tuple((records, records.complete(observed)) for records, observed in groups), solved

    def as_written(self, eta: Tensor) -> tuple[tuple[tuple[ObservedRecords, Any], ...], Tensor]:
        """Return what ``observe`` itself returned where outcomes were observed; else as :meth:`observations`.

        Args:
            eta: ``(effect, chain, start, subject)``.
        """
        density, model = self.density, self.density.model
        with unchecked():
            individual = self.individual(eta)
            states, solved = self.predict(individual, eta) if model.has_dynamics else ((), _all_solved(eta))
            observed = []
            for records in density._observed:
                times = records.take(density._times)
                there = Individual(at_records(vars(individual), records.take))
                if model.has_dynamics:
                    prediction = model.state_tuple()(*(records.take(state) for state in states))
                else:
                    covariates = density._covariates(records.take)
                    prediction = model.predict(times, there, covariates)
                observed.append((records, model.observe(times, prediction, there)))
        return tuple(observed), solved

    def predict(self, individual: Individual, eta: Tensor) -> tuple[Any, Tensor]:
        """Return what ``observe`` reads: the states, or the closed form, at every record.

        Args:
            individual: Parameters from :meth:`individual`.
            eta: The effects they came from, ``(effect, chain, start, subject)``.

        Returns:
            A tuple of states, each ``(record, chain, start, subject)``, or whatever ``predict`` returns; and the mask
            of the subjects whose equation could be solved.
        """
        density, model = self.density, self.density.model
        if not model.has_dynamics:
            return model.predict(density._times, individual, density._covariates), _all_solved(eta)
        solution = self.solution(individual, eta)
        solved = solution.status == 0
        # a failed subject is shown harmless states, and its density is replaced afterwards
        states = torch.where(solved, solution.states, solution.states[:1].detach().nan_to_num(0.0))
        return model.state_tuple()(*states.unbind(1)), solved

    def log_likelihood(self, eta: Tensor) -> Tensor:
        """Return log p(y_i | eta_i), -inf where the model cannot be evaluated.

        Args:
            eta: ``(effect, chain, start, subject)``.

        Returns:
            ``(chain, start, subject)``.
        """
        total = eta.new_zeros(())
        with unchecked():
            observations, solved = self.observations(eta)
            for records, observed in observations:
                for name in records.values:
                    log_prob = observed[name].log_prob(records.aligned(name))
                    total = total + torch.where(records.mask[:, None, None, :], log_prob, 0.0).sum(0)
        return torch.where(solved & torch.isfinite(total), total, -math.inf).expand(eta.shape[1:])

    def log_effects(self, eta: Tensor) -> Tensor:
        """Return log p(eta_i | Omega), ``(chain, start, subject)``."""
        total = eta.new_zeros(eta.shape[1:])
        for block in self.density.model.blocks:
            part, factor = eta[block.slice], self._factors.get(block.name)
            if factor is not None:
                deviations = factor.diagonal(dim1=-2, dim2=-1)
                total = total - deviations.log().sum(-1)[:, None]
                if block.covariance is not None and block.covariance.diagonal:
                    part = part / deviations.mT[:, None, :, None]
                else:
                    columns = part.permute(2, 0, 1, 3)  # start, effect, chain, subject
                    flat = columns.reshape(*columns.shape[:2], -1)
                    flat = torch.linalg.solve_triangular(factor.expand(flat.shape[0], -1, -1), flat, upper=False)
                    part = flat.reshape(columns.shape).permute(1, 2, 0, 3)
            total = total - 0.5 * part.square().sum(0) - 0.5 * block.size * LOG_2PI
        return total

    def log_joint(self, eta: Tensor) -> Tensor:
        """Return log p(y_i, eta_i), ``(chain, start, subject)``."""
        return self.log_likelihood(eta) + self.log_effects(eta)


def _all_solved(like: Tensor) -> Tensor:
    return torch.ones((), dtype=torch.bool, device=like.device)
