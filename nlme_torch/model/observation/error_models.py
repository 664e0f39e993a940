"""Normal and log-normal outcomes by the residual error models of the field."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from nlme_torch.model.observation.standard_normal import HALF_LOG_2PI

Number = Tensor | float


class NormalError(dist.Normal):
    """A normal distribution whose spread was computed from the prediction; the base of what follows."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density."""
        # torch squares the scale, which underflows
        z = (value - self.loc) / self.scale
        return -0.5 * z.square() - self.scale.log() - HALF_LOG_2PI

    def expand(self, batch_shape: Any, _instance: object = None) -> dist.Normal:
        """Return the normal distribution with other batch axes."""
        return NormalError(self.loc.expand(batch_shape), self.scale.expand(batch_shape))


class Additive(NormalError):
    r"""A constant residual standard deviation.

    .. math:: y = f + a\,\varepsilon, \qquad \varepsilon \sim N(0, 1)

    Args:
        prediction: f, in the outcome's unit.
        a: Standard deviation, in the outcome's unit.

    Example:
        >>> import torch
        >>> Additive(torch.tensor(5.0), torch.tensor(0.5)).stddev
        tensor(0.5000)
    """

    def __init__(self, prediction: Tensor, a: Number) -> None:
        super().__init__(prediction, a)


class Proportional(NormalError):
    r"""A residual standard deviation proportional to the prediction.

    .. math:: y = f\,(1 + b\,\varepsilon), \qquad \varepsilon \sim N(0, 1)

    Args:
        prediction: f, in the outcome's unit; not zero where something was observed.
        b: Coefficient of variation, without unit.

    Example:
        >>> import torch
        >>> Proportional(torch.tensor(5.0), torch.tensor(0.5)).stddev
        tensor(2.5000)
    """

    def __init__(self, prediction: Tensor, b: Number) -> None:
        super().__init__(prediction, b * prediction.abs())


class Combined1(NormalError):
    r"""Standard deviations of an additive and a proportional part add up.

    .. math:: y = f + (a + b\,|f|)\,\varepsilon, \qquad \varepsilon \sim N(0, 1)

    Args:
        prediction: f, in the outcome's unit.
        a: Additive standard deviation, in the outcome's unit.
        b: Coefficient of variation of the proportional part, without unit.

    Example:
        >>> import torch
        >>> Combined1(torch.tensor(5.0), torch.tensor(3.0), torch.tensor(0.8)).stddev
        tensor(7.)
    """

    def __init__(self, prediction: Tensor, a: Number, b: Number) -> None:
        super().__init__(prediction, a + b * prediction.abs())


class Combined2(NormalError):
    r"""Variances of an additive and a proportional part add up: two independent errors.

    .. math:: y = f + \sqrt{a^2 + b^2 f^2}\,\varepsilon, \qquad \varepsilon \sim N(0, 1)

    Args:
        prediction: f, in the outcome's unit.
        a: Additive standard deviation, in the outcome's unit.
        b: Coefficient of variation of the proportional part, without unit.

    Example:
        >>> import torch
        >>> Combined2(torch.tensor(5.0), torch.tensor(3.0), torch.tensor(0.8)).stddev
        tensor(5.)
    """

    def __init__(self, prediction: Tensor, a: Number, b: Number) -> None:
        super().__init__(prediction, _hypotenuse(a, b * prediction))


class PowerError(NormalError):
    r"""A residual standard deviation that grows with a power of the prediction.

    .. math:: y = f + b\,|f|^c\,\varepsilon, \qquad \varepsilon \sim N(0, 1)

    Args:
        prediction: f, in the outcome's unit; not zero where something was observed.
        b: Standard deviation where f = 1.
        exponent: c, without unit.

    Example:
        >>> import torch
        >>> PowerError(torch.tensor(4.0), torch.tensor(0.1), torch.tensor(0.5)).stddev
        tensor(0.2000)
    """

    def __init__(self, prediction: Tensor, b: Number, exponent: Number) -> None:
        super().__init__(prediction, b * prediction.abs() ** exponent)


class LogNormal(dist.LogNormal):
    r"""An exponential residual error: the outcome is positive and its median is the prediction.

    .. math:: \log y = \log f + b\,\varepsilon, \qquad \varepsilon \sim N(0, 1)

    Args:
        prediction: f, positive where something was observed, in the outcome's unit.
        b: Standard deviation of log y.

    Example:
        >>> import torch
        >>> round(LogNormal(torch.tensor(5.0), torch.tensor(0.5)).icdf(torch.tensor(0.5)).item(), 4)
        5.0
    """

    def __init__(self, prediction: Tensor, b: Number) -> None:
        super().__init__(prediction.log(), b)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density."""
        logarithm = value.log()
        z = (logarithm - self.loc) / self.scale
        return -0.5 * z.square() - self.scale.log() - logarithm - HALF_LOG_2PI

    def expand(self, batch_shape: Any, _instance: object = None) -> dist.LogNormal:
        """Return the log-normal distribution with other batch axes."""
        return dist.LogNormal(*torch.broadcast_tensors(self.loc, self.scale)).expand(batch_shape)


def _hypotenuse(a: Number, b: Tensor) -> Tensor:
    return torch.hypot(*torch.broadcast_tensors(torch.as_tensor(a).to(b), b))
