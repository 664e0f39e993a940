"""Elimination that saturates, in subjects whom age, weight and a third covariate make different.

Hours; amounts relative to an eighth of a dose; age in years, weight in kg, the third covariate c without unit.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from nlme_torch.data import Dataset, Regimen
from nlme_torch.model import L2, MLP, Latent, LogNormal, Model, Normal, Positive, simulate
from nlme_torch.model.individual.individual import Covariates, Individual

SAMPLES = [0.5 * k for k in range(17)]


class _DepotAndCentre(Model):
    """First-order absorption, an elimination that subclasses give, and the concentration."""

    states = ("depot", "central")

    def initial(self, p: Individual) -> Sequence[Any]:
        """No drug."""
        return 0.0, 0.0

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """Amounts (per hour)."""
        return -p.ka * y.depot, p.ka * y.depot - self.elimination(y, p)

    def elimination(self, y: Any, p: Individual) -> Tensor:
        """Amount that leaves the centre per hour."""
        raise NotImplementedError

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """Concentration with additive error."""
        return {"conc": dist.Normal(y.central / p.vc, p.sigma)}


class _Saturable(_DepotAndCentre):
    """Elimination of Michaelis-Menten form."""

    def elimination(self, y: Any, p: Individual) -> Tensor:
        """Half of its maximum at the concentration IC50."""
        concentration = y.central / p.vc
        return p.imax * concentration / (p.ic50 + concentration)


class NonlinearClearance(_Saturable):
    r"""The truth: Michaelis-Menten elimination, and covariates in all four parameters.

    .. math::
        D' = -K_a D, \quad A' = K_a D - \frac{I_{max} c}{IC_{50} + c}, \quad c = A / V_c

        K_a = e^{\eta_1} + \tfrac12 (AGE/55)^2, \quad I_{max} = 1.1 e^{\eta_2} + 1.6 \frac{W + AGE}{W}, \quad
        IC_{50} = 0.4 e^{(W/75)^2 + \eta_3}, \quad V_c = 0.8 e^{\eta_4 + (W/75)\, c_3/(1 + c_3)}

    with effects of variance 0.1, and the third covariate :math:`c_3` in a column named c.
    """

    def __init__(self) -> None:
        super().__init__()
        self.e1, self.e2, self.e3, self.e4 = (Normal(0.0, omega=0.1, fixed=True) for _ in range(4))
        self.sigma = Positive(0.1)

    def individual(self, p: Individual, cov: Covariates) -> dict[str, Any]:
        """The parameters of a subject."""
        return {
            "ka": torch.exp(p.e1) + 0.5 * (cov.AGE / 55) ** 2,
            "imax": 1.1 * torch.exp(p.e2) + 1.6 * (cov.W + cov.AGE) / cov.W,
            "ic50": 0.4 * torch.exp((cov.W / 75) ** 2 + p.e3),
            "vc": 0.8 * torch.exp(p.e4 + cov.W / 75 * cov.c / (1 + cov.c)),
        }


class SaturableWithoutCovariates(_Saturable):
    """The right equations; what the covariates do is left to the random effects."""

    def __init__(self) -> None:
        super().__init__()
        self.ka, self.imax = LogNormal(1.0, omega=0.1), LogNormal(3.0, omega=0.1)  # per hour, amount per hour
        self.ic50, self.vc = LogNormal(0.8, omega=0.2), LogNormal(1.0, omega=0.1)
        self.sigma = Positive(0.2)


class ClearanceNetwork(_DepotAndCentre):
    r"""An individual network for the elimination, zero without drug and positive with it.

    .. math:: A' = K_a D - NN(A, D; \eta), \qquad NN = A\, e^{MLP(A/4,\, D/4,\, \eta_1, \eta_2)}

    Args:
        strength: Of the L2 penalty of the weights.
    """

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__()
        self.ka, self.vc = LogNormal(1.0, omega=0.1), LogNormal(1.0, omega=0.1)
        self.z = Latent(2)
        self.rate = MLP(4, 5, 1, output="exp", scale=(4.0, 4.0, 1.0, 1.0), prior=L2(strength))
        self.sigma = Positive(0.2)

    def elimination(self, y: Any, p: Individual) -> Tensor:
        """The network."""
        return p.rate(y.central, y.depot, p.z) * y.central


class ClearanceCovariateNetwork(ClearanceNetwork):
    r"""A second network, of the covariates, moves absorption, volume and the inputs of the first one.

    .. math:: (\log K_a, \log V_c, \eta_1, \eta_2)_i = \mu + NN(AGE, W, c_3) + \eta_i

    Args:
        strength: Of the L2 penalty of all weights.
    """

    def __init__(self, strength: float = 0.1) -> None:
        super().__init__(strength)
        self.shifts = MLP(3, 5, 4, prior=L2(strength))

    def individual(self, p: Individual, cov: Covariates) -> dict[str, Any]:
        """The shifted parameters; covariates enter centred, in units of their spread."""
        ka, vc, first, second = p.shifts((cov.AGE - 55) / 10, (cov.W - 75) / 25, (cov.c - 0.4) / 0.2)
        return {
            "ka": p.ka * torch.exp(ka),
            "vc": p.vc * torch.exp(vc),
            "inputs": (p.z[0] + first, p.z[1] + second),
        }

    def elimination(self, y: Any, p: Individual) -> Tensor:
        """The network at the shifted inputs."""
        return p.rate(y.central, y.depot, *p.inputs) * y.central


def nonlinear_clearance_design(subjects: int, seed: int) -> Dataset:
    """Doses of 8 into the depot at 0 and 2 h, samples every half hour until 8 h.

    Args:
        subjects: Number of subjects.
        seed: Seed of the covariates: AGE ~ N(55, 10) years, W ~ N(75, 25) kg, drawn anew below 25 kg, and
            c ~ Gamma(4, scale 0.1).

    Returns:
        A design without observations.

    Example:
        >>> import nlme_torch as nlme
        >>> nlme.examples.nonlinear_clearance_design(40, seed=1)
        Dataset of 40 subjects, 720 rows
          observations  conc 0
          doses         40 rows
          covariates    AGE, W, c
    """
    rng = np.random.default_rng(seed)
    age, third, weight = rng.normal(55, 10, subjects), rng.gamma(4.0, 0.1, subjects), rng.normal(75, 25, subjects)
    while (light := weight < 25).any():
        weight[light] = rng.normal(75, 25, int(light.sum()))
    covariates = {"AGE": age, "W": weight, "c": third}
    regimen = Regimen(8.0, every=2.0, additional=1)
    return Dataset.from_regimen(regimen, SAMPLES, subjects=subjects, covariates=covariates, outputs="conc")


def nonlinear_clearance_data(subjects: int, seed: int) -> Dataset:
    """Simulate subjects from :class:`NonlinearClearance`.

    Args:
        subjects: Number of subjects.
        seed: Seed of covariates, random effects and errors.

    Returns:
        Concentrations.
    """
    return simulate(NonlinearClearance(), nonlinear_clearance_design(subjects, seed), seed=seed)
