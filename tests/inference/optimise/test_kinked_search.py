"""A search that ends where a lag meets an observation."""

import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme


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
