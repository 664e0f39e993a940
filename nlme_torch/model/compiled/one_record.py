"""The densities of one subject at one record: what is traced stands here for all subjects and records."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nlme_torch.model.compiled.readings import DataReadings
from nlme_torch.model.density.density import Conditional, Density
from nlme_torch.model.density.joined import Joined
from nlme_torch.model.density.observed import ObservedRecords
from nlme_torch.model.density.residual_scale import scaled_residuals
from nlme_torch.model.individual.category import Category
from nlme_torch.model.individual.individual import Covariates, Individual
from nlme_torch.model.networks.networks import Network
from nlme_torch.model.observation.censored import Censored
from nlme_torch.model.observation.correlated import Correlated
from nlme_torch.model.parameters.parameters import PopulationParameter
from nlme_torch.solve.kernel.reading import NotScalarError


class OneRecordDensity(Density):
    """A density that sees one subject at one record.

    Args:
        density: The density of all subjects.
        readings: What this subject and record have in place of the data.
    """

    def __init__(self, density: Joined, readings: DataReadings) -> None:
        self.__dict__.update(density.__dict__)
        self._times = readings.times[:, None, None]
        values = copy.copy(vars(density._covariates))
        replaced = dict(readings.covariates)
        replaced |= {name: value[:, None, None] for name, value in readings.changing.items()}
        for name, value in replaced.items():
            old = values[name]
            values[name] = Category(old.name, old.levels, value) if isinstance(old, Category) else value
        self._covariates = Covariates({}, density._covariates._refused)
        self._covariates.__dict__.update(values)  # as plain tensors: a trace knows them by what they are
        self._covariates_between = None
        self._occasions = readings.occasions
        self._observed = tuple(
            ObservedRecords(torch.ones(readings.times.shape, dtype=torch.bool), outcomes, None)
            for outcomes in readings.outcomes
        )
        self.censoring = tuple(
            {name: (*pair, kinds[name]) for name, pair in censoring.items()}
            for censoring, kinds in zip(readings.censoring, readings.kinds, strict=True)
        )


class OneRecordConditional(Conditional):
    """The densities of one subject at one record, as functions of its random effects and of the parameters.

    Args:
        density: Of one subject at one record.
        mean: ``(effect, 1, 1)``.
        population: What :func:`~nlme_torch.model.compiled.readings.population_readings` found, of one start.
    """

    def __init__(self, density: OneRecordDensity, mean: Tensor, population: dict[tuple[str, str], Tensor]) -> None:
        self.density, self.mean, self.starts = density, mean, 1
        self._population: dict[str, Any] = {}
        self._loading = {name: value for (name, kind), value in population.items() if kind == "loading"}
        self._factors = {}
        values: dict[str, Tensor] = {}
        for (name, kind), value in population.items():
            component = density.model.components[name]
            if isinstance(component, PopulationParameter):
                self._population[name] = value[:, None]
            elif isinstance(component, Network):
                self._population[name] = component.bind(value.mT[:, None, :, None])
            elif kind == "weights":
                values[f"{name}.network.weights"] = value
        self.values = values

    def log_densities(self, individual: Individual, states: tuple[Tensor, ...] | None) -> list[Tensor]:
        """Return the log density of every pattern of outcomes at the record.

        Args:
            individual: Parameters of the subject.
            states: Each ``(1, 1, 1, 1)``; None for closed forms.
        """
        density = self.density
        assert isinstance(density, OneRecordDensity)
        found = []
        for records, censoring in zip(density._observed, density.censoring, strict=True):
            observed = self._observe(records, individual, states)
            total = density._times.new_zeros(1, 1, 1, 1)
            for name in records.values:
                distribution = observed[name]
                if name in censoring:
                    distribution = CensoredAtOneRecord(distribution, *censoring[name])
                total = total + distribution.log_prob(records.aligned(name))
            found.append(total)
        return found

    def squared_residuals(
        self,
        individual: Individual,
        states: tuple[Tensor, ...] | None,
        places: Sequence[tuple[int, int]],
        scales: Mapping[str, Sequence[str]],
    ) -> list[Tensor]:
        """Return sums of squared standardised residuals of outcomes at the record.

        Args:
            individual: Parameters of the subject.
            states: Each ``(1, 1, 1, 1)``; None for closed forms.
            places: For each sum the pattern of outcomes and the position among ``scales``.
            scales: Names to the outcomes of each.
        """
        found, outcomes = [], list(scales.values())
        for pattern, output in places:
            records = self.density._observed[pattern]
            observed = self._observe(records, individual, states)
            total = self.density._times.new_zeros(1, 1, 1, 1)
            for name in set(outcomes[output]) & set(records.values):
                total = total + scaled_residuals(observed[name], records.aligned(name)).square()
            found.append(total)
        return found

    def _observe(
        self, records: ObservedRecords, individual: Individual, states: tuple[Tensor, ...] | None
    ) -> dict[str, Any]:
        density, model = self.density, self.density.model
        if states is None:
            prediction = model.predict(density._times, individual, density._covariates)
        else:
            prediction = model.state_tuple()(*states)
        written = model.observe(density._times, prediction, individual)
        if any(isinstance(distribution, Correlated) for distribution in written.values()):
            raise NotScalarError("two outcomes are correlated")
        observed: dict[str, Any] = records.complete(written)
        return observed


class CensoredAtOneRecord(Censored):
    """A censored outcome at a record that may be censored or not.

    Args:
        base: The distribution of the outcome.
        censoring: CENS.
        limit: LIMIT.
        kinds: Whether any record of the data is left-censored, right-censored, or censored with a finite limit.
    """

    def __init__(self, base: Any, censoring: Tensor, limit: Tensor, kinds: tuple[bool, bool, bool]) -> None:
        super().__init__(base, censoring[:, None, None], limit[:, None, None])
        self._kinds = kinds

    def _occur(self, left: Tensor, right: Tensor, bounded: Tensor) -> tuple[bool, bool, bool]:
        return self._kinds
