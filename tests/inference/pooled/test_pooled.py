"""What a pooled fit refuses and what it says."""

import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme


def data():
    rows = [{"ID": subject, "TIME": float(time), "DV": 1.0 + 0.1 * time} for subject in (1, 2, 3) for time in (1, 2, 3)]
    return nlme.Dataset.from_frame(pd.DataFrame(rows))


class Explosion(nlme.Model):
    """x' = k x^2 leaves every bound at t = 1 / k."""

    states = ("x",)

    def __init__(self, k):
        super().__init__()
        self.k = nlme.LogNormal(k, omega=0.1)
        self.sigma = nlme.Positive(1.0)

    def initial(self, p):
        return (1.0,)

    def dynamics(self, t, y, p):
        return (p.k * y.x**2,)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.x, p.sigma)}


@pytest.mark.parametrize("method", [nlme.Pooled(steps=3), nlme.FOCEI(), nlme.SAEM()], ids=str)
def test_a_start_where_nobody_can_be_solved_is_refused(method):
    with pytest.raises(nlme.FitError, match=r"subject 1 .*3 .*all"):
        nlme.fit(Explosion(5.0), data(), method, progress=False)


def test_a_start_that_can_be_solved_is_fitted():
    fit = nlme.fit(Explosion(0.1), data(), nlme.Pooled(steps=3), progress=False)
    assert len(fit.trace) == 3 and not any("depend" in message for message in fit.warnings)


class Unused(nlme.Model):
    """q is declared and read by nobody; the network's input from the effect is zero for typical subjects."""

    def __init__(self):
        super().__init__()
        self.a, self.q = nlme.Normal(0.5, omega=0.1), nlme.Positive(2.0)
        self.z = nlme.Latent(1)
        self.net = nlme.MLP(1, 2, 1)
        self.sigma = nlme.Positive(0.5)

    def predict(self, t, p, cov):
        return p.a + 0.1 * t + p.net(p.z) + 0.0 * torch.as_tensor(t)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def test_what_the_likelihood_does_not_depend_on_is_named():
    fit = nlme.fit(Unused(), data(), nlme.Pooled(steps=3), progress=False)
    said = [message for message in fit.warnings if "does not depend on" in message]
    assert said == ["the objective does not depend on q at the initial values"]
