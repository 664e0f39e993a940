r"""The continuous outcomes of a data set as one vector per subject: values, locations, variances, slopes.

Entries are ordered by record and, within one, by outcome. A log-normal outcome is taken on the log scale, where its
residual error is normal; a censored record has a prediction and no residual.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, LogNormal

from nlme_torch._typing import Bool, Float
from nlme_torch.inference.marginal.approximation import own_replica, replicas
from nlme_torch.model.density.absolute_zeros import gradients
from nlme_torch.model.density.companions import partners
from nlme_torch.model.density.density import Conditional, Density
from nlme_torch.model.observation import Correlated, IntervalCensoredEvent, TimeToEvent


class Moments(NamedTuple):
    """What the model says of every entry.

    Attributes:
        location: Mean, of the logarithm for log-normal outcomes, ``(entry, *batch)``.
        variance: Of the same, ``(entry, *batch)``.
        solved: Whether the subject's equation could be solved, ``batch``.
    """

    location: Tensor
    variance: Tensor
    solved: Tensor


class Coupling(NamedTuple):
    """Pairs of entries whose residual errors are correlated.

    Attributes:
        first: ``(pair,)``, an entry.
        second: ``(pair,)``, the other one.
        subject: ``(pair,)``, whose.
        correlation: ``(pair,)``.
    """

    first: Tensor
    second: Tensor
    subject: Tensor
    correlation: Tensor


def is_event(distribution: Any) -> bool:
    """Whether an outcome is the time of an event."""
    return isinstance(distribution, TimeToEvent | IntervalCensoredEvent)


def is_discrete(distribution: Any) -> bool:
    """Whether an outcome takes integer values."""
    return bool(getattr(distribution.support, "is_discrete", False))


def outcome_kinds(density: Density) -> dict[str, Distribution]:
    """Return the distribution of every outcome of the data, at effects of zero."""
    with torch.no_grad():
        zero = density.at().mean.new_zeros(density.model.n_effects, 1, 1, density.batch.n_subjects)
        observed, _ = density.at().observe(zero)
    return {name: by_itself(observed[name]) for name in density.batch.outcomes}


def by_itself(distribution: Any) -> Distribution:
    """Return the distribution of an outcome without the one that it is correlated with."""
    return distribution.base if isinstance(distribution, Correlated) else distribution


@dataclass(frozen=True)
class ContinuousRecords:
    """The observations of all continuous outcomes.

    Attributes:
        density: The model, joined to its data.
        kinds: Outcome to its distribution.
    """

    density: Density
    kinds: Mapping[str, Distribution]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The outcomes in the order of their entries."""
        return tuple(name for name, kind in self.kinds.items() if not is_event(kind) and not is_discrete(kind))

    def stacked(self, values: Mapping[str, Tensor]) -> Tensor:
        """Interleave outcome to ``(record, *batch)`` into ``(entry, *batch)``."""
        return torch.stack([values[name] for name in self.names], 1).flatten(0, 1)

    def outcome(self, entries: Tensor, name: str) -> Tensor:
        """Take one outcome's ``(record, *batch)`` out of ``(entry, *batch)``."""
        return entries[self.names.index(name) :: len(self.names)]

    @cached_property
    def mask(self) -> Bool[Tensor, "entry subject"]:
        """Where there is an observation, censored or not."""
        return self.stacked({name: self.density.batch.outcomes[name].mask for name in self.names})

    @cached_property
    def censoring(self) -> Tensor:
        """0 observed, 1 the truth lies below the value, -1 above it; ``(entry, subject)``."""
        outcomes = self.density.batch.outcomes
        none = torch.zeros_like(self.density.batch.rows)
        codes = {name: outcomes[name].censoring for name in self.names}
        return self.stacked({name: none if code is None else code for name, code in codes.items()})

    @cached_property
    def known(self) -> Bool[Tensor, "entry subject"]:
        """Where a value was observed that is not censored."""
        return self.mask & (self.censoring == 0)

    @cached_property
    def value(self) -> Float[Tensor, "entry subject"]:
        """The observations as they are, [outcome's unit]."""
        return self.stacked({name: self.density.batch.outcomes[name].value for name in self.names})

    @cached_property
    def observed(self) -> Float[Tensor, "entry subject"]:
        """The observations on the scale of the locations; 0 where there is none."""
        outcomes, values = self.density.batch.outcomes, {}
        for name in self.names:
            value, logarithmic = outcomes[name].value, isinstance(self.kinds[name], LogNormal)
            usable = outcomes[name].mask & ((value > 0) | (not logarithmic))
            shown = torch.where(usable, value, 1.0)
            values[name] = torch.where(usable, shown.log() if logarithmic else shown, 0.0)
        return self.stacked(values)

    def moments(self, conditional: Conditional, eta: Tensor) -> Moments:
        """Return locations and variances.

        Args:
            conditional: The model at its parameters.
            eta: ``(effect, chain, start, subject)``.

        Returns:
            Tensors ``(entry, chain, start, subject)``.
        """
        groups, solved = conditional.as_written(eta)
        locations, variances = {}, {}
        for records, distributions in groups:
            for name in records.values:
                if name not in self.names:
                    continue
                location, variance = location_variance(distributions[name])
                shape = (records.mask.shape[0], *eta.shape[1:])
                locations[name], variances[name] = location.expand(shape), variance.expand(shape)
        return Moments(self.stacked(locations), self.stacked(variances), solved.expand(eta.shape[1:]))

    def coupling(self, conditional: Conditional, eta: Float[Tensor, "effect subject"]) -> list[Coupling]:
        """Return which entries have correlated residual errors, outcome by outcome.

        Args:
            conditional: The model at its parameters.
            eta: Random effects of every subject.
        """
        batch = self.density.batch
        with torch.no_grad():
            observed, _ = conditional.observe(eta[:, None, None])
        found = []
        for name in self.names:
            kind = observed[name]
            if not isinstance(kind, Correlated) or kind.leads or kind.partner not in self.names:
                continue
            index = partners(batch, batch.outcomes[name].mask, batch.outcomes[kind.partner].mask)
            record, subject = torch.nonzero((index >= 0) & batch.outcomes[name].mask, as_tuple=True)
            rho = kind.correlation.expand(batch.n_records, 1, 1, batch.n_subjects)[:, 0, 0]
            count = len(self.names)
            found.append(
                Coupling(
                    first=record * count + self.names.index(name),
                    second=index[record, subject] * count + self.names.index(kind.partner),
                    subject=subject,
                    correlation=rho[record, subject],
                )
            )
        return found

    def slopes(self, conditional: Conditional, eta: Float[Tensor, "effect subject"]) -> Tensor:
        """Return the derivatives of the locations in the effects, ``(entry, effect, subject)``."""
        if not len(eta):
            return eta.new_zeros(self.mask.shape[0], 0, eta.shape[-1])
        with torch.enable_grad():
            copies = replicas(eta[:, None])
            location = self.moments(conditional, copies).location
            if not location.requires_grad:
                return torch.zeros_like(location[:, :, 0])
            # the derivative of a gradient in what it is weighted by: every record's at once, one replica per effect
            probe = torch.zeros_like(location).requires_grad_()
            (pulled,) = gradients(location, copies, probe, create_graph=True, materialize_grads=True)
            (slope,) = gradients(own_replica(pulled), probe, materialize_grads=True)
        return slope[:, :, 0].detach()


def location_variance(distribution: Distribution) -> tuple[Tensor, Tensor]:
    """Return mean and variance of an outcome, of its logarithm where it is log-normal."""
    base = by_itself(distribution)
    if isinstance(base, LogNormal):
        return base.loc, base.scale.square()
    return base.mean, base.variance
