"""What the likelihood of one subject reads, as lists of numbers: of the start, of the subject and of each record."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nlme_torch.model.density.density import Conditional
from nlme_torch.model.density.joined import Joined
from nlme_torch.model.individual.category import Category
from nlme_torch.model.networks.networks import Network
from nlme_torch.model.networks.random_weights import RandomWeights
from nlme_torch.model.parameters.parameters import PopulationParameter


@dataclass(frozen=True)
class DataReadings:
    """What a density takes from the data; it stays the same while parameters move.

    Attributes:
        covariates: Covariate to ``(subject,)`` where it is constant within subjects; codes where it holds text.
        changing: Covariate to ``(record, subject)`` where it is not.
        times: ``(record, subject)`` [time].
        occasions: ``(record, subject)``, 0-based, or None.
        outcomes: For every pattern of observed records, outcome name to ``(record, subject)``.
        censoring: For every pattern, outcome name to CENS and LIMIT, each ``(record, subject)``.
        kinds: For every pattern, outcome name to whether any of its records is left-censored, right-censored, or
            censored with a finite limit.
        masks: ``(pattern, record, subject)``, True where the outcomes of the pattern were observed.
    """

    covariates: dict[str, Tensor]
    changing: dict[str, Tensor]
    times: Tensor
    occasions: Tensor | None
    outcomes: tuple[dict[str, Tensor], ...]
    censoring: tuple[dict[str, tuple[Tensor, Tensor]], ...]
    kinds: tuple[dict[str, tuple[bool, bool, bool]], ...]
    masks: Tensor

    @classmethod
    def of(cls, density: Joined) -> "DataReadings":
        """Collect them."""
        constant: dict[str, Tensor] = {}
        changing: dict[str, Tensor] = {}
        for name, value in vars(density._covariates).items():
            plain = value.codes if isinstance(value, Category) else value
            if plain.dim() == 1:
                constant[name] = plain
            else:
                changing[name] = plain[:, 0, 0]
        records = density._observed
        return cls(
            constant,
            changing,
            density._times[:, 0, 0],
            density._occasions,
            tuple(dict(group.values) for group in records),
            tuple(dict(group.censoring) for group in records),
            tuple({name: _kinds(*pair) for name, pair in group.censoring.items()} for group in records),
            torch.stack([group.mask for group in records]),
        )

    def of_subjects(self) -> Tensor:
        """What is constant within subjects, ``(reading, subject)``."""
        rows = list(self.covariates.values())
        return torch.stack(rows).double() if rows else self.times.new_zeros(0, self.times.shape[1])

    def of_records(self) -> Tensor:
        """What belongs to records, ``(record, reading, subject)``."""
        rows = [self.times, *self.changing.values()]
        rows += [] if self.occasions is None else [self.occasions]
        for values, censoring in zip(self.outcomes, self.censoring, strict=True):
            rows += values.values()
            for pair in censoring.values():
                rows += pair
        return torch.stack([row.double() for row in rows], 1)

    def rebuilt(self, subjects: Callable[[], Tensor], records: Callable[[], Tensor]) -> "DataReadings":
        """The same readings of one subject at one record, with values taken in the same order.

        Args:
            subjects: Gives the next reading of the subject, ``(1,)``.
            records: Gives the next reading of the record, ``(1, 1)``.
        """
        covariates = {name: subjects() for name in self.covariates}
        times = records()
        changing = {name: records() for name in self.changing}
        occasions = None if self.occasions is None else records()
        outcomes, censoring = [], []
        for values, censored in zip(self.outcomes, self.censoring, strict=True):
            outcomes.append({name: records() for name in values})
            censoring.append({name: (records(), records()) for name in censored})
        return DataReadings(
            covariates, changing, times, occasions, tuple(outcomes), tuple(censoring), self.kinds, torch.ones(0, 1, 1)
        )


def _kinds(censoring: Tensor, limit: Tensor) -> tuple[bool, bool, bool]:
    left, right = censoring == 1, censoring == -1
    return bool(left.any()), bool(right.any()), bool(((left | right) & torch.isfinite(limit)).any())


def population_readings(conditional: Conditional) -> dict[tuple[str, str], Tensor]:
    """What a density takes from the population parameters, apart from means: ``(start, *shape)`` by owner and kind."""
    found: dict[tuple[str, str], Tensor] = {}
    for name, component in conditional.density.model.components.items():
        if isinstance(component, PopulationParameter):
            found[name, "natural"] = component.natural(conditional.values[f"{name}.unconstrained"])
        elif isinstance(component, Network):
            found[name, "weights"] = conditional.values[f"{name}.weights"]
        elif isinstance(component, RandomWeights) and component.low_rank:
            found[name, "weights"] = conditional.values[f"{name}.network.weights"]
            found[name, "loading"] = conditional._loading[name]
    return found
