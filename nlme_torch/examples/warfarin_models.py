"""Warfarin after one oral dose: transit absorption with allometry, alone and with the clotting activity it lowers.

Amounts in mg, volumes in L, hours, weights in kg; prothrombin complex activity in percent of normal. The data are
distributed with nlmixr2data, columns id, time, amt, dv, dvid (cp, pca), evid, wt.

References:
    O'Reilly and Aggeler (1968), Studies on coumarin anticoagulant drugs: initiation of warfarin therapy without a
    loading dose, Circulation 38, 169-177. doi:10.1161/01.CIR.38.1.169
    Savic, Jonker, Kerbusch and Karlsson (2007), Implementation of a transit compartment model for describing drug
    absorption in pharmacokinetic studies. doi:10.1007/s10928-007-9066-0
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
from torch import Tensor

from nlme_torch.compartments import Linear, TransitAbsorption
from nlme_torch.model import LogNormal, Model, Positive, Power
from nlme_torch.model.individual.individual import Individual
from nlme_torch.model.observation import Combined2


class WarfarinTransit(Model):
    r"""Depot, one transit compartment and a central one with a common rate, in closed form.

    .. math:: \dot a_0 = -k_{tr} a_0, \quad \dot a_1 = k_{tr} (a_0 - a_1), \quad \dot c = k_{tr} a_1 - CL/V\, c, \quad
              CL \propto (WT/70)^{0.75}, \; V \propto WT/70, \quad y \sim N(f, \sqrt{a^2 + b^2 f^2})
    """

    states: ClassVar[tuple[str, ...]] = ("depot", "transit", "central")

    def __init__(self) -> None:
        super().__init__()
        self.ktr = LogNormal(1.0, omega=0.3)  # 1/h
        self.v = LogNormal(8.0, Power("wt", ref=70, exponent=1.0, fixed=True), omega=0.05)  # L
        self.cl = LogNormal(0.13, Power("wt", ref=70, exponent=0.75, fixed=True), omega=0.1)  # L/h
        self.a = Positive(0.5)  # mg/L
        self.b = Positive(0.1)

    def compartments(self, p: Individual) -> Linear:
        """Transit absorption into one compartment."""
        return TransitAbsorption(rate=p.ktr, n_transit=1, clearance=p.cl, volume=p.v)

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """Concentrations (mg/L) with combined error."""
        return {"PK": Combined2(y.central / p.v, p.a, p.b)}


class WarfarinTransitEquation(WarfarinTransit):
    """The same as a differential equation."""

    compartments = Model.compartments

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """Amounts (mg/h)."""
        return (
            -p.ktr * y.depot,
            p.ktr * (y.depot - y.transit),
            p.ktr * y.transit - p.cl / p.v * y.central,
        )


class WarfarinTurnover(WarfarinTransit):
    r"""PK and PD jointly: warfarin inhibits the production of prothrombin complex activity.

    .. math:: \dot E = k_{out} E_0 \Big(1 - \frac{C}{IC_{50} + C}\Big) - k_{out} E, \quad E(0) = E_0, \quad
              y_{PD} \sim N(E, \sigma_{PD})
    """

    states = ("depot", "transit", "central", "activity")
    compartments = Model.compartments

    def __init__(self) -> None:
        super().__init__()
        self.ic50 = LogNormal(1.0, omega=0.1)  # mg/L
        self.kout = LogNormal(0.05, omega=0.05)  # 1/h
        self.e0 = LogNormal(96.0, omega=0.01)  # percent
        self.sigma_pd = Positive(4.0)  # percent

    def initial(self, p: Individual) -> Sequence[Any]:
        """No drug, normal activity."""
        return 0.0, 0.0, 0.0, p.e0

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """Amounts (mg/h) and activity (percent/h)."""
        concentration = y.central / p.v
        produced = p.kout * p.e0 * p.ic50 / (p.ic50 + concentration)
        return (
            -p.ktr * y.depot,
            p.ktr * (y.depot - y.transit),
            p.ktr * y.transit - p.cl * concentration,
            produced - p.kout * y.activity,
        )

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """Concentrations with combined error, activity with additive error."""
        return {"PK": Combined2(y.central / p.v, p.a, p.b), "PD": dist.Normal(y.activity, p.sigma_pd)}
