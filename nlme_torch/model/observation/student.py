"""Student's t distribution around a prediction, for outcomes with outliers."""

from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from nlme_torch.model.observation.gamma_functions import LARGE, log_gamma, log_gamma_ratio
from nlme_torch.model.observation.logarithms import mean_log1p
from nlme_torch.model.observation.standard_normal import HALF_LOG_2PI

Number = Tensor | float


class StudentT(dist.StudentT):
    r"""A prediction with an error of heavy tails.

    .. math:: y = f + s\,t_\nu

    Args:
        prediction: f, in the outcome's unit.
        scale: s, in the outcome's unit; the standard deviation is ``s sqrt(df / (df - 2))``.
        df: Degrees of freedom, positive.

    Example:
        >>> import torch
        >>> StudentT(torch.tensor(5.0), torch.tensor(0.5), 4.0).mean
        tensor(5.)
    """

    def __init__(self, prediction: Tensor, scale: Number, df: Number) -> None:
        super().__init__(df, prediction, scale)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density."""
        return StandardStudent(self.df).log_density((value - self.loc) / self.scale) - self.scale.log()

    def expand(self, batch_shape: Any, _instance: object = None) -> "StudentT":
        """Return the distribution with other batch axes."""
        return StudentT(self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.df.expand(batch_shape))


class StandardStudent:
    r"""Densities and tail probabilities of Student's t, towards the normal ones as nu grows.

    .. math::
        p(t) = \frac{c(\nu)}{\sqrt{2\pi}} \left(1 + \frac{t^2}{\nu}\right)^{-(\nu + 1) / 2}, \qquad
        c(\nu) = \frac{\Gamma((\nu + 1)/2)}{\sqrt{\nu/2}\,\Gamma(\nu/2)}

    .. math::
        \frac{P(T > z)}{p(z)} = \left(1 + \frac{z^2}{\nu}\right)
        \int_0^\infty \frac{e^{-u}\,du}{\sqrt{z^2 + \nu\,(1 - e^{-2u/\nu})}}

    The integral, over the logarithm of what the tail falls by, is taken by Gauss-Legendre quadrature over the square
    root of u; near the centre the density itself is integrated from 0 to z.

    Args:
        df: nu, positive.
    """

    def __init__(self, df: Tensor) -> None:
        self.df = df
        large = df >= 2 * LARGE
        many, few = torch.where(large, df, 2 * LARGE), torch.where(large, 1.0, df) / 2
        direct = log_gamma(few + 0.5) - log_gamma(few + 1) + 0.5 * few.log()
        self._log_constant = torch.where(large, log_gamma_ratio(2 / many, 0.5), direct) - HALF_LOG_2PI

    def log_density(self, z: Tensor) -> Tensor:
        """Return the log density."""
        square = z.square()
        return self._log_constant - 0.5 * (1 + 1 / self.df) * square * mean_log1p(square / self.df)

    def log_density_ratio(self, step: Tensor, reference: Tensor) -> Tensor:
        """Return log density a step above a reference less that at the reference."""
        base = self.df + reference.square()
        rise = step * (2 * reference + step) / base
        return -0.5 * (self.df + 1) * rise * mean_log1p(rise)

    def curvature(self, z: Tensor) -> Tensor:
        """Return the square of the rate at which the density changes about z."""
        width = self.df + z.square()
        return (self.df + 1) / width * (1 + (self.df + 1) * z.square() / width)

    def log_mills(self, z: Tensor) -> Tensor:
        """Return log P(T > z) less the log density, at z >= 0."""
        far = z > 1.0
        near, away = torch.where(far, 0.0, z), torch.where(far, z, 1.0)
        return torch.where(far, self._log_tail(away), self._log_centre(near) - self.log_density(near))

    def log_sf(self, z: Tensor) -> Tensor:
        """Return log P(T > z)."""
        absolute = z.abs()
        tail = self.log_mills(absolute) + self.log_density(absolute)
        lower = z < 0
        return torch.where(lower, torch.log1p(-torch.where(lower, tail, -1.0).exp()), tail)

    def _log_tail(self, z: Tensor) -> Tensor:
        """Log P(T > z) less the log density, at z >= 1."""
        node, weight = _legendre(64, 6.5, z)
        fallen = node.square()
        root = z.square() - self.df * torch.expm1(-2 * fallen / self.df)
        integral = (2 * weight * node * torch.exp(-fallen) / root.sqrt()).sum(0)
        return torch.log1p(z.square() / self.df) + integral.log()

    def _log_centre(self, z: Tensor) -> Tensor:
        """Log P(T > z) for 0 <= z <= 1."""
        node, weight = _legendre(40, 1.0, z)
        return torch.log(0.5 - z * (weight * self.log_density(node * z).exp()).sum(0))


def _legendre(count: int, end: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss-Legendre quadrature from 0 to an end, on a new first axis."""
    node, weight = np.polynomial.legendre.leggauss(count)
    shape = (-1, *(1,) * like.dim())
    pair = (0.5 * end * (node + 1), 0.5 * end * weight)
    return tuple(torch.as_tensor(x).to(like).reshape(shape) for x in pair)  # type: ignore[return-value]
