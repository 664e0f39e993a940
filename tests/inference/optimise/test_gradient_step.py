"""The gradient half of the M-step: what it climbs, and what it must not move."""

import math

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import minimize
from support.small_models import DOUBLE, number

import nlme_torch as nlme
from nlme_torch.inference.optimise.gradient_step import adam_init, gradient_step
from nlme_torch.model.declare.values import flatten_values, parameter_values
from nlme_torch.model.density.density import Density

NAMES = ("c.unconstrained", "sigma.unconstrained")


class Shared(nlme.Model):
    """y = a_i + c t + e with a positive slope c that everybody shares; Student-t errors, so that sigma
    has no closed form."""

    def __init__(self, prior=None):
        super().__init__()
        self.a = nlme.Normal(1.0, omega=0.5)
        self.c = nlme.Positive(2.0, prior=prior)
        self.sigma = nlme.Positive(0.3)

    def predict(self, t, p, cov):
        return p.a + p.c * t

    def observe(self, t, y, p):
        return {"DV": dist.StudentT(4.0, y, p.sigma)}


@pytest.fixture(scope="module")
def density():
    rng = np.random.default_rng(0)
    times = np.tile([0.0, 1.0, 2.0, 3.0], 6)
    frame = pd.DataFrame(
        {"ID": np.repeat(range(6), 4), "TIME": times, "DV": 1 + 0.7 * times + 0.2 * rng.normal(size=24)}
    )
    return lambda prior=None: Density(Shared(prior), nlme.Dataset.from_frame(frame).batch(), nlme.Tsit5())


def phi_draws(starts=1):
    return 1.0 + 0.1 * torch.randn(1, 5, starts, 6, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def objective(density, values, phi):
    conditional = density.at(values)
    return conditional.log_likelihood(phi - conditional.mean[:, None]).sum(-1).mean(0) + density.log_prior(values)


@pytest.mark.parametrize("prior", [None, dist.LogNormal(number(0.0), number(0.1))], ids=["no prior", "prior"])
def test_the_moments_hold_the_gradient_of_the_expected_log_joint_and_prior(density, prior):
    density, phi = density(prior), phi_draws(2)
    values = parameter_values(density.model, starts=2)
    values["c.unconstrained"] = number([0.7, -0.4])
    _, state = gradient_step(density, values, NAMES, phi, adam_init(values, NAMES), 0.0)
    step = 1e-6
    for index, name in enumerate(NAMES):
        ends = [objective(density, {**values, name: values[name] + sign * step}, phi) for sign in (1.0, -1.0)]
        torch.testing.assert_close(state.first[:, index] / 0.1, (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(state.second, 0.01 * (state.first / 0.1).square())
    assert state.first.shape == (2, 2)


def test_many_steps_end_at_the_maximum(density):
    density, phi = density(), phi_draws()
    values = parameter_values(density.model)
    state = adam_init(values, NAMES)
    for step in range(400):
        moved, state = gradient_step(density, values, NAMES, phi, state, 0.05 * 0.99**step)
        assert set(moved) == set(NAMES)
        values = {**values, **moved}
    best = minimize(
        lambda v: -objective(density, {**values, NAMES[0]: number([v[0]]), NAMES[1]: number([v[1]])}, phi).item(),
        [math.log(0.7), math.log(0.2)],
        method="Nelder-Mead",
        options={"xatol": 1e-8, "fatol": 1e-10},
    )
    np.testing.assert_allclose(flatten_values(values, NAMES)[0].numpy(), best.x, atol=2e-4)


def test_phi_is_held_so_that_typical_values_feel_no_gradient(density):
    """Holding eta instead moves typical values at a crawl: they belong to the closed form."""
    density, phi = density(), phi_draws()
    values = parameter_values(density.model)
    names = (*NAMES, "a.typical")
    _, state = gradient_step(density, values, names, phi, adam_init(values, names), 0.1)
    assert state.first[0, 2] == 0.0 and (state.first[0, :2] != 0).all()
    _, state = gradient_step(density, values, names, phi - 1.0, adam_init(values, names), 0.1, hold_effects=True)
    assert state.first[0, 2] != 0.0


def test_a_draw_that_cannot_be_evaluated_does_not_poison_the_rest(density):
    density, phi = density(), phi_draws()
    values = parameter_values(density.model)
    _, clean = gradient_step(density, values, NAMES, phi[:, 1:], adam_init(values, NAMES), 0.1)
    phi = phi.clone()
    phi[0, 0] = math.nan
    moved, state = gradient_step(density, values, NAMES, phi, adam_init(values, NAMES), 0.1)
    assert all(torch.isfinite(value).all() for value in moved.values())
    torch.testing.assert_close(state.first, clean.first * 4 / 5, rtol=1e-10, atol=1e-12)


def test_the_given_values_are_not_changed(density):
    density = density()
    values = parameter_values(density.model)
    before = {name: value.clone() for name, value in values.items()}
    gradient_step(density, values, NAMES, phi_draws(), adam_init(values, NAMES), 0.1)
    assert all(torch.equal(values[name], before[name]) for name in values)
