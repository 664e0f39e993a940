"""Fits, predictions and simulations of equations that switch in time: those of their closed form."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.model import Density

TIMES = (0.0, 1.0, 3.0, 4.5, 7.0, 8.0, 10.0)


def level(t, k, tsw):
    """The solution of dy/dt = (10, from tsw on 40) - k y from 0."""
    late = (t - tsw).clamp(min=0.0)
    return 10.0 / k * (1 - torch.exp(-k * t)) + 30.0 / k * (1 - torch.exp(-k * late))


class Equation(nlme.Model):
    states = ("amount",)

    def __init__(self, tsw=5.2, omega=0.02, occasions=None):
        super().__init__()
        self.k, self.s = nlme.LogNormal(0.3, omega=0.02), nlme.Positive(0.3)
        self.tsw = nlme.LogNormal(tsw, omega=omega, occasions=occasions)

    def initial(self, p):
        return (0.0,)

    def individual(self, p, cov):
        return {"begin": cov.BEGIN if "BEGIN" in cov else 0.0}

    def dynamics(self, t, y, p):
        return (torch.where(t - p.begin < p.tsw, 10.0, 40.0) - p.k * y.amount,)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.amount, p.s)}


class Closed(nlme.Model):
    def __init__(self, tsw=5.2, omega=0.02, occasions=None):
        super().__init__()
        self.k, self.s = nlme.LogNormal(0.3, omega=0.02), nlme.Positive(0.3)
        self.tsw = nlme.LogNormal(tsw, omega=omega, occasions=occasions)

    def predict(self, t, p, cov):
        return level(t - (cov.BEGIN if "BEGIN" in cov else 0.0), p.k, p.tsw)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.s)}


def design(subjects=8):
    rows = [{"ID": i, "TIME": t, "DV": 1.0} for i in range(subjects) for t in TIMES]
    return nlme.Dataset.from_frame(pd.DataFrame(rows))


@pytest.fixture(scope="module")
def data():
    return nlme.simulate(Closed(), design(), seed=3)


SHORT = nlme.SAEM(schedule=nlme.StepSchedule(exploration=15, smoothing=10), chains=4)


def test_simulations_are_those_of_the_closed_form():
    for seed in (1, 2):
        found, exact = (nlme.simulate(model(), design(), seed=seed).frame.DV for model in (Equation, Closed))
        np.testing.assert_allclose(found, exact, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("method", [SHORT, nlme.Laplace()], ids=["saem", "laplace"])
def test_a_fit_is_that_of_the_closed_form(data, method):
    value = nlme.Laplace()
    fit, exact = (
        nlme.fit(model(4.0), data, method, seed=1, likelihood=value, progress=False) for model in (Equation, Closed)
    )
    assert fit.status is exact.status
    assert fit.minus2ll == pytest.approx(exact.minus2ll, abs=0.2)
    for name, allowed in (("k", 0.01), ("tsw", 0.01), ("s", 0.03)):
        assert fit.parameters.estimate[name] == pytest.approx(exact.parameters.estimate[name], rel=allowed)
    np.testing.assert_allclose(fit.predictions.IPRED, exact.predictions.IPRED, rtol=0.02, atol=0.2)


BETWEEN = nlme.Occasions(2, omega=0.03)


def occasions(subjects=5, resets=False):
    """Two occasions of 10 hours, the second from 12 on; the states begin anew there."""
    rows = []
    for subject in range(subjects):
        for occasion, begin in ((1, 0.0), (2, 12.0)):
            where = {"ID": subject, "OCC": occasion, "BEGIN": begin}
            if resets and begin:
                rows.append({**where, "TIME": begin, "EVID": 3, "DV": np.nan})
            rows += [{**where, "TIME": begin + t, "EVID": 0, "DV": 1.0} for t in TIMES]
    frame = pd.DataFrame(rows) if resets else pd.DataFrame(rows).drop(columns="EVID")
    return nlme.Dataset.from_frame(frame, time_varying=["BEGIN"])


def in_occasions(**how):
    """Equation and closed form whose switch time differs between occasions, with the same observations."""
    closed = nlme.simulate(Closed(occasions=BETWEEN), occasions(), **how)
    frame = occasions(resets=True).frame
    frame.loc[frame.EVID == 0, "DV"] = closed.frame.DV.to_numpy()
    data = nlme.Dataset.from_frame(frame, time_varying=["BEGIN"])
    return (Equation(occasions=BETWEEN), data), (Closed(occasions=BETWEEN), closed)


def test_switch_times_of_occasions_have_the_likelihood_and_gradient_of_the_closed_form():
    eta = 0.2 * torch.randn(4, 1, 1, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for model, data in in_occasions(seed=4, eta=0.15 * torch.ones(4, 5, dtype=torch.float64)):
        density = Density(model, data.batch(), nlme.Auto(rtol=1e-9, atol=1e-11))
        point = eta.clone().requires_grad_()
        value = density.at().log_joint(point)[0, 0]
        slope = torch.autograd.grad(value.sum(), point, create_graph=True)[0]
        (bend,) = torch.autograd.grad((slope * eta.flip(0)).sum(), point)
        found.append((value.detach().numpy(), slope.detach().numpy(), bend.numpy()))
    for got, exact in zip(*found, strict=True):
        np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-4)


def test_a_fit_with_occasions_predicts_what_the_closed_form_does():
    fits = []
    for model, data in in_occasions(seed=5):
        fits.append(nlme.fit(model, data, nlme.FOCEI(mode_starts=1), progress=False))
    fit, exact = fits
    assert fit.minus2ll == pytest.approx(exact.minus2ll, abs=5e-3)
    for moments in ([2.0, 6.0, 9.0], [13.0, 18.0, 21.0]):
        new, right = (found.predict(moments) for found in (fit, exact))
        np.testing.assert_allclose(new[["PRED", "IPRED"]], right[["PRED", "IPRED"]], rtol=2e-3, atol=2e-3)
