"""Phenobarbital in newborn infants: one compartment, repeated intravenous doses, size and Apgar score as covariates.

Weights in kg, hours, amounts and concentrations in the units of the published table.

References:
    Grasela and Donn (1985), Neonatal population pharmacokinetics of phenobarbital derived from routine clinical data,
    Dev. Pharmacol. Ther. 8, 374-383. doi:10.1159/000457062.
"""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
from torch import Tensor

from nlme_torch.compartments import Linear, OneCompartment
from nlme_torch.model import LogNormal, Model, Positive, Real
from nlme_torch.model.individual.individual import Covariates, Individual


class Phenobarbital(Model):
    r"""One compartment in closed form, proportional error.

    .. math:: CL = \theta_1\, WT\, e^{\eta_1}, \quad V = \theta_2\, WT\, (1 + \theta_3 [APGR < 5])\, e^{\eta_2}, \quad
              y \sim N(f, \sigma f)
    """

    states = ("central",)

    def __init__(self) -> None:
        super().__init__()
        self.cl = LogNormal(0.005, omega=0.03)  # L/h per kg
        self.v = LogNormal(1.0, omega=0.03)  # L per kg
        self.asphyxia = Real(0.1)  # change of V where the Apgar score is below 5
        self.sigma = Positive(0.12)

    def individual(self, p: Individual, cov: Covariates) -> dict[str, Any]:
        """Clearance (L/h) and volume (L) of a child."""
        low = (cov.APGR < 5).to(cov.WT.dtype)
        return {"clearance": p.cl * cov.WT, "volume": p.v * cov.WT * (1 + p.asphyxia * low)}

    def compartments(self, p: Individual) -> Linear:
        """One compartment with first-order elimination."""
        return OneCompartment(clearance=p.clearance, volume=p.volume)

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """Concentrations with proportional error."""
        concentration = y.central / p.volume
        return {"DV": dist.Normal(concentration, p.sigma * concentration)}


class PhenobarbitalEquation(Phenobarbital):
    """The same as a differential equation."""

    compartments = Model.compartments

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """First-order elimination."""
        return (-p.clearance / p.volume * y.central,)
