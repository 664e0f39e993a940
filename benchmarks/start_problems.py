"""The problems of ``starts.py``: models at sensible initial values, and their data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import nlme_torch as nlme
from nlme_torch.model.individual.individual import Covariates, Individual

TIMES = (0.25, 0.5, 0.75, 1, 1.25, 2, 3, 4, 5, 6, 8)
INDOMETHACIN = (  # mg/L at TIMES h after 25 mg intravenously, as R's datasets::Indometh has it
    (1.50, 0.94, 0.78, 0.48, 0.37, 0.19, 0.12, 0.11, 0.08, 0.07, 0.05),
    (2.03, 1.63, 0.71, 0.70, 0.64, 0.36, 0.32, 0.20, 0.25, 0.12, 0.08),
    (2.72, 1.49, 1.16, 0.80, 0.80, 0.39, 0.22, 0.12, 0.11, 0.08, 0.08),
    (1.85, 1.39, 1.02, 0.89, 0.59, 0.40, 0.16, 0.11, 0.10, 0.07, 0.07),
    (2.05, 1.04, 0.81, 0.39, 0.30, 0.23, 0.13, 0.11, 0.08, 0.10, 0.06),
    (2.31, 1.44, 1.03, 0.84, 0.64, 0.42, 0.24, 0.17, 0.13, 0.10, 0.09),
)
"""Kwan, Breault, Umbenhauer, McMahon and Duggan (1976), J. Pharmacokinet. Biopharm. 4, 255. doi:10.1007/BF01063617"""


@dataclass(frozen=True)
class Problem:
    """A model with its data, and by which methods it can be fitted."""

    model: nlme.Model
    data: nlme.Dataset
    methods: tuple[str, ...] = ("saem", "focei", "laplace")


class TheophyllineProportional(nlme.Model):
    """Proportional error; the samples before the dose, where the prediction is zero, are not in the data."""

    def __init__(self) -> None:
        super().__init__()
        self.ka = nlme.LogNormal(1.5, omega=0.4)  # 1/h
        self.cl = nlme.LogNormal(2.7, omega=0.1)  # L/h
        self.v = nlme.LogNormal(32.0, omega=0.1)  # L
        self.sigma = nlme.Positive(0.15)

    individual = nlme.examples.TheophyllineClosedForm.individual
    predict = nlme.examples.TheophyllineClosedForm.predict

    def observe(self, t: Tensor, y: Tensor, p: Individual) -> dict[str, Any]:
        """Concentrations (mg/L)."""
        return {"conc": nlme.observation.Proportional(y, p.sigma)}


class TheophyllineCombined(TheophyllineProportional):
    """Additive and proportional error, variances added."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nlme.Positive(0.5)  # mg/L

    def observe(self, t: Tensor, y: Tensor, p: Individual) -> dict[str, Any]:
        """Concentrations (mg/L)."""
        return {"conc": nlme.observation.Combined2(y, p.a, p.sigma)}


class PhenobarbitalBase(nlme.Model):
    """One compartment without covariates, additive error."""

    states = ("central",)

    def __init__(self) -> None:
        super().__init__()
        self.cl = nlme.LogNormal(0.0055, omega=0.2)  # L/h
        self.v = nlme.LogNormal(1.4, omega=0.2)  # L
        self.sigma = nlme.Positive(2.7)

    def compartments(self, p: Individual) -> Any:
        """One compartment, intravenous doses."""
        return nlme.compartments.OneCompartment(clearance=p.cl, volume=p.v)

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """Concentrations."""
        return {"DV": nlme.observation.Additive(y.central / p.v, p.sigma)}


class Emax(nlme.Model):
    """An effect that saturates with the dose; baseline, largest effect and potency vary."""

    def __init__(self) -> None:
        super().__init__()
        self.e0 = nlme.LogNormal(5.0, omega=0.05)
        self.emax = nlme.LogNormal(30.0, omega=0.1)
        self.ed50 = nlme.LogNormal(25.0, omega=0.4)
        self.sigma = nlme.Positive(2.0)

    def predict(self, t: Tensor, p: Individual, cov: Covariates) -> Tensor:
        """The effect at a dose, which stands in the place of time."""
        return p.e0 + p.emax * t / (p.ed50 + t)

    def observe(self, t: Tensor, y: Tensor, p: Individual) -> dict[str, Any]:
        """Effects with additive error."""
        return {"DV": nlme.observation.Additive(y, p.sigma)}


