r"""Two outcomes whose residual errors at one time are correlated: what NONMEM writes with L2.

.. math:: \begin{pmatrix} y_1 \\ y_2 \end{pmatrix} \sim N\left(\begin{pmatrix} f_1 \\ f_2 \end{pmatrix},
          \begin{pmatrix} s_1^2 & \rho s_1 s_2 \\ \rho s_1 s_2 & s_2^2 \end{pmatrix}\right), \qquad
          p(y_1, y_2) = p(y_1)\, p(y_2 \mid y_1)
"""

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, LogNormal, Normal

from nlme_torch.errors import ModelError


class Correlated(dist.TorchDistribution):
    """One of two correlated outcomes: by itself its own distribution, beside the other one a conditional.

    Args:
        base: Normal or log-normal.
        partner: Name of the other outcome.
        correlation: Of the two residuals, between -1 and 1.
        leads: Whether it is the one that is drawn first.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, base: Distribution, partner: str, correlation: Tensor, leads: bool) -> None:
        self.base, self.partner, self.correlation, self.leads = base, partner, correlation, leads
        super().__init__(base.batch_shape, torch.Size(), validate_args=False)

    @property
    def support(self) -> Any:
        """Values that can occur."""
        return self.base.support

    @property
    def mean(self) -> Tensor:
        """Mean of the outcome by itself."""
        return self.base.mean

    @property
    def variance(self) -> Tensor:
        """Variance of the outcome by itself."""
        return self.base.variance

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of the outcome by itself."""
        return self.base.log_prob(value)

    def cdf(self, value: Tensor) -> Tensor:
        """Return P(Y <= value) of the outcome by itself."""
        return self.base.cdf(value)

    def expand(self, batch_shape: Any, _instance: object = None) -> "Correlated":
        """Return the distribution with other batch axes."""
        return Correlated(self.base.expand(batch_shape), self.partner, self.correlation, self.leads)

    def given(self, residual: Tensor, there: Tensor) -> Distribution:
        """Return the distribution of the outcome given the other's residual, where there is one.

        Args:
            residual: Of the other outcome, in its standard deviations.
            there: Where it is known; elsewhere the outcome's own distribution stands.
        """
        correlation = torch.where(there, self.correlation, 0.0)
        base: Any = self.base
        kind = dist.LogNormal if isinstance(base, LogNormal) else dist.Normal
        spread = base.scale * (1 - correlation.square()).sqrt()
        return kind(
            base.loc + correlation * base.scale * torch.where(there, residual, 0.0), spread, validate_args=False
        )


class MultivariateNormal(dict[str, Distribution]):
    r"""Two outcomes with correlated residual errors, for ``observe`` to return (NONMEM's L2).

    .. math:: \operatorname{corr}\left(\frac{y_1 - f_1}{s_1}, \frac{y_2 - f_2}{s_2}\right) = \rho

    of a log-normal outcome on the log scale. Values of the two at one time of a subject belong together, whether in one
    row of the table or in two with no dose between them; where one is missing the other has its own distribution.
    Where one is censored its probability is that given the other, where both are it is that of the rectangle.

    Args:
        outcomes: Names of the two outcomes to their normal or log-normal distributions.
        correlation: Of the residuals, between -1 and 1, such as ``nlme.Bounded(0.3, -1, 1)``.

    Raises:
        ModelError: They are not two, not normal, or the correlation is not between -1 and 1.

    Example:
        >>> import torch
        >>> import pyro.distributions as dist
        >>> one, two = dist.Normal(torch.tensor(1.0), 0.1), dist.Normal(torch.tensor(5.0), 0.5)
        >>> both = MultivariateNormal({"parent": one, "metabolite": two}, correlation=0.4)
        >>> sorted(both)
        ['metabolite', 'parent']

    References:
        Beal and Sheiner, NONMEM Users Guides, Part VIII, L2 data item.
    """

    def __init__(self, outcomes: Mapping[str, Distribution], correlation: Tensor | float) -> None:
        if not isinstance(outcomes, Mapping) or len(outcomes) != 2:
            raise ModelError(
                "MultivariateNormal joins two outcomes by name; write MultivariateNormal({'one': dist.Normal(...), "
                "'other': dist.Normal(...)}, correlation=p.rho).",
                method="observe",
            )
        for name, distribution in outcomes.items():
            if not isinstance(distribution, Normal | LogNormal):
                raise ModelError(
                    f"MultivariateNormal: outcome {name!r} must be normal or log-normal, not a "
                    f"{type(distribution).__name__}.",
                    method="observe",
                )
        first, second = outcomes.values()
        like = getattr(first, "loc", None)
        rho = correlation if isinstance(correlation, Tensor) else torch.as_tensor(correlation).to(like)
        if bool((rho.detach().abs() >= 1).any()):
            raise ModelError(
                "MultivariateNormal: the correlation must lie between -1 and 1; declare it as "
                "nlme.Bounded(0.3, -1, 1).",
                method="observe",
            )
        one, other = outcomes
        super().__init__({one: Correlated(first, other, rho, True), other: Correlated(second, one, rho, False)})


def scale_free(distribution: Distribution, value: Tensor, there: Tensor) -> Tensor:
    """Return a residual in standard deviations where an outcome was observed, and 0 elsewhere.

    Args:
        distribution: Normal or log-normal; it may be undefined elsewhere.
        value: Observed values, of a log-normal outcome above 0.
        there: Where.
    """
    kind: Any = distribution
    known = value.log() if isinstance(distribution, LogNormal) else value
    return torch.where(there, known - kind.loc, 0.0) / torch.where(there, kind.scale, 1.0)
