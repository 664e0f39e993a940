"""The bridge between the axes of the library and those of Pyro's plates."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

Shape = torch.Size | list[int] | tuple[int, ...]


class PlateLayout(dist.TorchDistribution):
    """A distribution over ``(record, 1, particle, subject)`` as Pyro sees it: ``(*particles, record, subject)``.

    Pyro's vectorised particles stand on the library's ``start`` axis, because each may have its own parameters.

    Args:
        base: Distribution that broadcasts to ``(record, 1, particle, subject)``.
        particles: Shape of Pyro's particle axes, ``()`` without any.
        records: Number of records.
        subjects: Number of subjects.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, base: Distribution, particles: torch.Size, records: int, subjects: int) -> None:
        self.base = base.expand(torch.Size((records, 1, math.prod(particles), subjects)))
        self.particles = particles
        super().__init__(torch.Size((*particles, records, subjects)), torch.Size(), validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws carry gradients."""
        return self.base.has_rsample

    @property
    def support(self) -> Any:
        """Values that can occur."""
        return self.base.support

    @property
    def mean(self) -> Tensor:
        """Expectation, ``(*particles, record, subject)``."""
        return self._outward(self.base.mean)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of values that broadcast to ``(*particles, record, subject)``."""
        records, subjects = self.batch_shape[-2:]
        inward = value.expand(self.batch_shape).reshape(-1, records, subjects).movedim(0, 1)[:, None]
        return self._outward(self.base.log_prob(inward))

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw values, ``(*sample_shape, *particles, record, subject)``."""
        return self._outward(self.base.sample(torch.Size(sample_shape)))

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw values with gradients, ``(*sample_shape, *particles, record, subject)``."""
        return self._outward(self.base.rsample(torch.Size(sample_shape)))

    def expand(self, batch_shape: Shape, _instance: object = None) -> "PlateLayout":
        """Return the distribution with more particles."""
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        return PlateLayout(self.base, torch.Size(batch_shape[:-2]), *batch_shape[-2:])

    def _outward(self, value: Tensor) -> Tensor:
        flat = value.squeeze(-3).transpose(-3, -2)
        return flat.reshape(*flat.shape[:-3], *self.particles, *flat.shape[-2:])
