"""How far a search may carry what is searched as a logarithm: beyond, nothing but numbers without meaning is left."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.inference.estimates.free_scalars import raw_labels
from nlme_torch.inference.marginal.approximation import Approximation
from nlme_torch.model.declare.raw_parameters import RawParameter, Role, raw_parameters
from nlme_torch.model.parameters.individual_parameters import IndividualParameter
from nlme_torch.model.parameters.parameters import PopulationParameter
from nlme_torch.model.parameters.transforms import Log

FURTHEST = 60.0
"""Change of a logarithm, a factor of 1e26, that no unit of measurement explains."""

MARGIN = 30.0
"""How much earlier, at a factor of 1e13, a search is said to run away that is stopped there by jumps and kinks."""

SLOPE = 0.01
"""Fall of -2 log-likelihood per unit of a logarithm from which it is said to fall without end."""


class Furthest(NamedTuple):
    """Bounds of a search on the estimation scale; infinite for what is no logarithm.

    Attributes:
        lower: ``(parameter,)``.
        upper: ``(parameter,)``.
        labels: Names of the parameters.
    """

    lower: Float[Tensor, "parameter"]
    upper: Float[Tensor, "parameter"]
    labels: tuple[str, ...]

    def inside(self, vector: Float[Tensor, "parameter"]) -> Float[Tensor, "parameter"]:
        """Return the nearest vector within the bounds."""
        return vector.clamp(self.lower, self.upper)

    def outward(
        self, vector: Float[Tensor, "parameter"], slope: Float[Tensor, "parameter"], margin: float = 0.0
    ) -> Float[Tensor, "parameter"]:
        """Return where the objective still falls towards the end of an entry that stands there: -1, 1, and 0 elsewhere.

        Args:
            vector: Where.
            slope: Gradient there.
            margin: How far within the bounds an entry is taken to stand there.
        """
        down = (vector <= self.lower + margin) & (slope > SLOPE)
        return ((vector >= self.upper - margin) & (slope < -SLOPE)).to(vector) - down.to(vector)

    def described(self, outward: Float[Tensor, "parameter"]) -> str:
        """Say which parameters run where."""
        ends = {-1.0: "0", 1.0: "infinity"}
        pairs = zip(self.labels, outward.tolist(), strict=True)
        return " and ".join(f"{label} runs to {ends[sign]}" for label, sign in pairs if sign)


def furthest(approximation: Approximation, initial: Float[Tensor, "parameter"]) -> Furthest:
    """Return how far a search from initial values may go.

    Args:
        approximation: Joined to the model whose parameters are searched.
        initial: Where it begins.
    """
    model = approximation.density.model
    counts = [model.get_parameter(name).numel() for name in approximation.names]
    table = raw_parameters(model)
    logs = [_is_logarithm(model.components, name, table[name]) for name in approximation.names]
    entries = [log for log, count in zip(logs, counts, strict=True) for _ in range(count)]
    room = torch.where(torch.tensor(entries, dtype=torch.bool, device=initial.device), FURTHEST, torch.inf).to(initial)
    return Furthest(initial - room, initial + room, tuple(raw_labels(model, approximation.names)))


def _is_logarithm(components: Mapping[str, object], name: str, raw: RawParameter) -> bool:
    """Whether a raw parameter is the logarithm of what it stands for."""
    if raw.role is Role.OMEGA:
        return name.endswith(".log_sd")
    component = components[raw.owner] if raw.role in (Role.POPULATION, Role.TYPICAL) else None
    return isinstance(component, IndividualParameter | PopulationParameter) and isinstance(component.transform, Log)
