"""Compiled likelihoods beside the tensor operations: parameters, draws, and small data with everything in them."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.model.compiled.compiled_likelihood import compiled_likelihood
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density


def density_of(model, data):
    return Density(model, data.batch(), nlme.Auto())


def moved(density, starts=1, size=0.05):
    """Conditionals near the model's own parameters, other ones at every start."""
    generator = torch.Generator().manual_seed(starts)
    values = {
        name: value + size * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in parameter_values(density.model, starts=starts).items()
    }
    return density.at(values)


def draws(conditional, chains=2, scale=1.0):
    return scale * conditional.sample(chains, torch.Generator().manual_seed(5))


def both(conditional, eta):
    """The compiled log-likelihood and that of the tensor operations."""
    compiled = compiled_likelihood(conditional)
    assert compiled is not None, "not compiled"
    with torch.no_grad():
        expected = conditional.log_likelihood(eta)
    return compiled.at(conditional)(eta.flatten(-2)).reshape(expected.shape), expected


def assert_same(conditional, eta, rtol=1e-11):
    found, expected = both(conditional, eta)
    assert bool(torch.isfinite(expected).any())
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol)


def lines(subjects=5, records=3):
    """Straight lines with a covariate."""
    rng = np.random.default_rng(0)
    rows = [
        {"ID": subject, "TIME": float(time), "DV": rng.normal(), "x": 0.3 * subject}
        for subject in range(subjects)
        for time in range(records + subject % 2)
    ]
    return nlme.Dataset.from_frame(pd.DataFrame(rows), covariates=["x"])


def line_density(subjects=5):
    return density_of(Line(), lines(subjects))


HISTORY = pd.DataFrame(
    [
        (0.0, 1, 100.0, 0.0), (1.0, 0, 0.0, 0.0), (1.0, 0, 0.0, 0.0), (2.0, 1, 50.0, 2.5), (3.0, 0, 0.0, 0.0),
        (3.0, 1, 20.0, 0.0), (3.0, 0, 0.0, 0.0), (5.0, 4, 80.0, 0.0), (6.0, 0, 0.0, 0.0), (8.0, 3, 0.0, 0.0),
        (8.5, 0, 0.0, 0.0), (9.0, 1, 60.0, 1.0), (9.5, 0, 0.0, 0.0), (12.0, 0, 0.0, 0.0),
    ],
    columns=["TIME", "EVID", "AMT", "DUR"],
)  # fmt: skip
"""Boluses, infusions, resets with a dose and without, duplicated times, an observation before and after a dose."""


def history_data(subjects=5):
    """Subjects with more or less of the history; some begin later."""
    parts = []
    for subject in range(subjects):
        part = HISTORY.iloc[: len(HISTORY) - 2 * (subject % 3)].assign(ID=subject)
        part["TIME"] += 0.25 * subject
        part["AMT"] *= 1 + 0.1 * subject
        parts.append(part)
    frame = pd.concat(parts)
    frame["DV"] = np.where(frame["EVID"] == 0, 2.0 + 0.1 * np.arange(len(frame)), np.nan)
    frame["x"] = 0.2 * frame["ID"]
    return nlme.Dataset.from_frame(frame, covariates=["x"])


class Linear(nlme.Model):
    """A linear system: what subclasses return from ``compartments``."""

    states: tuple[str, ...] = ("central", "peripheral")

    def __init__(self):
        super().__init__()
        self.cl, self.v = nlme.LogNormal(1.5, omega=0.1), nlme.LogNormal(10.0, omega=0.1)
        self.q, self.w = nlme.LogNormal(0.8, omega=0.1), nlme.Positive(15.0)
        self.sigma = nlme.Positive(1.0)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.central / p.v, p.sigma)}


class Matrix(Linear):
    """Two compartments given by their matrix."""

    def compartments(self, p):
        k10, k12, k21 = p.cl / p.v, p.q / p.v, p.q / p.w
        rows = torch.stack([torch.stack([-k10 - k12, k21 + 0.0 * k12]), torch.stack([k12, -k21 + 0.0 * k12])])
        return nlme.compartments.LinearSystem(rows, self.states)


class Absorbed(Linear):
    """Two compartments with a depot, in closed form; a baseline that initial amounts keep."""

    states = ("depot", "central", "peripheral")

    def __init__(self):
        super().__init__()
        self.ka = nlme.LogNormal(1.2, omega=0.1)

    def initial(self, p):
        return 0.0, 3.0 * p.v, 0.0

    def compartments(self, p):
        return nlme.compartments.TwoCompartment(p.cl, p.v, p.q, p.w, absorption=p.ka)


class Oral(nlme.Model):
    """One compartment with a depot, small enough for second derivatives to be compiled soon."""

    states = ("depot", "central")

    def __init__(self):
        super().__init__()
        self.ka, self.cl = nlme.LogNormal(1.2, omega=0.1), nlme.LogNormal(1.5, nlme.Shift("x"), omega=0.1)
        self.v, self.sigma = nlme.Positive(10.0), nlme.Positive(1.0)

    def initial(self, p):
        return 2.0 * p.cl, 3.0 * p.v

    def compartments(self, p):
        return nlme.compartments.OneCompartment(p.cl, p.v, absorption=p.ka)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.central / p.v, p.sigma)}


class Saturable(nlme.Model):
    """Michaelis-Menten elimination, to be walked."""

    states = ("central",)

    def __init__(self):
        super().__init__()
        self.vmax, self.km = nlme.LogNormal(8.0, omega=0.1), nlme.LogNormal(4.0, omega=0.1)
        self.v, self.sigma = nlme.Positive(10.0), nlme.Positive(1.0)

    def dynamics(self, t, y, p):
        return (-p.vmax * y.central / (p.km * p.v + y.central),)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.central / p.v, p.sigma)}


class Domain(Line):
    """Cannot be evaluated where a is negative."""

    def predict(self, t, p, cov):
        return torch.log(p.a) + p.b * t


class Correlated(Line):
    """A line whose intercept and slope are correlated."""

    def __init__(self, omega=((0.5, 0.12), (0.12, 0.15))):
        super().__init__()
        self.ab = nlme.Omega("a", "b", structure=nlme.Full(omega))


class Delayed(Saturable):
    """Doses that come late and in part."""

    def __init__(self):
        super().__init__()
        self.lag, self.f = nlme.LogNormal(0.3, omega=0.1), nlme.LogitNormal(0.8, omega=0.1)

    def dosing(self, p):
        return {"central": nlme.Dosing(lag=p.lag, bioavailability=p.f)}
