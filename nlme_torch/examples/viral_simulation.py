"""Simulated viral dynamics: a design like that of a small trial of one dose, and virus from the classical model.

Days, mg, L, ug/L, copies/mL, as in :mod:`nlme_torch.examples.viral_models`.
"""

import numpy as np

from nlme_torch.data import Dataset, Regimen
from nlme_torch.examples.viral_models import ViralDynamics
from nlme_torch.model import LogNormal, Positive, simulate

DAYS = [0.0, 1.0, 2.0, 3.0, 7.0, 14.0, 21.0, 28.0]


class ViralTruth(ViralDynamics):
    """The truth: :class:`ViralDynamics` at estimates from a hundred patients.

    Before the drug the virus stands at 9e4 copies/mL and one infected cell infects 3.3 others. Subjects differ by a
    third in the concentration that halves infection (the variance of its logarithm is 0.107), hardly in lambda.
    """

    def __init__(self) -> None:
        super(ViralDynamics, self).__init__()  # its equations, other values
        self.lam = LogNormal(205.4, omega=2e-4)  # cells per uL and day
        self.ec50 = LogNormal(114.4, omega=0.107)  # ug/L
        self.d = Positive(0.143)  # 1/day
        self.beta = Positive(3.694e-6)  # mL per copy and day
        self.a = Positive(0.6427)  # 1/day
        self.gamma = Positive(4098.0)  # copies per cell and day
        self.omega = Positive(10.16)  # 1/day
        self.sigma = Positive(0.3177)  # log10 copies/mL


def viral_design(subjects: int, seed: int) -> Dataset:
    """One dose of 500 mg that enters the depot at a constant rate; virus at 0, 1, 2, 3, 7, 14, 21 and 28 days.

    Args:
        subjects: Number of subjects.
        seed: Seed of the pharmacokinetics, log-normal and independent: iKa with median 0.476 per day and standard
            deviation 0.047 of its logarithm, iCL 40 L/day (0.4), iVc 67 L (0.25), iDur 0.487 days (0.006); iQ is
            4.563 L/day and iVp 19.27 L in everybody.

    Returns:
        A design without observations.

    Example:
        >>> import nlme_torch as nlme
        >>> nlme.examples.viral_design(20, seed=1)
        Dataset of 20 subjects, 180 rows
          observations  Virus 0
          doses         20 rows
          covariates    iKa, iCL, iVc, iDur, iQ, iVp
    """
    rng = np.random.default_rng(seed)
    medians = {"iKa": (0.476, 0.047), "iCL": (40.0, 0.4), "iVc": (67.0, 0.25), "iDur": (0.487, 0.006)}
    drawn = rng.normal(size=(subjects, len(medians)))  # by subject: the first of many are the same as few
    covariates = {
        name: median * np.exp(spread * drawn[:, column])
        for column, (name, (median, spread)) in enumerate(medians.items())
    }
    covariates |= {"iQ": np.full(subjects, 4.563), "iVp": np.full(subjects, 19.27)}
    regimen = Regimen(500.0, compartment="depot", duration="modelled")
    return Dataset.from_regimen(regimen, DAYS, subjects=subjects, covariates=covariates, outputs="Virus")


def viral_data(subjects: int, seed: int) -> Dataset:
    """Simulate subjects from :class:`ViralTruth`.

    Args:
        subjects: Number of subjects.
        seed: Seed of pharmacokinetics, random effects and errors.

    Returns:
        log10 of the virus, eight observations of every subject.
    """
    return simulate(ViralTruth(), viral_design(subjects, seed), seed=seed)
