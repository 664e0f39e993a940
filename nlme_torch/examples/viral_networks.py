r"""Viral dynamics with networks that few subjects can train: on logarithms, and in units of the state at rest.

A virus count falls and returns by four orders of magnitude, a concentration by three. A tanh that is given them as they
are is flat over most of that range; given their logarithms, it sees numbers of order one wherever the data lie.
"""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from nlme_torch.examples.viral_models import _KnownPharmacokinetics
from nlme_torch.model import L2, MLP, Latent, LogNormal, Positive
from nlme_torch.model.individual.individual import Individual


class ViralGrowthNetwork(_KnownPharmacokinetics):
    r"""The growth rate is an individual network of the virus and of the drug, :math:`V' = NN(V, C, \eta)\, V`.

    .. math:: x' = \frac{1}{\ln 10} NN\Big(\eta_1, \eta_2, \frac{x - 4}{2}, \frac12 \log(1 + C / 100)\Big), \quad
              x = \log_{10} V, \quad x(0) = x_0 + s\, \eta_1

    :class:`~nlme_torch.examples.ViralNetwork` with the inputs on a logarithmic scale (C in ug/L).

    Args:
        strength: Of the L2 penalty of the weights.
    """

    states = ("depot", "central", "peripheral", "log_virus")

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__()
        self.z = Latent(2)
        self.growth = MLP(4, 6, 1, prior=L2(strength))
        self.rest = Positive(5.0)  # log10 copies/mL
        self.spread = Positive(0.1)
        self.sigma = Positive(0.4)  # log10 copies/mL

    def initial(self, p: Individual) -> Sequence[Any]:
        """No drug; the first random effect is the size of the infection as well."""
        return 0.0, 0.0, 0.0, p.rest + p.spread * p.z[0]

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """Drug (mg/day) and log10 of the virus (per day)."""
        concentration = 1000.0 * y.central / p.vc
        growth = p.growth(p.z, (y.log_virus - 4.0) / 2.0, 0.5 * torch.log1p(concentration / 100.0))
        return *self.drug(y, p), growth / 2.302585

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """log10 copies/mL."""
        return {"Virus": dist.Normal(y.log_virus, p.sigma)}


class ViralInfectionNetwork(_KnownPharmacokinetics):
    r"""Known cells and virus; how the virus infects is an individual network of virus and drug effect.

    .. math::
        T' = d R_0 - d T - d (R_0 - 1) h\, T V, \quad I' = a (h\, T V - I), \quad V' = \omega (I - V), \quad
        h = \frac{NN(\log_{10} V, E, \eta)}{NN(0, 0, \eta)}, \quad E = \frac{C}{EC_{50} + C}

    Cells and virus count in units of the untreated steady state, where they are one, so that only what virus counts can
    tell is left to estimate: the death rates d, a and omega, the infections per infected cell R0, and the virus at
    rest. The network is positive and relative to its value without drug.

    Args:
        strength: Of the L2 penalty of the weights.
    """

    states = ("depot", "central", "peripheral", "target", "infected", "virus")

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__()
        self.z = Latent(1)
        self.infection = MLP(3, 5, 1, output="exp", prior=L2(strength))
        self.v0 = LogNormal(1e5, omega=0.05)  # copies/mL
        self.ec50 = Positive(200.0)  # ug/L
        self.d, self.a = Positive(0.2), Positive(0.8)  # 1/day
        self.omega = Positive(8.0)  # 1/day
        self.further = Positive(2.0)  # R0 - 1
        self.sigma = Positive(0.4)  # log10 copies/mL

    def initial(self, p: Individual) -> Sequence[Any]:
        """The untreated steady state."""
        return 0.0, 0.0, 0.0, 1.0, 1.0, 1.0

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """Drug (mg/day), cells and virus (relative, per day)."""
        concentration = 1000.0 * y.central / p.vc
        virus = torch.log10(y.virus.clamp_min(1e-9))
        relative = p.infection(virus, concentration / (p.ec50 + concentration), p.z) / p.infection(0.0, 0.0, p.z)
        infection = relative * y.target * y.virus
        return (
            *self.drug(y, p),
            p.d * (1 + p.further - y.target - p.further * infection),
            p.a * (infection - y.infected),
            p.omega * (y.infected - y.virus),
        )

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """log10 copies/mL."""
        return {"Virus": dist.Normal(torch.log10(p.v0 * y.virus + 1e-6), p.sigma)}
