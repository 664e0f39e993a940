"""Which observations have the constant log 2 pi that NONMEM's objective function leaves out."""

import math

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.normal_observations import normal_observations


class Several(nlme.Model):
    """Every kind of outcome beside a normal one."""

    def __init__(self, kinds):
        super().__init__()
        self.kinds = kinds
        self.a = nlme.Normal(1.0, omega=0.1)

    def predict(self, t, p, cov):
        return p.a + 0.0 * t

    def observe(self, t, prediction, p):
        return {name: kind(prediction) for name, kind in self.kinds.items()}


KINDS = {
    "normal": (lambda f: dist.Normal(f, 0.5), True),
    "proportional": (lambda f: nlme.observation.Proportional(f, 0.2), True),
    "lognormal": (lambda f: dist.LogNormal(f, 0.3), True),
    "truncated": (lambda f: nlme.observation.Truncated(dist.Normal(f, 0.5)), True),
    "student": (lambda f: nlme.observation.StudentT(f, 0.5, 4.0), False),
    "poisson": (lambda f: nlme.observation.Poisson(f.abs()), False),
    "binary": (lambda f: nlme.observation.Bernoulli(torch.sigmoid(f)), False),
}


def one_of_each(names, censored=()):
    rows = [
        {
            "ID": subject,
            "TIME": float(time),
            "DV": 1.0,
            "DVID": position + 1,
            "CENS": int(name in censored and time == 2),
        }
        for subject in (1, 2)
        for time in range(1, 3 + subject)
        for position, name in enumerate(names)
    ]
    frame = pd.DataFrame(rows)
    marks = {"cens": "CENS"} if censored else {}
    if not censored:
        frame = frame.drop(columns="CENS")
    outputs = {name: position + 1 for position, name in enumerate(names)}
    return nlme.Dataset.from_frame(frame, outputs=outputs, dvid="DVID", **marks)


@pytest.mark.parametrize("name", KINDS)
def test_normal_and_log_normal_outcomes_count_beside_others_that_do_not(name):
    kind, counted = KINDS[name]
    data = one_of_each([name, "counts"])
    density = Density(Several({name: kind, "counts": KINDS["poisson"][0]}), data.batch(), nlme.Tsit5())
    assert normal_observations(density).tolist() == ([3, 4] if counted else [0, 0])


def test_censored_values_do_not_count_whatever_their_distribution():
    data = one_of_each(["normal", "lognormal"], censored=("normal",))
    model = Several({"normal": KINDS["normal"][0], "lognormal": KINDS["lognormal"][0]})
    assert normal_observations(Density(model, data.batch(), nlme.Tsit5())).tolist() == [5, 7]


def test_every_objective_subtracts_the_same_constant():
    data = one_of_each(["normal", "poisson"], censored=("normal",))
    model = Several({name: KINDS[name][0] for name in ("normal", "poisson")})
    constant = 5 * math.log(2 * math.pi)  # seven normal values, two of them censored; counts have none
    fit = nlme.fit(model, data, nlme.Laplace(optimiser=nlme.BFGS(iterations=2)), progress=False)
    assert fit.minus2ll - fit.ofv == pytest.approx(constant, abs=1e-9)
    assert f"OFV {fit.ofv:.3f}" in str(fit)
    assert fit.trace["ofv"].iloc[-1] == pytest.approx(fit.ofv, abs=1e-3)
    value = nlme.ofv(fit.model, data, nlme.Laplace())
    assert value.minus2ll - value.ofv == pytest.approx(constant, abs=1e-9)
    np.testing.assert_allclose(value.subjects["minus2ll"] - value.subjects["ofv"], [2 * constant / 5, 3 * constant / 5])
    sampled = nlme.loglik(fit, nlme.ImportanceSampling(samples=50))
    assert sampled.minus2ll - sampled.ofv == pytest.approx(constant, abs=1e-9)
    assert nlme.held_out(fit, data).minus2ll - nlme.held_out(fit, data).ofv == pytest.approx(constant, abs=1e-9)
    table = nlme.compare(a=fit, b=fit).table
    np.testing.assert_allclose(table["-2LL"] - table["OFV"], constant)
