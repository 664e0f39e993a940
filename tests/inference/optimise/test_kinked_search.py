"""A search that ends where a lag meets an observation."""

import math

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.kinked_predictions import predictions_kink


class Lagged(nlme.Model):
    """A concentration that begins to rise after a lag: the likelihood has a kink where that meets a sample."""

    states = ("depot", "central")

    def __init__(self):
        super().__init__()
        self.v = nlme.LogNormal(1.0, omega=0.05)
        self.lag = nlme.Positive(0.6)
        self.sigma = nlme.Positive(0.2)

    def dosing(self, p):
        return {"depot": nlme.Dosing(lag=p.lag)}

    def compartments(self, p):
        return nlme.compartments.OneCompartment(clearance=0.2 * p.v, volume=p.v, absorption=3.0)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.central / p.v, p.sigma)}


def test_no_convergence_is_claimed_at_a_kink():
    """What lies below zero at t = 1 pushes the lag up to there, what lies high just after it pulls it down."""
    rows = []
    generator = torch.Generator().manual_seed(3)
    for subject in range(8):
        rows.append({"ID": subject, "TIME": 0.0, "AMT": 10.0, "DV": None, "EVID": 1})
        for time, mean in ((0.5, 0.0), (1.0, -1.0), (1.05, 2.0), (1.5, 7.3), (2.0, 8.24), (4.0, 5.88)):
            noise = 0.1 * float(torch.randn((), generator=generator))
            rows.append({"ID": subject, "TIME": time, "AMT": 0.0, "DV": mean + noise, "EVID": 0})
    fit = nlme.fit(Lagged(), nlme.Dataset.from_frame(pd.DataFrame(rows)), nlme.FOCEI(rescue=None), progress=False)
    assert fit.parameters.loc["lag", "estimate"] == pytest.approx(1.0, abs=1e-3)
    assert not fit.converged and "kink" in fit.termination and any("kink" in message for message in fit.warnings)


class LaggedFormula(nlme.Model):
    """The same as a closed form of the user's own, which switches at the lag."""

    def __init__(self, spread=None):
        super().__init__()
        self.v = nlme.LogNormal(1.0, omega=0.05) if spread is None else nlme.Positive(1.0)
        self.lag = nlme.Positive(0.6) if spread is None else nlme.LogNormal(0.6, omega=spread)
        self.sigma = nlme.Positive(0.2)

    def predict(self, t, p, cov):
        late = t - p.lag
        risen = 10 * 3.0 / 2.8 / p.v * (torch.exp(-0.2 * late) - torch.exp(-3.0 * late))
        return torch.where(late > 0, risen, 0.0)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


class SmoothFormula(LaggedFormula):
    """Cut where only the time decides, which is no kink in parameters."""

    def predict(self, t, p, cov):
        return p.lag * torch.exp(-torch.where(t > 1.0, t, 1.0))


def levels(subjects, *expected):
    generator = torch.Generator().manual_seed(3)
    rows = [
        {"ID": subject, "TIME": time, "DV": mean + 0.1 * float(torch.randn((), generator=generator))}
        for subject in range(subjects)
        for time, mean in expected
    ]
    return nlme.Dataset.from_frame(pd.DataFrame(rows))


PUSHED = ((0.5, 0.0), (1.0, -1.0), (1.05, 2.0), (1.5, 7.3), (2.0, 8.24), (4.0, 5.88))


def test_a_kink_of_the_users_own_formula_is_named():
    """Between what is pushed and what is pulled lies the lag that a grid finds, too."""
    data = levels(8, *PUSHED)
    frame = data.frame
    lags = np.linspace(0.9, 1.1, 2001)
    late = frame["TIME"].to_numpy()[:, None] - lags
    risen = np.where(late > 0, 10 * 3.0 / 2.8 * (np.exp(-0.2 * late) - np.exp(-3.0 * late)), 0.0)
    seen = frame["DV"].to_numpy()[:, None]
    squares = ((seen - risen * (seen * risen).sum(0) / (risen**2).sum(0)) ** 2).mean(0)  # no variance of v is left
    best = len(frame) * (math.log(2 * math.pi * squares.min()) + 1)

    fit = nlme.fit(LaggedFormula(), data, nlme.FOCEI(rescue=None), progress=False)
    assert fit.minus2ll == pytest.approx(best, abs=0.01)
    assert fit.parameters.loc["lag", "estimate"] == pytest.approx(lags[squares.argmin()], abs=1e-3)
    assert not fit.converged and "kink" in fit.termination


@pytest.mark.parametrize(("model", "kinked"), [(LaggedFormula(), True), (SmoothFormula(), False)])
def test_which_formulas_have_kinks(model, kinked):
    density = Density(model, levels(2, *PUSHED).batch(), nlme.Auto())
    assert predictions_kink(density) is kinked


def test_modes_at_kinks_are_named():
    """Whoever lies below zero at t = 1 and high right after has a mode there, where no derivative vanishes."""
    quiet = ((0.5, 0.0), (0.9, 2.6), (1.5, 7.8), (2.0, 8.4), (4.0, 5.8))
    pushed, smooth = levels(1, *PUSHED).frame, levels(5, *quiet).frame
    data = nlme.Dataset.from_frame(pd.concat([pushed, smooth.assign(ID=smooth["ID"] + 1)]))
    short = nlme.FOCEI(optimiser=nlme.BFGS(iterations=2), rescue=None)
    fit = nlme.fit(LaggedFormula(0.05), data, short, progress=False)
    named = "1 of 6 subjects (0) has a conditional mode at a kink"
    assert any(named in message for message in fit.warnings)
    value = nlme.ofv(fit.model, data, nlme.FOCEI())
    assert any(named in message for message in value.warnings) and named in str(value)
