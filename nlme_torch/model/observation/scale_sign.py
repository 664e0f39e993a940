r"""The sign of a residual standard deviation carries no meaning.

.. math:: y = f + g\,\varepsilon, \qquad \varepsilon \sim N(0, 1) \quad \Rightarrow \quad y \sim N(f, g^2)

With ``Normal(c, s * c)`` g is the product of a parameter and a prediction, and a prediction that should be zero may be
-8e-18 by rounding, or truly negative (a change from baseline). Only its square is in the likelihood, as in NONMEM,
where ``Y = F + F*EPS(1)`` has variance ``F**2 * SIGMA``. So g is read as its absolute value, for every symmetric error.
"""

import copy
from typing import Any

from torch.distributions import LogNormal, Normal, StudentT

from nlme_torch.model.observation.correlated import Correlated
from nlme_torch.model.observation.truncated import Truncated


def with_positive_scale(distribution: Any) -> Any:
    """Return the same distribution with the absolute value of its scale.

    Args:
        distribution: What ``observe`` returned for an outcome; anything but a normal, log-normal or Student
            distribution, truncated or not, is returned as it is.
    """
    if isinstance(distribution, Truncated):
        return Truncated(with_positive_scale(distribution.base), distribution.lower)
    if isinstance(distribution, Correlated):
        base = with_positive_scale(distribution.base)
        return Correlated(base, distribution.partner, distribution.correlation, distribution.leads)
    if isinstance(distribution, LogNormal):
        log_normal = copy.copy(distribution)
        log_normal.base_dist = with_positive_scale(distribution.base_dist)
        return log_normal
    if isinstance(distribution, Normal | StudentT):
        positive = copy.copy(distribution)
        positive.scale = distribution.scale.abs()
        return positive
    return distribution
