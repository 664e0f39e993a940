"""Blocks of random effects: which effects covary, what they are called, and where they stand in the effect vector."""

from dataclasses import dataclass, field
from typing import Literal

from nlme_torch.errors import ModelError
from nlme_torch.model.covariance import Covariance, Structure


@dataclass(frozen=True)
class Omega:
    """Declares that the effects of some individual parameters covary.

    Args:
        *parameters: Attribute names of individual parameters.
        structure: ``"full"`` or ``"diagonal"``, or a structure such as ``Full(0.2)`` or ``Fixed(0.1)``.

    Raises:
        ModelError: No parameter is named, one is named twice, or the structure is unknown.

    Example:
        >>> import nlme_torch as nlme
        >>> nlme.Omega("ka", "vc", structure="full").parameters
        ('ka', 'vc')
    """

    parameters: tuple[str, ...]
    structure: Structure | Literal["full", "diagonal"] = "full"

    def __init__(self, *parameters: str, structure: Structure | Literal["full", "diagonal"] = "full") -> None:
        if not parameters or len(set(parameters)) < len(parameters):
            raise ModelError(f"Omega needs different individual parameters, got {parameters}.")
        if structure not in ("full", "diagonal") and not isinstance(structure, Structure):
            raise ModelError(
                f"Omega: unknown structure {structure!r}; choose 'full', 'diagonal', or one of Full, Diagonal, "
                "Scalar, Fixed."
            )
        object.__setattr__(self, "parameters", parameters)
        object.__setattr__(self, "structure", structure)

    def resolve(self) -> Structure | None:
        """Return the structure object, or None where initial variances come from the parameters."""
        return None if isinstance(self.structure, str) else self.structure


@dataclass(frozen=True)
class RandomEffectBlock:
    """Random effects that share one covariance matrix.

    Attributes:
        name: Name of the block, also its Pyro site without the prefix ``eta_``.
        labels: One label per effect.
        start: Position of the first effect in the effect vector.
        owners: Attribute names of what the effects belong to, in order.
        kind: ``individual`` (of individual parameters), ``weights``, ``occasion`` (of one individual parameter, one
            effect for each occasion) or ``standard`` (latent, low-rank).
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
