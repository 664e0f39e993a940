"""Equations that jump where no stop can be put are told of; those that do not jump, or are stopped there, are not."""

import logging

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.inference.fitting.solver_error import solver_warnings
from nlme_torch.model.density.density import Density


class Switched(nlme.Model):
    states = ("amount",)

    def __init__(self, factor):
        super().__init__()
        self.k, self.tsw, self.s = nlme.LogNormal(0.3), nlme.Positive(1.5), nlme.Positive(0.1)
        self.factor = factor

    def initial(self, p):
        return (1.0,)

    def dynamics(self, t, y, p):
        return (-p.k * y.amount * self.factor(t, y, p),)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.amount, p.s)}


JUMPS = {
    "of no straight line": lambda t, y, p: torch.where(torch.exp(t) * t < p.tsw, 1.0, 0.5),
    "of a product": lambda t, y, p: torch.floor((t - p.tsw) * t),
    "at one moment": lambda t, y, p: torch.where(t == 1.2, 1.0, 0.5),
}
FOLLOWED = {
    "where": lambda t, y, p: torch.where(t < p.tsw, 1.0, 0.5),
    "mask": lambda t, y, p: 1.0 + (t >= p.tsw),
    "pulse": lambda t, y, p: ((t > 1.2) & (t < 1.3)) * 5.0,
    "square wave": lambda t, y, p: 1.0 * ((t % 0.5) < 0.25),
    "steps": lambda t, y, p: torch.floor(t / p.tsw),
}
SMOOTH = {
    "softplus": lambda t, y, p: torch.nn.functional.softplus(30 * (t - p.tsw)),
    "ramp": lambda t, y, p: (t - p.tsw).clamp(min=0.0),
    "kink": lambda t, y, p: torch.relu(p.tsw - t),
    "of a state": lambda t, y, p: torch.where(y.amount < p.tsw, 1.0, 0.5),
    "time": lambda t, y, p: torch.exp(-t / p.tsw),
}


def data():
    rows = [{"ID": i, "TIME": t, "DV": np.exp(-0.3 * t)} for i in range(3) for t in (0.0, 1.0, 2.0)]
    return nlme.Dataset.from_frame(pd.DataFrame(rows))


@pytest.mark.parametrize("name", [*JUMPS, *FOLLOWED, *SMOOTH])
def test_only_jumps_in_time_are_told_of(name, caplog):
    model, solver = Switched((JUMPS | FOLLOWED | SMOOTH)[name]), nlme.RK4(4, compile=False)
    density = Density(model, data().batch(), solver)
    told = any("step over a short pulse" in text for text in solver_warnings(density, torch.zeros(1, 3).double()))
    with caplog.at_level(logging.WARNING, logger="nlme_torch"):
        nlme.simulate(model, data(), seed=1, solver=solver)
    assert told == (name in JUMPS)
    assert ("step over a short pulse" in caplog.text) == told


def test_branches_of_python_are_told_of():
    def branch(t, y, p):
        return 1.0 if t.mean() < p.tsw.mean() else 0.5

    density = Density(Switched(branch), data().batch(), nlme.RK4(4, compile=False))
    assert any("step over a short pulse" in text for text in solver_warnings(density, torch.zeros(1, 3).double()))


def test_a_steady_state_before_switches_is_told_of():
    rows = [{"ID": 1, "TIME": 0.0, "AMT": 10.0, "SS": 1, "II": 12.0, "EVID": 1, "DV": np.nan}]
    rows += [{"ID": 1, "TIME": t, "AMT": 0.0, "SS": 0, "II": 0.0, "EVID": 0, "DV": 1.0} for t in (1.0, 2.0)]
    model = Switched(FOLLOWED["where"])
    density = Density(model, nlme.Dataset.from_frame(pd.DataFrame(rows)).batch(), nlme.RK4(4, compile=False))
    assert any("steady-state dose" in text for text in solver_warnings(density, torch.zeros(1, 1).double()))