class Biexponential(nlme.Model):
    """A sum of two exponentials, as R's SSbiexp has it; which of them is the faster is not fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.a1 = nlme.LogNormal(2.8, omega=0.1)  # mg/L
        self.k1 = nlme.LogNormal(2.2, omega=0.1)  # 1/h
        self.a2 = nlme.LogNormal(0.4, omega=0.1)  # mg/L
        self.k2 = nlme.Positive(0.24)  # 1/h
        self.sigma = nlme.Positive(0.1)

    def predict(self, t: Tensor, p: Individual, cov: Covariates) -> Tensor:
        """Concentration (mg/L)."""
        return p.a1 * torch.exp(-p.k1 * t) + p.a2 * torch.exp(-p.k2 * t)

    def observe(self, t: Tensor, y: Tensor, p: Individual) -> dict[str, Any]:
        """Concentrations with additive error."""
        return {"DV": nlme.observation.Additive(y, p.sigma)}


class Orange(nlme.Model):
    """Logistic growth of trees of which only the final size varies."""

    def __init__(self) -> None:
        super().__init__()
        self.asym = nlme.Normal(192.0, omega=1000.0)  # mm
        self.xmid, self.scal = nlme.Real(728.0), nlme.Positive(348.0)  # days
        self.sigma = nlme.Positive(7.8)  # mm

    def predict(self, t: Tensor, p: Individual, cov: Covariates) -> Tensor:
        """Circumference (mm)."""
        return p.asym / (1 + torch.exp(-(t - p.xmid) / p.scal))

    def observe(self, t: Tensor, y: Tensor, p: Individual) -> dict[str, Any]:
        """Circumferences with additive error."""
        return {"circumference": nlme.observation.Additive(y, p.sigma)}


class WarfarinLag(nlme.Model):
    """First-order absorption after a lag, one compartment, combined error."""

    states = ("depot", "central")

    def __init__(self) -> None:
        super().__init__()
        self.ka = nlme.LogNormal(1.3, omega=0.6)  # 1/h
        self.v = nlme.LogNormal(8.0, omega=0.05)  # L
        self.cl = nlme.LogNormal(0.13, omega=0.08)  # L/h
        self.lag = nlme.LogNormal(0.8, omega=0.2)  # h
        self.a, self.b = nlme.Positive(0.25), nlme.Positive(0.08)

    def dosing(self, p: Individual) -> Any:
        """Doses enter the depot after the lag."""
        return {"depot": nlme.Dosing(lag=p.lag)}

    def compartments(self, p: Individual) -> Any:
        """Absorption into one compartment."""
        return nlme.compartments.OneCompartment(clearance=p.cl, volume=p.v, absorption=p.ka)

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """Concentrations (mg/L)."""
        return {"PK": nlme.observation.Combined2(y.central / p.v, p.a, p.b)}


class Counts(nlme.Model):
    """Counts whose rate falls exponentially with time."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nlme.LogNormal(8.0, omega=0.3)
        self.fall = nlme.LogNormal(0.2, omega=0.2)  # 1/h

    def predict(self, t: Tensor, p: Individual, cov: Covariates) -> Tensor:
        """Expected count."""
        return p.base * torch.exp(-p.fall * t)

    def observe(self, t: Tensor, y: Tensor, p: Individual) -> dict[str, Any]:
        """Poisson counts."""
        return {"DV": nlme.observation.Poisson(y)}


class Response(nlme.Model):
    """A probability whose logit rises with time, in every subject from another level."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nlme.Normal(-1.0, omega=1.0)
        self.slope = nlme.LogNormal(0.4, omega=0.1)  # 1/h

    def predict(self, t: Tensor, p: Individual, cov: Covariates) -> Tensor:
        """Log odds."""
        return p.level + p.slope * t

    def observe(self, t: Tensor, y: Tensor, p: Individual) -> dict[str, Any]:
        """Yes or no."""
        return {"DV": nlme.observation.Bernoulli(y)}


def _theophylline(after_dose: bool) -> nlme.Dataset:
    data = nlme.examples.theophylline()
    if not after_dose:
        return data
    frame = data.frame
    return nlme.Dataset.from_frame(
        frame[frame["Time"] > 0], id="Subject", time="Time", outputs="conc", covariates=("Wt", "Dose")
    )


def _simulated(model: nlme.Model, subjects: int, times: Sequence[float], seed: int) -> nlme.Dataset:
    frame = pd.DataFrame(
        {"ID": np.repeat(np.arange(1, subjects + 1), len(times)), "TIME": np.tile(times, subjects), "DV": 0.0}
    )
    return nlme.simulate(model, nlme.Dataset.from_frame(frame, outputs="DV"), seed=seed)


def _indomethacin() -> nlme.Dataset:
    rows = [
        (subject + 1, time, value)
        for subject, values in enumerate(INDOMETHACIN)
        for time, value in zip(TIMES, values, strict=True)
    ]
    return nlme.Dataset.from_frame(pd.DataFrame(rows, columns=["ID", "TIME", "DV"]))


def _warfarin(model: nlme.Model, shared: Path) -> Problem:
    return Problem(model, nlme.Dataset.from_csv(shared / "warfarin.csv", outputs={"PK": "cp"}, covariates=["wt"]))


ANY_OUTCOME = ("saem", "laplace")

PROBLEMS: dict[str, Callable[[Path], Problem]] = {
    "theophylline_additive": lambda shared: Problem(nlme.examples.TheophyllineClosedForm(), _theophylline(False)),
    "theophylline_proportional": lambda shared: Problem(TheophyllineProportional(), _theophylline(True)),
    "theophylline_combined": lambda shared: Problem(TheophyllineCombined(), _theophylline(False)),
    "phenobarbital_base": lambda shared: Problem(PhenobarbitalBase(), nlme.examples.phenobarbital()),
    "phenobarbital_covariates": lambda shared: Problem(nlme.examples.Phenobarbital(), nlme.examples.phenobarbital()),
    "emax": lambda shared: Problem(Emax(), _simulated(Emax(), 100, (0, 5, 12.5, 25, 50, 100), 11)),
    "indomethacin": lambda shared: Problem(Biexponential(), _indomethacin()),
    "orange": lambda shared: Problem(
        Orange(),
        nlme.Dataset.from_csv(shared / "orange.csv", id="Tree", time="age", outputs="circumference"),
    ),
    "warfarin_lag": lambda shared: _warfarin(WarfarinLag(), shared),
    "warfarin_transit": lambda shared: _warfarin(nlme.examples.WarfarinTransit(), shared),
    "poisson": lambda shared: Problem(Counts(), _simulated(Counts(), 60, (0, 1, 2, 4, 6, 9), 12), ANY_OUTCOME),
    "binary": lambda shared: Problem(Response(), _simulated(Response(), 150, (0, 1, 2, 3, 4, 6, 8), 13), ANY_OUTCOME),
}
