"""Concentrations that NONMEM printed for 29 dosing histories, met in closed form and as an equation."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.model import Density

TABLE = Path(__file__).parents[4] / "shared" / "data" / "nonmem_dosing.csv"


class Histories(nlme.Model):
    """One compartment with absorption; lag, fraction, duration and rate are those of the record."""

    states = ("depot", "central")

    def __init__(self):
        super().__init__()
        self.cl, self.v, self.ka = nlme.LogNormal(1.1), nlme.LogNormal(20.0), nlme.LogNormal(1.5)

    def individual(self, p, cov):
        return {"lag": cov.LAGT, "fraction": cov.BIOAV, "length": cov.DUR2, "speed": cov.RAT2}

    def dosing(self, p):
        given = nlme.Dosing(lag=p.lag, bioavailability=p.fraction, duration=p.length, rate=p.speed)
        return {"central": given}

    def observe(self, t, y, p):
        return {"CP": dist.Normal(1000.0 * y.central / p.v, 1.0)}


class Equation(Histories):
    def dynamics(self, t, y, p):
        return -p.ka * y.depot, p.ka * y.depot - p.cl / p.v * y.central


class ClosedForm(Histories):
    def compartments(self, p):
        return nlme.compartments.OneCompartment(p.cl, p.v, p.ka)


@pytest.mark.parametrize("model", [ClosedForm, Equation])
def test_all_histories_have_the_printed_concentrations(model):
    if not TABLE.exists():
        pytest.skip("nonmem_dosing.csv is distributed with mrgsolve")
    frame = pd.read_csv(TABLE).drop(columns=["DV", "MODE"])
    frame["CP"] = np.where(frame["evid"] == 0, frame["CP"], np.nan)
    changing = dict.fromkeys(["LAGT", "BIOAV", "DUR2", "RAT2"], "nocb")
    data = nlme.Dataset.from_frame(frame, outputs=["CP"], time_varying=changing)
    batch = data.batch()
    density = Density(model(), batch, nlme.Auto())
    eta = torch.zeros(3, 1, 1, batch.n_subjects, dtype=torch.float64)
    observed, solved = density.at().observe(eta)
    assert solved.all()
    found, printed = observed["CP"].mean[:, 0, 0], batch.outcomes["CP"]
    error = torch.where(printed.mask, (found - printed.value).abs() / printed.value.abs().clamp(min=1e-3), 0.0).amax(0)
    worst = {int(subject): float(value) for subject, value in zip(batch.subjects, error, strict=True) if value > 5.1e-5}
    assert not worst, worst
