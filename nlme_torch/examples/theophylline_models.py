"""Theophylline: twelve subjects after one oral dose, and four models of rising flexibility.

With d = Wt x Dose (mg), concentrations in mg/L and hours. (a) the classical model, as closed form and as differential
equation; (b) a published four-network neural differential equation with random effects on all 28 weights; (c) the same
with learned variances; (d) a hybrid that keeps the mass balance and learns the absorption rate.

References:
    Boeckmann, Sheiner and Beal (1994), NONMEM Users Guide: Part V, University of California, San Francisco (data).
"""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

from nlme_torch.model import MLP, Diagonal, Fixed, LogNormal, LowRank, Model, Omega, Positive, RandomWeights
from nlme_torch.model.individual.individual import Covariates, Individual
from nlme_torch.model.random_effects.covariance import Structure


class TheophyllineClosedForm(Model):
    r"""(a) One compartment, first-order absorption, in closed form.

    .. math:: f(t) = \frac{d\, k_a}{V (k_a - k)} (e^{-k t} - e^{-k_a t}), \quad k = CL / V, \quad y \sim N(f, \sigma)
    """

    def __init__(self) -> None:
        super().__init__()
        self.ka = LogNormal(1.5, omega=0.4)  # 1/h
        self.cl = LogNormal(2.7, omega=0.1)  # L/h
        self.v = LogNormal(32.0, omega=0.1)  # L
        self.sigma = Positive(1.0)  # mg/L

    def individual(self, p: Individual, cov: Covariates) -> dict[str, Any]:
        """Return the dose in mg."""
        return {"dose": cov.Wt * cov.Dose}

    def predict(self, t: Tensor, p: Individual, cov: Covariates) -> Tensor:
        """Return the concentration in mg/L."""
        k = p.cl / p.v
        # (exp(-k t) - exp(-ka t)) / (ka - k) without cancellation where the two rates meet
        difference = (p.ka - k) * t
        ratio = torch.where(
            difference.abs() > 1e-8,
            -torch.expm1(-difference) / torch.where(difference.abs() > 1e-8, difference, 1.0),
            1.0 - difference / 2,
        )
        return p.dose * p.ka / p.v * t * torch.exp(-k * t) * ratio

    def observe(self, t: Tensor, y: Tensor, p: Individual) -> dict[str, Any]:
        """Concentrations with additive error."""
        return {"conc": dist.Normal(y, p.sigma)}


class TheophyllineClassical(TheophyllineClosedForm):
    """(a) The same as a differential equation."""

    states = ("depot", "center")
    predict = Model.predict

    def initial(self, p: Individual) -> Sequence[Any]:
        """The dose stands in the depot at time 0."""
        return p.dose, 0.0

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """First-order absorption and elimination (mg/h)."""
        return -p.ka * y.depot, p.ka * y.depot - p.cl / p.v * y.center

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """Concentrations with additive error."""
        return {"conc": dist.Normal(y.center / p.v, p.sigma)}


class TheophyllineFullOmega(Model):
    r"""The model of published NONMEM runs: KA, V, K correlated, variances added, every dose taken as 320 mg.

    .. math:: f(t) = \frac{320\, k_a}{V (k_a - k)} (e^{-k t} - e^{-k_a t}), \quad y \sim N(f, \sqrt{s_1 f^2 + s_2})
    """

    def __init__(self) -> None:
        super().__init__()
        self.ka, self.v, self.k = LogNormal(2.0), LogNormal(50.0), LogNormal(0.1)  # 1/h, L, 1/h
        self.s1, self.s2 = Positive(0.1), Positive(0.1)  # without unit, (mg/L)^2
        self.all = Omega("ka", "v", "k", structure="full")

    def predict(self, t: Tensor, p: Individual, cov: Covariates) -> Tensor:
        """Return the concentration in mg/L."""
        return 320 / p.v * p.ka / (p.ka - p.k) * (torch.exp(-p.k * t) - torch.exp(-p.ka * t))

    def observe(self, t: Tensor, y: Tensor, p: Individual) -> dict[str, Any]:
        """Concentrations with combined error, variances added."""
        return {"conc": dist.Normal(y, (p.s1 * y**2 + p.s2).sqrt())}


class TheophyllineFourNetworks(Model):
    """(b) and (c): four 1-2-1 networks with subject-specific weights; a published tutorial model, kept as it is.

    The centre holds a concentration although the depot holds an amount: there is no volume, and mass is not
    conserved. The model is here because it was published, not because it is right.

    Args:
        omega: Covariance of the weights of each network; ``Fixed(1.0)`` is the published model.
    """

    states = ("depot", "center")

    def __init__(self, omega: Structure | LowRank | None = None) -> None:
        super().__init__()
        structure = Fixed(1.0) if omega is None else omega
        self.absorption_time = RandomWeights(MLP(1, 2, 1), structure)
        self.absorption_depot = RandomWeights(MLP(1, 2, 1), structure)
        self.elimination = RandomWeights(MLP(1, 2, 1), structure)
        self.input_time = RandomWeights(MLP(1, 2, 1), structure)
        self.sigma = Positive(1.0, prior=dist.LogNormal(torch.tensor(0.0, dtype=torch.float64), 0.5))

    def individual(self, p: Individual, cov: Covariates) -> dict[str, Any]:
        """Return the dose in mg."""
        return {"dose": cov.Wt * cov.Dose}

    def initial(self, p: Individual) -> Sequence[Any]:
        """The dose stands in the depot at time 0."""
        return p.dose, 0.0

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """Four non-negative fluxes, each a network."""
        by_time = softplus(p.absorption_time(t / 24))
        by_depot = softplus(p.absorption_depot(softplus(y.depot)))
        elimination = softplus(p.elimination(softplus(y.center)))
        second_input = softplus(p.input_time(t / 24))
        absorbed = p.dose * by_time + by_depot
        return -absorbed, absorbed - elimination + p.dose * second_input

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """Concentrations with additive error."""
        return {"conc": dist.Normal(y.center, p.sigma)}


class TheophyllineHybrid(Model):
    """(d) Mass balance and elimination known, the absorption rate a positive network of time and fraction left.

    With all weights zero but the output bias it is the classical model: the network nests a log-normal ka.

    Args:
        hidden: Hidden units of the absorption network.
        omega: Covariance of its weights.
    """

    states = ("depot", "center")

    def __init__(self, hidden: int = 2, omega: Structure | LowRank | None = None) -> None:
        super().__init__()
        structure = Diagonal(0.1) if omega is None else omega
        self.absorption = RandomWeights(MLP(2, hidden, 1, output="exp"), structure)
        self.cl = LogNormal(2.7, omega=0.1)  # L/h
        self.v = LogNormal(32.0, omega=0.1)  # L
        self.sigma = Positive(1.0)  # mg/L

    def individual(self, p: Individual, cov: Covariates) -> dict[str, Any]:
        """Return the dose in mg."""
        return {"dose": cov.Wt * cov.Dose}

    def initial(self, p: Individual) -> Sequence[Any]:
        """The whole dose stands in the depot at time 0, as a fraction."""
        return 1.0, 0.0

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """Fractions of the dose per hour."""
        absorbed = p.absorption(t / 24, y.depot) * y.depot
        return -absorbed, absorbed - p.cl / p.v * y.center

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """Concentrations with additive error."""
        return {"conc": dist.Normal(p.dose * y.center / p.v, p.sigma)}
