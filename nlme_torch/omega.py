"""Structures of the covariance of random effects: ``nlme.omega.Full`` and ``nlme.Full`` are one class.

Example:
    >>> import nlme_torch as nlme
    >>> nlme.Omega("ka", "cl", structure=nlme.omega.Full([[0.2, 0.05], [0.05, 0.1]])).parameters
    ('ka', 'cl')
"""

from nlme_torch.model import Diagonal as Diagonal
from nlme_torch.model import Fixed as Fixed
from nlme_torch.model import Full as Full
from nlme_torch.model import LowRank as LowRank
from nlme_torch.model import Scalar as Scalar

__all__ = ["Diagonal", "Fixed", "Full", "LowRank", "Scalar"]
