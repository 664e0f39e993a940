"""HIV dynamics under a drug that blocks infection: the classical model, and one whose growth rate is a network.

Time in days, amounts in mg, concentrations in ug/L, virus in copies/mL. Pharmacokinetics are known: the
covariates iKa, iCL, iVc, iQ, iVp and iDur (the length of the zero-order input into the depot, RATE = -2).

References:
    Luo, Piovoso, Martinez-Picado and Zurakowski (2012), HIV model parameter estimates from interruption trial data
    including drug efficacy and reservoir dynamics. doi:10.1371/journal.pone.0040198
"""

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from nlme_torch.model import L2, MLP, Latent, LogNormal, Model, Positive
from nlme_torch.model.dosing.dosing import Dosing
from nlme_torch.model.individual.individual import Covariates, Individual


class _KnownPharmacokinetics(Model):
    """Two compartments with zero-order input and first-order absorption, the same in every model of this file."""

    def individual(self, p: Individual, cov: Covariates) -> dict[str, Any]:
        """Rate constants (1/day), central volume (L) and duration of the input (days)."""
        return {
            "ka": cov.iKa,
            "k_elimination": cov.iCL / cov.iVc,
            "k_out": cov.iQ / cov.iVc,
            "k_back": cov.iQ / cov.iVp,
            "vc": cov.iVc,
            "duration": cov.iDur,
        }

    def dosing(self, p: Individual) -> dict[str, Dosing]:
        """A dose enters the depot at a constant rate."""
        return {"depot": Dosing(duration=p.duration)}

    def drug(self, y: Any, p: Individual) -> tuple[Tensor, Tensor, Tensor]:
        """Amounts in depot, central and peripheral compartment (mg/day)."""
        return (
            -p.ka * y.depot,
            p.ka * y.depot + p.k_back * y.peripheral - (p.k_elimination + p.k_out) * y.central,
            p.k_out * y.central - p.k_back * y.peripheral,
        )


class ViralDynamics(_KnownPharmacokinetics):
    r"""Target cells T, infected cells I and virus V in their steady state, then a drug that blocks infection.

    .. math::
        T' = \lambda - d T - (1 - E) \beta T V, \quad I' = (1 - E) \beta T V - a I, \quad V' = \gamma I - \omega V,
        \quad E = \frac{C}{EC_{50} + C}

    log10 of the virus is observed with additive error; lambda and EC50 differ between subjects.
    """

    states = ("depot", "central", "peripheral", "target", "infected", "virus")

    def __init__(self) -> None:
        super().__init__()
        self.lam = LogNormal(10.0**2.47, omega=1.0)  # cells per uL and day
        self.ec50 = LogNormal(math.exp(4.912654885736052), omega=1.0)  # ug/L
        self.d = Positive(10.0**-0.74)  # 1/day
        self.beta = Positive(10.0**-5.41)  # mL per copy and day
        self.a = Positive(10.0**-0.17)  # 1/day
        self.gamma = Positive(10.0**3.77)  # copies per cell and day
        self.omega = Positive(10.0**1.27)  # 1/day
        self.sigma = Positive(0.318)  # log10 copies/mL

    def initial(self, p: Individual) -> Sequence[Any]:
        """The infected steady state without drug."""
        reproduction = p.beta * p.lam * p.gamma / (p.d * p.a * p.omega)
        infected = p.lam / p.a * (1 - 1 / reproduction)
        return 0.0, 0.0, 0.0, p.lam / (p.d * reproduction), infected, p.gamma / p.omega * infected

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """Drug (mg/day), cells and virus (per day)."""
        concentration = 1000.0 * y.central / p.vc
        infection = p.ec50 / (p.ec50 + concentration) * p.beta * y.target * y.virus
        return (
            *self.drug(y, p),
            p.lam - p.d * y.target - infection,
            infection - p.a * y.infected,
            p.gamma * y.infected - p.omega * y.virus,
        )

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """log10 copies/mL."""
        return {"Virus": dist.Normal(torch.log10(y.virus + 1e-6), p.sigma)}


class ViralNetwork(_KnownPharmacokinetics):
    r"""Virus whose growth rate is a network of two random effects, of itself and of the drug.

    .. math:: V' = NN(\eta_1, \eta_2, V, C_{central})\, V, \qquad V(0) = V_0\, e^{\omega_V \eta_1}, \qquad
              \log_{10} \text{virus} \sim N(\log_{10} V + 4, \sigma)

    V counts in 10^4 copies/mL. Weights have the prior of an L2 penalty of strength one.
    """

    states = ("depot", "central", "peripheral", "virus")

    def __init__(self) -> None:
        super().__init__()
        self.z = Latent(2)
        self.growth = MLP(4, 8, 8, 1, prior=L2(1.0))
        self.v0 = Positive(8.0)  # 10^4 copies/mL
        self.spread = Positive(0.5)
        self.sigma = Positive(0.3)  # log10 copies/mL

    def initial(self, p: Individual) -> Sequence[Any]:
        """No drug; the first random effect is the size of the infection as well."""
        return 0.0, 0.0, 0.0, p.v0 * torch.exp(p.spread * p.z[0])

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """Drug (mg/day) and virus (10^4 copies/mL/day)."""
        return *self.drug(y, p), p.growth(p.z, y.virus, y.central / p.vc) * y.virus

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """log10 copies/mL."""
        return {"Virus": dist.Normal(torch.log10(y.virus) + 4.0, p.sigma)}
