"""Blocks of random effects: which effects covary, what they are called, and where they stand in the effect vector."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from nlme_torch.errors import ModelError
from nlme_torch.model.random_effects.covariance import (
    Covariance,
    DiagonalCovariance,
    FullCovariance,
    RepeatedCovariance,
    Structure,
)


@dataclass(frozen=True)
class Omega:
    """Declares that the effects of some individual parameters covary.

    Args:
        *parameters: Attribute names of individual parameters.
        structure: ``"full"`` or ``"diagonal"``, or a structure such as ``Full(0.2)``, ``Full([[0.1], [0.02, 0.2]])`` or
            ``Fixed(0.1)``.
        occasions: Whether it is the variation between occasions that covaries: one matrix for every occasion, NONMEM's
            ``BLOCK(n) SAME``.

    Raises:
        ModelError: No parameter is named, one is named twice, or the structure is unknown.

    Example:
        >>> import nlme_torch as nlme
        >>> nlme.Omega("ka", "vc", structure="full").parameters
        ('ka', 'vc')
        >>> between = nlme.Omega("ka", "vc", structure="full", occasions=True)
    """

    parameters: tuple[str, ...]
    structure: Structure | Literal["full", "diagonal"] = "full"
    occasions: bool = False

    def __init__(
        self,
        *parameters: str,
        structure: Structure | Literal["full", "diagonal"] = "full",
        occasions: bool = False,
    ) -> None:
        if not parameters or len(set(parameters)) < len(parameters):
            raise ModelError(f"Omega needs different individual parameters, got {parameters}.")
        if not isinstance(structure, Structure) and structure not in ("full", "diagonal"):
            raise ModelError(
                f"Omega: unknown structure {structure!r}; choose 'full', 'diagonal', or one of Full, Diagonal, "
                "Scalar, Fixed."
            )
        object.__setattr__(self, "parameters", parameters)
        object.__setattr__(self, "structure", structure)
        object.__setattr__(self, "occasions", occasions)

    def build(self, variances: Tensor) -> Covariance:
        """Return the covariance module.

        Args:
            variances: Initial variances of the parameters, ``(effect,)``, where the structure does not give them.
        """
        if not isinstance(self.structure, str):
            return self.structure.build(len(self.parameters))
        return FullCovariance(torch.diag(variances)) if self.structure == "full" else DiagonalCovariance(variances)


Slice = slice  # the name is taken within the class


@dataclass(frozen=True)
class RandomEffectBlock:
    """Random effects that share one covariance matrix.

    Attributes:
        name: Name of the block, also its Pyro site without the prefix ``eta_``.
        labels: One label per effect.
        start: Position of the first effect in the effect vector.
        owners: Attribute names of what the effects belong to, in order.
        kind: ``individual`` (of individual parameters), ``weights``, ``occasion`` (of individual parameters, the
            effects of one occasion together) or ``standard`` (latent, low-rank).
        covariance: The covariance module; None for standard normal effects.
    """

    name: str
    labels: tuple[str, ...]
    start: int
    owners: tuple[str, ...]
    kind: Literal["individual", "weights", "occasion", "standard"]
    covariance: Covariance | None = field(repr=False)

    @property
    def size(self) -> int:
        """Number of effects."""
        return len(self.labels)

    @property
    def stop(self) -> int:
        """Position after the last effect."""
        return self.start + self.size

    @property
    def slice(self) -> slice:
        """Where the block stands in the effect vector."""
        return slice(self.start, self.stop)

    @property
    def repeats(self) -> bool:
        """Whether one matrix of several owners holds for every occasion."""
        return isinstance(self.covariance, RepeatedCovariance)

    @property
    def distinct(self) -> Covariance | None:
        """The covariance module of the entries that differ: of one occasion where it is the same for all."""
        return self.covariance.inner if isinstance(self.covariance, RepeatedCovariance) else self.covariance

    @property
    def distinct_names(self) -> tuple[str, ...]:
        """What the rows of :attr:`distinct` act on."""
        if self.repeats:
            return tuple(f"{owner}_occasion" for owner in self.owners)
        return tuple(label.removeprefix("eta_") for label in self.labels)

    def slice_of(self, owner: str) -> "Slice":
        """Where the effects of one owner stand in the effect vector, if every owner has as many."""
        return Slice(self.start + self.owners.index(owner), self.stop, len(self.owners))
