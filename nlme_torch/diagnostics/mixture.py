r"""A distribution averaged over draws of the random effects, at one record of one subject.

.. math:: p(y) = \frac{1}{S} \sum_{s=1}^{S} p(y \mid \eta_s, \theta)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from nlme_torch._typing import Bool, Float
from nlme_torch.model.density import Conditional

_CHUNK = 2_000_000


@dataclass(frozen=True)
class Mixture:
    """An equally weighted mixture of one outcome's distributions over draws.

    Attributes:
        distribution: Over ``(record, draw, 1, 1)``, or anything that broadcasts to it.
        record: Which record is meant.
        kept: ``(draw,)``, False for draws whose equation could not be solved.
    """

    distribution: Distribution
    record: int
    kept: Bool[Tensor, "draw"]

    @property
    def discrete(self) -> bool:
        """Whether the outcome takes integer values."""
        return bool(getattr(self.distribution.support, "is_discrete", False))

    def log_components(self, values: Float[Tensor, "point"]) -> Float[Tensor, "point draw"]:
        """Return every component's log density (log mass), -inf outside the support."""
        rows = []
        for chunk in values.split(max(1, _CHUNK // max(1, self.distribution.batch_shape.numel()))):
            column = chunk.reshape(-1, 1, 1, 1, 1)
            support = self.distribution.support
            inside = torch.ones_like(column, dtype=torch.bool) if support is None else support.check(column)
            with unchecked():
                log_prob = self.distribution.log_prob(column)
            rows.append(torch.where(self._pick(inside), self._pick(log_prob), -torch.inf))
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

    def cumulative(self, value: Float[Tensor, ""], grid: Float[Tensor, "point"]) -> float:
        """Return P(Y <= value), or P(Y < value) + P(Y = value) / 2 where discrete.

        Args:
            value: The datum [outcome's unit].
            grid: Increasing values that cover the mixture, for distributions without a cdf of their own.
        """
        density = self.density(grid)
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
        """Take the record and the draws kept from ``(*, record, draw, 1, 1)``, giving ``(*, draw)``."""
        batch = torch.broadcast_shapes(self.distribution.batch_shape, (1, len(self.kept), 1, 1))
        leading = values.shape[: max(values.dim() - 4, 0)]
        record = self.record if batch[0] > 1 else 0
        return values.expand(*leading, *batch)[..., record, :, 0, 0][..., self.kept]


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
    observed, solved = conditional.observe(eta)
    return Mixture(observed[outcome], record, solved.expand(eta.shape[1:])[:, 0, 0])


@contextmanager
def unchecked() -> Iterator[None]:
    """Let distributions take any arguments for a while: one extreme draw must not stop all the others."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
