"""Models whose values are finite where their derivatives are not: fitted as if time 0 were a moment later."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.inference.modes.derivatives import derivatives
from nlme_torch.model.density.absolute_zeros import gradients
from nlme_torch.model.density.density import Density

DOUBLE = torch.float64
MOMENT = 1e-12


class SigmoidEmax(nlme.Model):
    """Effect by a Hill function of a concentration that is 0 before the first dose."""

    states = ("central",)
    moment = 0.0

    def __init__(self, exponent=0.8):
        super().__init__()
        self.k, self.v = nlme.LogNormal(0.3, omega=0.05), nlme.LogNormal(2.0, omega=0.05)
        self.e, self.ec = nlme.LogNormal(5.0, omega=0.05), nlme.Positive(1.5)
        self.g, self.s = nlme.LogNormal(exponent, omega=0.05), nlme.Positive(0.2)

    def dynamics(self, t, y, p):
        return (-p.k * y.central,)

    def observe(self, t, y, p):
        c = (y.central + self.moment) / p.v
        return {"DV": dist.Normal(p.e * c**p.g / (p.ec**p.g + c**p.g), p.s)}


class SigmoidEmaxClosed(SigmoidEmax):
    """The same by a compartment in closed form."""

    dynamics = nlme.Model.dynamics

    def compartments(self, p):
        return nlme.compartments.OneCompartment(p.k * p.v, p.v)


class Transit(nlme.Model):
    """Transit absorption as an algebraic model."""

    moment = 0.0

    def __init__(self):
        super().__init__()
        self.n, self.k = nlme.LogNormal(2.5, omega=0.05), nlme.LogNormal(1.2, omega=0.05)
        self.s = nlme.Positive(0.1)

    def predict(self, t, p, cov):
        moment = t + self.moment
        return 5 * torch.exp(p.n * torch.log(p.k * moment) - torch.lgamma(p.n + 1) - p.k * moment)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.s)}


class TransitEquation(Transit):
    """Transit absorption into one compartment, as an equation."""

    states = ("central",)
    predict = nlme.Model.predict

    def dynamics(self, t, y, p):
        moment = t + self.moment
        rate = 5 * p.k * torch.exp(p.n * torch.log(p.k * moment) - torch.lgamma(p.n + 1) - p.k * moment)
        return (rate - 0.3 * y.central,)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.central, p.s)}


class Weibull(nlme.Model):
    """A hazard that begins at 0 like a power of time, as a state; observed is the cumulative hazard."""

    states = ("hazard",)
    moment = 0.0

    def __init__(self):
        super().__init__()
        self.lam, self.k = nlme.LogNormal(0.3, omega=0.05), nlme.LogNormal(1.6, omega=0.02)
        self.s = nlme.Positive(0.1)

    def dynamics(self, t, y, p):
        return (p.k * p.lam * (p.lam * (t + self.moment)) ** (p.k - 1),)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.hazard, p.s)}


class Extinct(nlme.Model):
    """A population that dies out in finite time, seen through its square root."""

    states = ("size",)
    moment = 0.0

    def __init__(self):
        super().__init__()
        self.k, self.s = nlme.LogNormal(0.7, omega=0.05), nlme.Positive(0.1)

    def initial(self, p):
        return (1.0,)

    def dynamics(self, t, y, p):
        return (-p.k * torch.sqrt((y.size - self.moment).clamp(min=0.0)),)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(torch.sqrt((y.size - 1e-3).clamp(min=0.0) + 1e6 * self.moment * 0), p.s)}


def table(subjects=6, dosed=False):
    rows = []
    numbers = np.random.default_rng(3)
    for subject in range(subjects):
        if dosed:
            rows.append({"ID": subject, "TIME": 0.5, "AMT": 10.0, "EVID": 1})
        for time in (0.0, 0.7, 1.5, 3.0, 6.0):
            value = 2.0 * np.exp(-time / 3) * (time > 0) + 0.1 * numbers.normal()
            rows.append({"ID": subject, "TIME": time, "DV": value, "EVID": 0})
    frame = pd.DataFrame(rows).sort_values(["ID", "TIME", "EVID"])
    return nlme.Dataset.from_frame(frame if dosed else frame.drop(columns="EVID"))


MODELS = {
    "sigmoid Emax, exponent below 1": (SigmoidEmax, True),
    "sigmoid Emax, exponent above 1": (lambda: SigmoidEmax(1.7), True),
    "sigmoid Emax, closed form": (SigmoidEmaxClosed, True),
    "transit, algebraic": (Transit, False),
    "transit, equation": (TransitEquation, False),
    "Weibull hazard": (Weibull, False),
    "extinction": (Extinct, False),
}


def of_joint(make, dosed, moment, solver):
    """Log joint density, its derivatives in the effects, and its gradient in the parameters."""
    model = make()
    model.moment = moment
    density = Density(model, table(dosed=dosed).batch(), solver)
    effects = 0.1 * torch.sin(torch.arange(model.n_effects * 6, dtype=DOUBLE)).reshape(-1, 1, 1, 6)
    found = derivatives(density.at().log_joint, effects)
    raw = {name: value.detach()[None].clone().requires_grad_() for name, value in model.named_parameters()}
    total = density.at(raw).log_joint(effects).sum()
    return (found.value, found.gradient, found.hessian, *gradients(total, list(raw.values()), materialize_grads=True))


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "plain"])
@pytest.mark.parametrize("name", MODELS)
def test_derivatives_are_those_of_the_equations_a_moment_later(name, compiled):
    make, dosed = MODELS[name]
    solver = nlme.RK4(40, compile=compiled)
    exact, guarded = (of_joint(make, dosed, moment, solver) for moment in (0.0, MOMENT))
    for ours, expected in zip(exact, guarded, strict=True):
        assert torch.isfinite(ours).all()
        # the moment itself moves a power below 1 by MOMENT ** 0.8, and its curvature by more
        assert (ours - expected).abs().max() <= 2e-4 * (1 + expected.abs().max())


class Rooted(nlme.Model):
    """Seen through a square root whose slope at time 0 is truly infinite: the size there depends on an effect."""

    def __init__(self):
        super().__init__()
        self.k, self.s = nlme.Normal(0.7, omega=0.05), nlme.Positive(0.1)

    def predict(self, t, p, cov):
        return torch.sqrt((p.k - 0.7) * (t == 0) + t)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.s)}


def test_a_derivative_that_is_infinite_is_refused_by_operation_time_and_subject():
    with pytest.raises(nlme.FitError, match="derivative of 'sqrt' at time 0 of subject .* is not finite"):
        nlme.fit(Rooted(), table(), nlme.FOCEI(), progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("method", [nlme.FOCEI(), nlme.Laplace(), nlme.Quadrature(nodes=3)], ids=str)
def test_fits_are_those_of_the_guarded_model(method):
    data = nlme.simulate(SigmoidEmax(), table(10, dosed=True), seed=1)
    ends = []
    for moment in (0.0, MOMENT):
        model = SigmoidEmax()
        model.moment = moment
        ends.append(nlme.fit(model, data, method, progress=False))
    assert ends[0].converged
    assert abs(ends[0].minus2ll - ends[1].minus2ll) < 1e-3
