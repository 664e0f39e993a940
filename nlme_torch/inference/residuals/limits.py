"""Limits of quantification at every record: below, or above, which an observation would have been censored.

A censored record carries its limit. What the limit was at a record that is not censored is not in the data: it is
taken from the subject's own censored records if they agree, else from the commonest limit of the outcome, and never
lies on the wrong side of what was observed.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.data.records.batch import Outcome


class Limits(NamedTuple):
    """Limits of quantification, ``(record, subject)``, in the outcome's unit.

    Attributes:
        lower: Values below are left-censored; -inf where nothing was.
        upper: Values above are right-censored; inf where nothing was.
    """

    lower: Float[Tensor, "record subject"]
    upper: Float[Tensor, "record subject"]


def quantification_limits(outcome: Outcome) -> Limits:
    """Return the limits at every record of an outcome.

    Args:
        outcome: What was observed, with its marks of censoring.
    """
    value, code = outcome.value, outcome.censoring
    infinite = torch.full_like(value, torch.inf)
    if code is None:
        return Limits(-infinite, infinite)
    observed = torch.where(outcome.mask & (code == 0), value, torch.nan)
    lower = _spread(value, outcome.mask & (code == 1), -torch.inf)
    upper = _spread(value, outcome.mask & (code == -1), torch.inf)
    return Limits(
        torch.where(observed < lower, observed, lower),
        torch.where(observed > upper, observed, upper),
    )


def _spread(value: Tensor, censored: Tensor, none: float) -> Tensor:
    """The limits of censored records at all records."""
    if not bool(censored.any()):
        return torch.full_like(value, none)
    commonest = value[censored].mode().values
    low = torch.where(censored, value, torch.inf).amin(0)
    high = torch.where(censored, value, -torch.inf).amax(0)
    return torch.where(censored, value, torch.where(low == high, low, commonest))
