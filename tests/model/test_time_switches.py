"""Equations that jump between records are told of; those that do not jump are not."""

import logging

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.inference.solver_error import solver_warnings
from nlme_torch.model.density import Density


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
    "where": lambda t, y, p: torch.where(t < p.tsw, 1.0, 0.5),
    "mask": lambda t, y, p: 1.0 + (t >= p.tsw),
    "pulse": lambda t, y, p: ((t > 1.2) & (t < 1.3)) * 5.0,
    "square wave": lambda t, y, p: 1.0 * ((t % 0.5) < 0.25),
    "steps": lambda t, y, p: torch.floor(t / p.tsw),
}
SMOOTH = {
    "ramp": lambda t, y, p: (t - p.tsw).clamp(min=0.0),
    "kink": lambda t, y, p: torch.relu(p.tsw - t),
    "of a state": lambda t, y, p: torch.where(y.amount < p.tsw, 1.0, 0.5),
    "time": lambda t, y, p: torch.exp(-t / p.tsw),
}


def data():
    rows = [{"ID": i, "TIME": t, "DV": np.exp(-0.3 * t)} for i in range(3) for t in (0.0, 1.0, 2.0)]
    return nlme.Dataset.from_frame(pd.DataFrame(rows))


@pytest.mark.parametrize("name", [*JUMPS, *SMOOTH])
def test_only_jumps_in_time_are_told_of(name, caplog):
    model, solver = Switched((JUMPS | SMOOTH)[name]), nlme.RK4(4, compile=False)
    density = Density(model, data().batch(), solver)
    told = any("step over a short pulse" in text for text in solver_warnings(density, torch.zeros(1, 3).double()))
    with caplog.at_level(logging.WARNING, logger="nlme_torch"):
        nlme.simulate(model, data(), seed=1, solver=solver)
    assert told == (name in JUMPS)
    assert ("step over a short pulse" in caplog.text) == told
