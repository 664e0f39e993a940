"""Which of several ends of a search counts."""

import math

from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.marginal.singular_hessian import SINGULAR
from nlme_torch.inference.optimise.minimisers import Minimum


def rank(found: Minimum) -> tuple[bool, float, int]:
    """What makes one end of a search better than another: the objective, and among equals the proof of a maximum.

    Where the likelihood grows without end its value is no achievement. Where it levels off it is, and no other point
    that is as high is the maximum. Where Laplace's approximation ends it overrates
    a subject, by no more than the logarithm of the eigenvalue at which a search is stopped.

    Args:
        found: Where it ended.
    """
    overrated = -math.log(SINGULAR) if found.status is Status.SINGULAR else 0.0
    value = round(found.iterate.value + overrated, 2)
    endless = found.status is Status.UNBOUNDED and not found.levels_off
    return endless, value, 0 if found.levels_off else 2 - found.converged
