r"""The standard normal distribution far out in its tails, with every derivative.

.. math:: M(z) = \frac{1 - \Phi(z)}{\varphi(z)}, \qquad
    M(z) \sim \frac1z \left(1 - \frac{1}{z^2} + \frac{1 \cdot 3}{z^4} - \frac{1 \cdot 3 \cdot 5}{z^6} + \dots\right)

Mills' ratio M carries what is left when the density is taken out, so that ratios of tail probabilities keep their
digits. Autograd's own derivatives of ``log_ndtr`` lose all of them at z = -1e8.

References:
    Abramowitz and Stegun (1964), Handbook of Mathematical Functions, 26.2.12.
"""

import math

import torch
from torch import Tensor
from torch.special import erfcx, log_ndtr

from nlme_torch.model.observation.logarithms import horner

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
FAR = 16.0
"""From here on twelve terms of the asymptotic series are exact to rounding."""

_SERIES = tuple((-1.0) ** n * math.prod(range(1, 2 * n, 2)) for n in range(13))


class StandardNormal:
    """Densities and tail probabilities of N(0, 1)."""

    def log_density(self, z: Tensor) -> Tensor:
        """Return the log density."""
        return -0.5 * z.square() - HALF_LOG_2PI

    def log_density_ratio(self, step: Tensor, reference: Tensor) -> Tensor:
        """Return log density a step above a reference less that at the reference."""
        return -0.5 * step * (2 * reference + step)

    def curvature(self, z: Tensor) -> Tensor:
        """Return the square of the rate at which the density changes about z."""
        return z.square() + 1

    def log_mills(self, z: Tensor) -> Tensor:
        """Return the log of Mills' ratio at z >= 0."""
        far = z > FAR
        near, away = torch.where(far, 0.0, z), torch.where(far, z, FAR)
        asymptotic = horner(_SERIES, away.reciprocal().square()).log() - away.log()
        return torch.where(far, asymptotic, erfcx(near / math.sqrt(2)).log() + 0.5 * math.log(math.pi / 2))

    def log_sf(self, z: Tensor) -> Tensor:
        """Return log P(Z > z)."""
        upper = z > 0
        above, below = torch.where(upper, z, 0.0), torch.where(upper, 0.0, z)
        # below -35 the logarithm is zero to rounding, and so are its derivatives
        return torch.where(upper, self.log_mills(above) + self.log_density(above), log_ndtr(-below.clamp_min(-35.0)))
