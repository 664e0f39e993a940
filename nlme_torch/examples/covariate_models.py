"""Covariates that act through unknown functions: the indirect response with six covariates, and a network for them.

Hours; covariates c1 to c6 without unit, and R_eq, the response at rest.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nlme_torch.data import Dataset, Regimen
from nlme_torch.examples.indirect_response import SigmoidTurnover
from nlme_torch.model import L2, MLP, LogNormal, Normal, Positive, simulate
from nlme_torch.model.individual.individual import Covariates, Individual

NAMES = ("c1", "c2", "c3", "c4", "c5", "c6")
SAMPLES = [2.0 * k for k in range(13)]


class _KnownRest(SigmoidTurnover):
    """The indirect response whose state at rest is known for every subject."""

    def initial(self, p: Individual) -> Sequence[Any]:
        """No drug, and the response at rest."""
        return 0.0, 0.0, p.rest


class CovariateTruth(_KnownRest):
    r"""The truth: six covariates in five functions.

    .. math::
        S_{max} = 1.2 e^{\eta_1} + \frac{3 c_1}{12 + c_1}, \quad SC_{50} = 0.02 e^{\eta_2 + 0.2 (c_2/20)^{0.75}}, \quad
        K_a = 0.5 e^{\eta_3 + 0.3 c_3 c_4}, \quad V_c = e^{\eta_4 + 0.3 c_3}, \quad
        K_{out} = 2.2 e^{\eta_5 + 0.3 c_5 / (c_6 + c_5)}, \quad K_{in} = R_{eq} K_{out}
    """

    def __init__(self) -> None:
        super().__init__()
        self.e1, self.e2, self.e3, self.e4, self.e5 = (Normal(0.0, omega=0.05, fixed=True) for _ in range(5))
        self.cl, self.n = Positive(1.0), Positive(1.5)
        self.sigma_pk, self.sigma_pd = Positive(0.02), Positive(0.1)

    def individual(self, p: Individual, cov: Covariates) -> dict[str, Any]:
        """The parameters of a subject."""
        kout = 2.2 * torch.exp(p.e5 + 0.3 * cov.c5 / (cov.c6 + cov.c5))
        return {
            "smax": 1.2 * torch.exp(p.e1) + 3 * cov.c1 / (12 + cov.c1),
            "sc50": 0.02 * torch.exp(p.e2 + 0.2 * (cov.c2 / 20) ** 0.75),
            "ka": 0.5 * torch.exp(p.e3 + 0.3 * cov.c3 * cov.c4),
            "vc": torch.exp(p.e4 + 0.3 * cov.c3),
            "kout": kout,
            "rest": cov.R_eq,
            "kin": cov.R_eq * kout,
        }


class WithoutCovariates(_KnownRest):
    """The right equations; what the covariates do is left to the random effects."""

    def __init__(self) -> None:
        super().__init__()
        self.smax, self.sc50, self.ka = LogNormal(2.0, omega=0.1), LogNormal(0.03, omega=0.1), LogNormal(0.5, omega=0.1)
        self.vc, self.kout = LogNormal(1.0, omega=0.1), LogNormal(2.0, omega=0.1)
        self.cl, self.n = Positive(1.0), Positive(1.5)
        self.sigma_pk, self.sigma_pd = Positive(0.03), Positive(0.15)

    def individual(self, p: Individual, cov: Covariates) -> dict[str, Any]:
        """The production that keeps the response at rest."""
        return {"rest": cov.R_eq, "kin": cov.R_eq * p.kout}


class CovariateNetwork(WithoutCovariates):
    r"""All five parameters shifted by one network of the covariates, :math:`\log \phi_i = \mu + NN(c_i) + \eta_i`.

    Args:
        strength: Of the L2 penalty of the weights.
    """

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.shifts = MLP(6, 8, 5, scale="standard", prior=L2(strength))

    def individual(self, p: Individual, cov: Covariates) -> dict[str, Any]:
        """The shifted parameters."""
        moved = {}
        shifts = p.shifts(*(getattr(cov, name) for name in NAMES))
        for name, shift in zip(("smax", "sc50", "ka", "vc", "kout"), shifts, strict=True):
            moved[name] = getattr(p, name) * torch.exp(shift)
        return {**moved, "rest": cov.R_eq, "kin": cov.R_eq * moved["kout"]}


def covariate_design(subjects: int, seed: int) -> Dataset:
    """Covariates drawn at random, a dose of 0.5 at 0 and at 8 h, samples every two hours for a day.

    Args:
        subjects: Number of subjects.
        seed: Seed of the covariates: c1 ~ Gamma(5, scale 2), c2 ~ Gamma(21, 1), c3 and c4 ~ N(0, 1), c5 and c6 ~
            Gamma(11, 1), R_eq ~ Gamma(50, 1 / 50).

    Returns:
        A design without observations.
    """
    rng = np.random.default_rng(seed)
    covariates = {
        "c1": rng.gamma(5.0, 2.0, subjects),
        "c2": rng.gamma(21.0, 1.0, subjects),
        "c3": rng.normal(size=subjects),
        "c4": rng.normal(size=subjects),
        "c5": rng.gamma(11.0, 1.0, subjects),
        "c6": rng.gamma(11.0, 1.0, subjects),
        "R_eq": rng.gamma(50.0, 1 / 50.0, subjects),
    }
    regimen = Regimen(0.5, every=8.0, additional=1)
    return Dataset.from_regimen(regimen, SAMPLES, subjects=subjects, covariates=covariates, outputs=["yPK", "yPD"])


def covariate_data(subjects: int, seed: int) -> Dataset:
    """Simulate subjects from :class:`CovariateTruth`.

    Args:
        subjects: Number of subjects.
        seed: Seed of covariates, random effects and errors.

    Returns:
        Concentrations yPK and responses yPD.

    Example:
        >>> import nlme_torch as nlme
        >>> nlme.examples.covariate_data(50, seed=1).covariate_names
        ('c1', 'c2', 'c3', 'c4', 'c5', 'c6', 'R_eq')
    """
    return simulate(CovariateTruth(), covariate_design(subjects, seed), seed=seed)
