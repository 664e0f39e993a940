"""Population parameters: numbers that every subject shares."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from nlme_torch.errors import ModelError
from nlme_torch.model.parameters.priors import check_prior, log_prior
from nlme_torch.model.parameters.transforms import Identity, Log, Logit, Transform


class PopulationParameter(nn.Module):
    """A scalar without random effect, kept as an unconstrained number; subclasses fix its range.

    Args:
        value: Initial value on the natural scale, in the parameter's own unit.
        transform: Map from the estimation scale to the natural scale.
        prior: Univariate distribution of the natural value, or None.
        fixed: Keep the value: it is not estimated.

    Raises:
        ModelError: The initial value lies outside the parameter's range.
    """

    def __init__(self, value: float, transform: Transform, prior: Distribution | None, fixed: bool) -> None:
        super().__init__()
        name = type(self).__name__
        if not transform.contains(value):
            raise ModelError(f"{name}({value}): the initial value must be {transform}.")
        self.transform = transform
        self.prior = check_prior(prior, name)
        initial = transform.inverse(torch.tensor(float(value), dtype=torch.float64))
        self.unconstrained = nn.Parameter(initial, requires_grad=not fixed)

    @property
    def fixed(self) -> bool:
        """Whether the parameter keeps its value."""
        return not self.unconstrained.requires_grad

    @property
    def value(self) -> Tensor:
        """Current value on the natural scale, a 0-d tensor."""
        return self.transform.forward(self.unconstrained.detach())

    def natural(self, unconstrained: Tensor) -> Tensor:
        """Map values ``(start,)`` from the estimation to the natural scale."""
        return self.transform.forward(unconstrained)

    def log_prior(self, unconstrained: Tensor) -> Tensor:
        """Return the log prior density of the natural value, ``(start,)``."""
        return log_prior(self.prior, self.natural(unconstrained))

    def extra_repr(self) -> str:
        """Show the current value in the module's printed form."""
        return f"{self.value.item():g}, range={self.transform}" + (", fixed" if self.fixed else "")


class Real(PopulationParameter):
    """A population parameter that may take any value.

    Args:
        value: Initial value, natural unit.
        prior: Univariate distribution of the value, or None.
        fixed: Keep the value.
    """

    def __init__(self, value: float, *, prior: Distribution | None = None, fixed: bool = False) -> None:
        super().__init__(value, Identity(), prior, fixed)


class Positive(PopulationParameter):
    """A positive population parameter, estimated on the log scale.

    Args:
        value: Initial value > 0, natural unit.
        prior: Univariate distribution of the value (natural scale), or None.
        fixed: Keep the value.

    Example:
        >>> import nlme_torch as nlme
        >>> nlme.Positive(0.5).value.item()
        0.5
    """

    def __init__(self, value: float, *, prior: Distribution | None = None, fixed: bool = False) -> None:
        super().__init__(value, Log(), prior, fixed)


class Bounded(PopulationParameter):
    """A population parameter between two bounds, estimated on the logit scale.

    Args:
        value: Initial value, natural unit, strictly inside the bounds.
        lower: Lower bound.
        upper: Upper bound.
        prior: Univariate distribution of the value (natural scale), or None.
        fixed: Keep the value.
    """

    def __init__(
        self, value: float, lower: float, upper: float, *, prior: Distribution | None = None, fixed: bool = False
    ) -> None:
        super().__init__(value, Logit(lower, upper), prior, fixed)
