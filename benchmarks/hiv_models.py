"""HIV viral dynamics under treatment: the classical model and one with a network, for benchmarks and tests.

Each subject's drug concentration follows from its own known pharmacokinetic parameters (covariates); 500 mg enter the
depot as an infusion of known duration. The classical model is the one that the reference file calls Luo 2012.
"""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch

import nlme_torch as nlme

PHARMACOKINETICS = ("iKa", "iCL", "iVc", "iQ", "iVp", "iDur")


def read(path: Path, subjects: Iterable[int] | None = None) -> nlme.Dataset:
    frame = pd.read_csv(path)
    frame = frame[(frame["evid"] == 1) | frame["Virus"].notna()]
    if subjects is not None:
        frame = frame[frame["id"].isin(list(subjects))]
    frame = frame.drop(columns=["CP", "dv", "Dose"])
    return nlme.Dataset.from_frame(frame, id="id", time="time", outputs=["Virus"], covariates=list(PHARMACOKINETICS))


class _Drug(nlme.Model):
    """Two compartments with absorption; subclasses add the virus."""

    def individual(self, p, cov):
        """A subject's known pharmacokinetic parameters."""
        return {name: getattr(cov, name) for name in PHARMACOKINETICS}

    def dosing(self, p):
        """The dose enters over a known duration (d)."""
        return {"depot": nlme.Dosing(duration=p.iDur)}

    def drug(self, y, p):
        """Amounts of drug (mg per day)."""
        absorbed, back, forth = p.iKa * y.depot, p.iQ / p.iVp * y.peripheral, p.iQ / p.iVc * y.central
        return -absorbed, absorbed + back - forth - p.iCL / p.iVc * y.central, forth - back


class Classical(_Drug):
    """Target cells, infected cells and virus; random effects on lambda and EC50."""

    states = ("depot", "central", "peripheral", "target", "infected", "virus")

    def __init__(self):
        super().__init__()
        self.lam, self.ec50 = nlme.LogNormal(295.0, omega=1.0), nlme.LogNormal(136.0, omega=1.0)
        self.d, self.bet, self.a = nlme.Positive(0.18), nlme.Positive(3.9e-6), nlme.Positive(0.68)
        self.gam, self.om, self.sigma = nlme.Positive(5888.0), nlme.Positive(18.6), nlme.Positive(0.318)

    def initial(self, p):
        """The steady state before treatment."""
        r0 = p.bet * p.lam * p.gam / (p.d * p.a * p.om)
        infected = p.lam / p.a * (1 - 1 / r0)
        return 0.0, 0.0, 0.0, p.lam / (p.d * r0), infected, p.gam / p.om * infected

    def dynamics(self, t, y, p):
        """Rates per day."""
        concentration = 1000 * y.central / p.iVc
        infection = (1 - concentration / (p.ec50 + concentration)) * p.bet * y.target * y.virus
        return (
            *self.drug(y, p),
            p.lam - p.d * y.target - infection,
            infection - p.a * y.infected,
            p.gam * y.infected - p.om * y.virus,
        )

    def observe(self, t, y, p):
        """Logarithm of the virus count."""
        return {"Virus": dist.Normal(torch.log10(y.virus + 1e-6), p.sigma)}

    @staticmethod
    def named(vector):
        """Parameters by name from the reference's vector."""
        names = ("lam", "d", "bet", "a", "gam", "om")
        logarithms = {"ec50": vector[6], "omega_lam": vector[7], "omega_ec50": vector[8]}
        return {
            **{name: 10**value for name, value in zip(names, vector, strict=False)},
            **{name: math.exp(value) for name, value in logarithms.items()},
            "sigma": math.exp(vector[9]) + 0.001,
        }


class WithNetwork(_Drug):
    """Virus grows at a rate that a network gives from two latent effects, the virus itself and the drug."""

    states = ("depot", "central", "peripheral", "virus")

    def __init__(self):
        super().__init__()
        self.z = nlme.Latent(2)
        self.growth = nlme.MLP(4, 8, 8, 1, prior=nlme.L2(1.0))
        self.v0, self.spread, self.sigma = nlme.Positive(1.0), nlme.Positive(1.0), nlme.Positive(0.1)

    def initial(self, p):
        """The steady state before treatment."""
        return 0.0, 0.0, 0.0, p.v0 * torch.exp(p.spread * p.z[0])

    def dynamics(self, t, y, p):
        """Rates per day."""
        return (*self.drug(y, p), p.growth(p.z[0], p.z[1], y.virus, y.central / p.iVc) * y.virus)

    def observe(self, t, y, p):
        """Logarithm of the virus count."""
        return {"Virus": dist.Normal(torch.log10(y.virus) + 4, p.sigma)}

    @staticmethod
    def named(vector):
        """Parameters by name from the reference's vector; its weight matrices are stored by columns."""
        weights, place = [], 0
        for inputs, outputs in ((4, 8), (8, 8), (8, 1)):
            matrix = np.array(vector[place : place + inputs * outputs]).reshape(inputs, outputs).T
            place += inputs * outputs
            weights += [matrix.ravel(), np.array(vector[place : place + outputs])]
            place += outputs
        return {
            "growth": np.concatenate(weights),
            "v0": math.exp(vector[place]) + 0.001,
            "spread": math.exp(vector[place + 1]),
            "sigma": math.exp(vector[place + 2]) + 0.001,
        }
