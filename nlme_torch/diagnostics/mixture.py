r"""A distribution averaged over draws of the random effects, at one record of one subject.

.. math:: p(y) = \frac{1}{S} \sum_{s=1}^{S} p(y \mid \eta_s, \theta)
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from nlme_torch._typing import Bool, Float
from nlme_torch.model.density.density import Conditional
from nlme_torch.model.individual.individual import Individual, at_records
from nlme_torch.model.observation import with_positive_scale
from nlme_torch.model.observation.unchecked import unchecked

_CHUNK = 2_000_000
"""Numbers held at once, 16 MB."""


@dataclass(frozen=True)
class Mixture:
    """An equally weighted mixture of one outcome's distributions over draws.

    Attributes:
        distribution: Over ``(1, draw, 1, 1)``, or anything that broadcasts to it.
        kept: ``(draw,)``, False for draws whose equation could not be solved.
    """

    distribution: Distribution
    kept: Bool[Tensor, "draw"]

    @property
    def discrete(self) -> bool:
        """Whether the outcome takes integer values."""
        return bool(getattr(self.distribution.support, "is_discrete", False))

    def log_components(self, values: Float[Tensor, "point"]) -> Float[Tensor, "point draw"]:
        """Return every component's log density (log mass), -inf outside the support."""
        rows, support = [], self.distribution.support
        for chunk in values.split(max(1, _CHUNK // max(1, len(self.kept)))):
            column = chunk.reshape(-1, 1, 1, 1, 1)
            with unchecked():
                log_prob = self._pick(self.distribution.log_prob(column))
            rows.append(
                log_prob if support is None else torch.where(self._pick(support.check(column)), log_prob, -torch.inf)
            )
        return torch.cat(rows)

    def density(self, values: Float[Tensor, "point"]) -> Float[Tensor, "point"]:
        """Return the mixture's density (mass, where discrete), in units of 1 / outcome."""
        return self.log_components(values).exp().nanmean(1)

    def span(self, deviations: float = 5.0, points: int = 21) -> Float[Tensor, "point"]:
        """Return sorted values spread over every component, ``deviations`` standard deviations either way."""
        mean, sd = self._pick(self.distribution.mean), self._pick(self.distribution.stddev)
        steps = torch.linspace(-deviations, deviations, points, dtype=mean.dtype, device=mean.device)
        values = (mean + steps[:, None] * sd).reshape(-1)
        return values[torch.isfinite(values)].sort().values

    def bounds(self) -> list[float]:
        """Return the finite ends of the support, where all components have the same."""
        ends = (getattr(self.distribution.support, f"{side}_bound", None) for side in ("lower", "upper"))
        return [float(end) for end in ends if isinstance(end, float | int) and abs(end) < float("inf")]

    def supports(self, values: Float[Tensor, "point"]) -> Bool[Tensor, "point"]:
        """Say which values any component allows."""
        support = self.distribution.support
        column = values.reshape(-1, 1, 1, 1, 1)
        inside = torch.ones_like(column, dtype=torch.bool) if support is None else support.check(column)
        return self._pick(inside).any(1)

    def cumulative(
        self, value: Float[Tensor, ""], grid: Float[Tensor, "point"], density: Float[Tensor, "point"]
    ) -> float:
        """Return P(Y <= value), or P(Y < value) + P(Y = value) / 2 where discrete.

        Args:
            value: The datum [outcome's unit].
            grid: Values that cover the mixture and hold the datum, increasing.
            density: The mixture's density on the grid.
        """
        if self.discrete:
            below = density[grid < value].sum() + 0.5 * density[grid == value].sum()
            return float(below / density.sum())
        try:
            with unchecked():
                return float(self._pick(self.distribution.cdf(value.reshape(1, 1, 1, 1))).nanmean())
        except NotImplementedError:
            part = grid <= value
            return float(torch.trapezoid(density[part], grid[part]) / torch.trapezoid(density, grid))

    def _pick(self, values: Tensor) -> Tensor:
        """Take the draws kept from ``(*, 1, draw, 1, 1)``, giving ``(*, draw)``."""
        leading = values.shape[: max(values.dim() - 4, 0)]
        return values.expand(*leading, 1, len(self.kept), 1, 1)[..., 0, :, 0, 0][..., self.kept]


def observation_mixture(
    conditional: Conditional, eta: Float[Tensor, "effect draw 1 1"], outcome: str, record: int
) -> Mixture:
    """Return the distribution of one outcome of a single subject at one record, averaged over random effects.

    Args:
        conditional: Densities at the parameters, of a batch with one subject.
        eta: Draws of its random effects.
        outcome: Name of the outcome.
        record: Position of the record.
    """
    density, model = conditional.density, conditional.density.model
    here = slice(record, record + 1)
    times = density.batch.times[here, None, None]
    with unchecked():
        individual = conditional.individual(eta)
        there = Individual(at_records(vars(individual), lambda value: value[here]))
        if model.has_dynamics:
            states, solved = conditional.predict(individual, eta)
            prediction = model.state_tuple()(*(state[here] for state in states))
        else:
            covariates = density.covariates(lambda value: value[here])
            prediction = model.predict(times, there, covariates)
            solved = torch.ones_like(eta[0], dtype=torch.bool)
        observed = model.observe(times, prediction, there)
    return Mixture(with_positive_scale(observed[outcome]), solved.expand(eta.shape[1:])[:, 0, 0])
