"""Transforms between the estimation scale, on which every number is allowed, and the natural scale.

Those of ``torch.distributions.transforms`` are not taken: ``SigmoidTransform`` clips its result, and the argument of
its inverse, to within rounding of the bounds, where the derivative of a clipped number is 0 and a search stands still;
``ExpTransform`` is ``exp`` and ``log`` as here.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from nlme_torch.errors import ModelError


class Transform(ABC):
    """A monotone map from the real line (estimation scale) onto the natural scale of a parameter."""

    @abstractmethod
    def forward(self, unconstrained: Tensor) -> Tensor:
        """Map estimation scale to natural scale, elementwise."""

    @abstractmethod
    def inverse(self, natural: Tensor) -> Tensor:
        """Map natural scale to estimation scale, elementwise."""

    @abstractmethod
    def contains(self, natural: float) -> bool:
        """Say whether a natural value lies strictly inside the range of the transform."""

    @abstractmethod
    def __str__(self) -> str:
        """Name of the natural range as printed in summaries."""


@dataclass(frozen=True)
class Identity(Transform):
    """x -> x: any real number."""

    def forward(self, unconstrained: Tensor) -> Tensor:
        """Return the argument."""
        return unconstrained

    def inverse(self, natural: Tensor) -> Tensor:
        """Return the argument."""
        return natural

    def contains(self, natural: float) -> bool:
        """Accept every finite number."""
        return math.isfinite(natural)

    def __str__(self) -> str:
        return "real"


@dataclass(frozen=True)
class Log(Transform):
    """x -> exp(x): positive numbers."""

    def forward(self, unconstrained: Tensor) -> Tensor:
        """Return ``exp(x)``."""
        return unconstrained.exp()

    def inverse(self, natural: Tensor) -> Tensor:
        """Return ``log(x)``."""
        return natural.log()

    def contains(self, natural: float) -> bool:
        """Accept finite numbers above zero."""
        return math.isfinite(natural) and natural > 0

    def __str__(self) -> str:
        return "positive"


@dataclass(frozen=True)
class Logit(Transform):
    """x -> lower + (upper - lower) / (1 + exp(-x)): numbers strictly between two bounds.

    Args:
        lower: Lower bound, natural scale.
        upper: Upper bound, natural scale.
    """

    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise ModelError(f"bounds must be ordered: lower = {self.lower} is not below upper = {self.upper}.")

    def forward(self, unconstrained: Tensor) -> Tensor:
        """Return ``lower + (upper - lower) sigmoid(x)``."""
        return self.lower + (self.upper - self.lower) * torch.sigmoid(unconstrained)

    def inverse(self, natural: Tensor) -> Tensor:
        """Return ``logit((x - lower) / (upper - lower))``."""
        return torch.logit((natural - self.lower) / (self.upper - self.lower))

    def contains(self, natural: float) -> bool:
        """Accept numbers strictly between the bounds."""
        return self.lower < natural < self.upper

    def __str__(self) -> str:
        return f"({self.lower:g}, {self.upper:g})"
