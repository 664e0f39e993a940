r"""Neutrophils after chemotherapy: proliferation, three transit compartments, circulation, and a feedback.

Hours, umol, umol/L, 10^9 cells/L. Pharmacokinetics are those of docetaxel, the same in every subject: three
compartments with the rate constants of Bruno (1996), 7.4 L, 0.808 mg/umol.

References:
    Friberg, Henningsson, Maas, Nguyen and Karlsson (2002), Model of chemotherapy-induced myelosuppression with
    parameter consistency across drugs. doi:10.1200/JCO.2002.02.140
    Bruno, Vivier, Vergniol and others (1996), A population pharmacokinetic model for docetaxel (Taxotere): model
    building and validation. doi:10.1007/BF02353487
"""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from nlme_torch.data import Dataset, Regimen
from nlme_torch.model import L2, MLP, LogNormal, Model, Positive, simulate
from nlme_torch.model.individual.individual import Individual

DAYS = (0, 3, 5, 7, 9, 11, 14, 17, 21, 24, 28, 31, 35, 42)
DOSES = (150.0, 225.0)  # umol, 120 and 180 mg


class _Chain(Model):
    """The chain of cells, relative to their number without drug; subclasses give the feedback."""

    states = ("central", "second", "third", "proliferating", "transit1", "transit2", "transit3", "circulating")

    def initial(self, p: Individual) -> Sequence[Any]:
        """No drug; cells at rest."""
        return 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """Drug (umol/h) and relative cells (per hour)."""
        rate = 4.0 / p.mtt
        killing = p.slope * y.central / 7.4
        return (
            1.51 * y.second + 0.084 * y.third - (5.2 + 1.06 + 1.26) * y.central,
            1.06 * y.central - 1.51 * y.second,
            1.26 * y.central - 0.084 * y.third,
            rate * y.proliferating * ((1.0 - killing) * self.feedback(y.circulating, p) - 1.0),
            rate * (y.proliferating - y.transit1),
            rate * (y.transit1 - y.transit2),
            rate * (y.transit2 - y.transit3),
            rate * (y.transit3 - y.circulating),
        )

    def feedback(self, circulating: Tensor, p: Individual) -> Tensor:
        """Relative rate of proliferation: one at rest, more where cells are missing."""
        raise NotImplementedError

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """Logarithm of the neutrophils in circulation."""
        return {"logANC": dist.Normal(torch.log(p.circ0 * y.circulating.clamp_min(1e-6)), p.sigma)}


class Myelosuppression(_Chain):
    r"""The truth, with the published typical values of docetaxel and spreads of 30, 15 and 30 %.

    .. math::
        P' = k P \big((1 - S c)(C_0/C)^\gamma - 1\big), \quad T_1' = k (P - T_1), \dots, \quad C' = k (T_3 - C), \quad
        k = 4 / MTT
    """

    def __init__(self) -> None:
        super().__init__()
        self.circ0 = LogNormal(5.05, omega=0.09)  # 10^9 cells/L
        self.mtt = LogNormal(88.7, omega=0.0225)  # hours
        self.slope = LogNormal(8.58, omega=0.09)  # L/umol
        self.gamma = Positive(0.161)
        self.sigma = Positive(0.2)

    def feedback(self, circulating: Tensor, p: Individual) -> Tensor:
        """A power of the missing cells."""
        return circulating.clamp_min(1e-6) ** -p.gamma


class FeedbackNetwork(_Chain):
    r"""The feedback as a network, positive, one at rest and falling by construction.

    .. math:: P' = k P \big((1 - S c)\, NN(C/C_0) - 1\big), \qquad NN = e^{MLP(\log C/C_0)}

    where the perceptron has no biases and decreases.

    Args:
        strength: Of the L2 penalty of the weights.
    """

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__()
        self.circ0 = LogNormal(4.0, omega=0.1)  # 10^9 cells/L
        self.mtt = LogNormal(110.0, omega=0.05)  # hours
        self.slope = LogNormal(6.0, omega=0.1)  # L/umol
        self.network = MLP(1, 4, 1, decreasing=[0], zero_at_zero=True, prior=L2(strength))
        self.sigma = Positive(0.3)

    def feedback(self, circulating: Tensor, p: Individual) -> Tensor:
        """The network."""
        return torch.exp(p.network(torch.log(circulating.clamp_min(1e-6))))


def myelosuppression_design(subjects: int) -> Dataset:
    """Infusions of one hour on days 0 and 21, 150 umol and 225 umol in turn, fourteen samples in six weeks.

    Args:
        subjects: Number of subjects.

    Returns:
        A design without observations.

    Example:
        >>> import nlme_torch as nlme
        >>> nlme.examples.myelosuppression_design(2)
        Dataset of 2 subjects, 30 rows
          observations  logANC 0
          doses         2 rows
    """
    regimens = {
        k: Regimen(DOSES[k % len(DOSES)], duration=1.0, every=21 * 24.0, additional=1) for k in range(1, subjects + 1)
    }
    return Dataset.from_regimen(regimens, [24.0 * day for day in DAYS], subjects=subjects, outputs="logANC")


def myelosuppression_data(subjects: int, seed: int) -> Dataset:
    """Simulate subjects from :class:`Myelosuppression`.

    Args:
        subjects: Number of subjects.
        seed: Seed of random effects and errors.

    Returns:
        Logarithms of neutrophil counts.
    """
    return simulate(Myelosuppression(), myelosuppression_design(subjects), seed=seed)
