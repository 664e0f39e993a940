"""Models of a few lines that several tests share."""

import pandas as pd
import pyro.distributions as dist
import torch
from torch.nn.functional import softplus

import nlme_torch as nlme

DOUBLE = torch.float64


def number(value):
    return torch.tensor(value, dtype=DOUBLE)


class Line(nlme.Model):
    """y = a + b t + e: the linear Gaussian mixed model of tests/support/mixed_linear.py."""

    def __init__(self, a=None, b=None, sigma=None, full=False):
        super().__init__()
        self.a = nlme.Normal(1.0, omega=1.0) if a is None else a
        self.b = nlme.Normal(0.0, nlme.Shift("x"), omega=1.0) if b is None else b
        self.sigma = nlme.Positive(1.0) if sigma is None else sigma
        if full:
            self.ab = nlme.Omega("a", "b", structure="full")

    def predict(self, t, p, cov):
        return p.a + p.b * t

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


class Everything(nlme.Model):
    """One of each: correlated, fixed-omega and latent effects, shared and random weights, priors, a
    covariate effect."""

    states = ("depot", "central", "effect")

    def __init__(self):
        super().__init__()
        self.ka = nlme.LogNormal(1.2, omega=0.2, prior=dist.LogNormal(number(0.0), number(1.0)))
        self.cl = nlme.LogNormal(0.3, nlme.Power("WT", ref=70.0, exponent=0.75), omega=0.1)
        self.v = nlme.Normal(3.0, nlme.Shift("WT", ref=70.0, coefficient=0.01), omega=0.2)
        self.f = nlme.LogitNormal(0.7, omega=nlme.Fixed(0.1))
        self.kout = nlme.Positive(0.5, prior=dist.Gamma(number(2.0), number(3.0)))
        self.power = nlme.Bounded(0.8, 0.2, 2.0)
        self.shift = nlme.Real(0.1, prior=nlme.L1(2.0))
        self.dose = nlme.Fixed(10.0)
        self.z = nlme.Latent(2)
        self.drive = nlme.MLP(3, 2, 1, prior=nlme.L2(1.0))
        self.uptake = nlme.RandomWeights(nlme.MLP(1, 2, 1, prior=nlme.L2(0.5)), omega=nlme.Diagonal(0.05))
        self.loss = nlme.RandomWeights(nlme.MLP(1, 2, 1), omega=nlme.LowRank(2))
        self.sigma_pk = nlme.Positive(0.3, prior=dist.LogNormal(number(0.0), number(0.5)))
        self.sigma_pd = nlme.Positive(0.2)
        self.disposition = nlme.Omega("cl", "v", structure="full")

    def individual(self, p, cov):
        return {"scaled": p.dose * p.f, "weight": cov.WT / 70.0}

    def initial(self, p):
        return p.scaled, 0.0, 1.0 + 0.1 * p.z[0]

    def dynamics(self, t, y, p):
        absorbed = p.ka * softplus(p.uptake(t / 5)) * y.depot
        lost = p.cl / p.v * softplus(1 + p.loss(y.central)) * y.central
        drive = p.drive(y.central / p.v, p.z)
        return -absorbed, absorbed - lost, p.kout * (1 + p.weight * drive - y.effect)

    def observe(self, t, y, p):
        pk = dist.LogNormal((y.central / p.v + 0.05).log() * p.power + p.shift, p.sigma_pk)
        return {"yPK": pk, "yPD": dist.Normal(y.effect, p.sigma_pd)}


def everything_data():
    """Five subjects with two to five records; the outcomes are observed at different records, one is never seen."""
    rng = torch.Generator().manual_seed(3)
    rows = []
    for subject, records in enumerate((5, 2, 4, 3, 5)):
        times = torch.rand(records, generator=rng, dtype=DOUBLE).sort().values * 6
        for record, time in enumerate(times.tolist()):
            pk = torch.rand((), generator=rng).item() + 0.2 if (record + subject) % 3 else None
            pd_ = torch.rand((), generator=rng).item() + 0.5 if record % 2 == 0 and subject != 1 else None
            rows.append({"ID": f"s{subject}", "TIME": time, "yPK": pk, "yPD": pd_, "WT": 60.0 + 5 * subject})
    return nlme.Dataset.from_frame(pd.DataFrame(rows), outputs=["yPK", "yPD"], covariates=["WT"])
