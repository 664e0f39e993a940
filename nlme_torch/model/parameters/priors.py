"""Priors on parameters: any torch or pyro distribution, and the penalties L1 and L2 written as distributions."""

import math

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Distribution

from nlme_torch.errors import ModelError

Shape = torch.Size | list[int] | tuple[int, ...]


class L2(dist.Normal):
    r"""Ridge penalty ``strength * sum(w**2)`` as the normal prior it is.

    .. math:: -\log p(w) = \lambda \sum w^2 - \tfrac{n}{2} \log(\lambda / \pi),
              \qquad w \sim N(0, 1 / \sqrt{2 \lambda})

    Args:
        strength: lambda > 0, in units of one over the square of the parameter's unit.

    Raises:
        ModelError: The strength is not a positive number.

    Example:
        >>> import nlme_torch as nlme
        >>> network = nlme.MLP(2, 6, 1, prior=nlme.L2(1.0))
    """

    def __init__(self, strength: float) -> None:
        _require_positive(strength, "L2")
        self.strength = strength
        zero = torch.zeros((), dtype=torch.float64)
        super().__init__(zero, zero + 1 / math.sqrt(2 * strength))

    def expand(self, batch_shape: Shape, _instance: object = None) -> dist.Normal:
        """Return the normal distribution over a larger batch."""
        return dist.Normal(self.loc, self.scale).expand(batch_shape)

    def __repr__(self) -> str:
        return f"L2({self.strength:g})"


class L1(dist.Laplace):
    r"""Lasso penalty ``strength * sum(|w|)`` as the Laplace prior it is.

    .. math:: -\log p(w) = \lambda \sum |w| - n \log(\lambda / 2)

    Args:
        strength: lambda > 0, in units of one over the parameter's unit.

    Raises:
        ModelError: The strength is not a positive number.
    """

    def __init__(self, strength: float) -> None:
        _require_positive(strength, "L1")
        self.strength = strength
        zero = torch.zeros((), dtype=torch.float64)
        super().__init__(zero, zero + 1 / strength)

    def expand(self, batch_shape: Shape, _instance: object = None) -> dist.Laplace:
        """Return the Laplace distribution over a larger batch."""
        return dist.Laplace(self.loc, self.scale).expand(batch_shape)

    def __repr__(self) -> str:
        return f"L1({self.strength:g})"


def check_prior(prior: Distribution | None, owner: str) -> Distribution | None:
    """Return the prior as a Pyro distribution in double precision, or say what is wrong with it.

    Args:
        prior: A univariate distribution on the natural scale of the parameter, or None.
        owner: What the prior belongs to, for the message.

    Returns:
        The prior.

    Raises:
        ModelError: It is not a univariate torch or pyro distribution.
    """
    if prior is None:
        return None
    if not isinstance(prior, Distribution):
        raise ModelError(
            f"{owner}: prior must be a torch or pyro distribution, nlme.L1 or nlme.L2, not {type(prior).__name__}."
        )
    if prior.event_shape or prior.batch_shape.numel() != 1:
        raise ModelError(
            f"{owner}: prior must be univariate, it has shape {tuple(prior.batch_shape + prior.event_shape)}."
        )
    return _double_pyro(prior, owner)


def log_prior(prior: Distribution | None, natural: Tensor) -> Tensor:
    """Return the summed log prior density of a parameter for each start.

    Args:
        prior: A univariate distribution, or None for no prior.
        natural: Values on the natural scale, ``(start, *shape)``.

    Returns:
        ``(start,)``.
    """
    if prior is None:
        return natural.new_zeros(natural.shape[0])
    return prior.log_prob(natural).reshape(natural.shape[0], -1).sum(-1)


def describe_prior(prior: Distribution | None) -> str:
    """Return the prior as one short word for tables."""
    if prior is None:
        return ""
    if isinstance(prior, L1 | L2):
        return repr(prior)
    arguments = [f"{getattr(prior, name).item():g}" for name in prior.arg_constraints]
    return f"{type(prior).__name__}({', '.join(arguments)})"


def _double_pyro(prior: Distribution, owner: str) -> Distribution:
    """The same distribution with double-precision arguments, from ``pyro.distributions`` where it came from torch."""
    if isinstance(prior, L1 | L2):
        return prior
    kind = type(prior) if isinstance(prior, TorchDistributionMixin) else getattr(dist, type(prior).__name__, None)
    if kind is None:
        raise ModelError(f"{owner}: Pyro has no {type(prior).__name__}; use a prior from pyro.distributions.")
    names = [name for name in prior.arg_constraints if isinstance(getattr(prior, name), Tensor)]
    if not names or {"probs", "logits"} <= set(names):
        return prior
    return kind(**{name: getattr(prior, name).double().reshape(()) for name in names})


def _require_positive(strength: float, name: str) -> None:
    if not (math.isfinite(strength) and strength > 0):
        raise ModelError(f"{name} strength must be a positive number, got {strength}. Leave prior=None for no penalty.")
