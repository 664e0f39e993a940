"""Distributions of observed outcomes, by the names of the field; ``observe`` may return any of them, or Pyro's own."""

import warnings
from typing import TYPE_CHECKING

from nlme_torch.model.observation.binary import Bernoulli as Bernoulli
from nlme_torch.model.observation.binary import Binomial as Binomial
from nlme_torch.model.observation.censored import Censored as Censored
from nlme_torch.model.observation.correlated import Correlated as Correlated
from nlme_torch.model.observation.correlated import MultivariateNormal as MultivariateNormal
from nlme_torch.model.observation.counts import NegativeBinomial as NegativeBinomial
from nlme_torch.model.observation.counts import Poisson as Poisson
from nlme_torch.model.observation.error_models import Additive as Additive
from nlme_torch.model.observation.error_models import Combined1 as Combined1
from nlme_torch.model.observation.error_models import Combined2 as Combined2
from nlme_torch.model.observation.error_models import LogNormal as LogNormal
from nlme_torch.model.observation.error_models import PowerError as PowerError
from nlme_torch.model.observation.error_models import Proportional as Proportional
from nlme_torch.model.observation.ordered import OrderedCategorical as OrderedCategorical
from nlme_torch.model.observation.scale_sign import with_positive_scale as with_positive_scale
from nlme_torch.model.observation.student import StudentT as StudentT
from nlme_torch.model.observation.time_to_event import IntervalCensoredEvent as IntervalCensoredEvent
from nlme_torch.model.observation.time_to_event import TimeToEvent as TimeToEvent
from nlme_torch.model.observation.truncated import Truncated as Truncated

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Find what had another name before."""
        if name == "Power":
            warnings.warn(
                "nlme_torch.observation.Power is PowerError now; nlme_torch.Power is the effect of a covariate.",
                DeprecationWarning,
                stacklevel=2,
            )
            return PowerError
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
