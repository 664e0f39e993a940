"""Newton's M-step of parameters without an effect: what it climbs, that units do not matter, and poor starts."""

import math

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import minimize
from support.small_models import DOUBLE, number

import nlme_torch as nlme
from nlme_torch.inference.saem.newton_m_step import by_curvature, curvature_step
from nlme_torch.model.declare.values import free_names, parameter_values
from nlme_torch.model.density.density import Density

AGES = [118.0, 484.0, 664.0, 1004.0, 1231.0, 1372.0, 1582.0]
TREES = [
    [30, 58, 87, 115, 120, 142, 145],
    [33, 69, 111, 156, 172, 203, 203],
    [30, 51, 75, 108, 115, 139, 140],
    [32, 62, 112, 167, 179, 209, 214],
    [30, 49, 81, 125, 142, 174, 177],
]
"""Draper and Smith (1998), Applied regression analysis: circumferences (mm) of orange trees at ages (days)."""


def trees(unit=1.0):
    frame = pd.DataFrame(
        {"ID": np.repeat(range(5), 7), "TIME": np.tile(AGES, 5) * unit, "DV": np.ravel(TREES).astype(float)}
    )
    return nlme.Dataset.from_frame(frame)


class Growth(nlme.Model):
    """Logistic growth with an effect on the asymptote alone."""

    def __init__(self, asym, xmid, scal, sigma, omega):
        super().__init__()
        self.asym = nlme.Normal(asym, omega=omega)
        self.xmid, self.scal = nlme.Real(xmid), nlme.Positive(scal)
        self.sigma = nlme.Positive(sigma)

    def predict(self, t, p, cov):
        return p.asym / (1 + torch.exp((p.xmid - t) / p.scal))

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def exact_minus2ll(asym, xmid, scal, sigma, omega):
    """Of the orange trees: linear in the effect, so that their distribution is normal."""
    shape = 1 / (1 + np.exp((xmid - np.array(AGES)) / scal))
    covariance = sigma**2 * np.eye(7) + omega * np.outer(shape, shape)
    residuals = np.array(TREES) - asym * shape
    quadratic = np.einsum("ni,ij,nj->", residuals, np.linalg.inv(covariance), residuals)
    return 5 * (np.linalg.slogdet(covariance)[1] + 7 * math.log(2 * math.pi)) + quadratic


@pytest.mark.parametrize(
    "start", [(200, 700, 350, 8, 900), (575, 240, 1050, 24, 100), (64, 2100, 115, 3, 10000)], ids=str
)
def test_the_maximum_is_reached_from_poor_starts(start):
    """With single gradient steps of a fixed length these ended at 263.57, 342.05 and 302.88."""
    model = Growth(*start)
    method = nlme.SAEM(schedule=nlme.StepSchedule(exploration=220, smoothing=100))
    density = Density(model, trees().batch(), nlme.Tsit5())
    values = method.estimate(density, torch.Generator().manual_seed(1), False).values
    asym, xmid = (values[name].item() for name in ("asym.typical", "xmid.unconstrained"))
    scal, sigma = (values[f"{name}.unconstrained"].exp().item() for name in ("scal", "sigma"))
    omega = density.at(values).covariance()[0, 0, 0].item()
    assert exact_minus2ll(asym, xmid, scal, sigma, omega) == pytest.approx(263.1438, abs=0.1)


NAMES = ("c.unconstrained", "sigma.unconstrained")


class Shared(nlme.Model):
    """y = a_i + c t + e with Student-t errors, so that sigma has no closed form."""

    def __init__(self, prior=None, unit=1.0):
        super().__init__()
        self.a = nlme.Normal(1.0, omega=0.5)
        self.c = nlme.Real(2.0 * unit, prior=prior)
        self.sigma = nlme.Positive(0.3)
        self.unit = unit

    def predict(self, t, p, cov):
        return p.a + p.c * t / self.unit

    def observe(self, t, y, p):
        return {"DV": dist.StudentT(4.0, y, p.sigma)}


def straight(prior=None, unit=1.0):
    rng = np.random.default_rng(0)
    times = np.tile([0.0, 1.0, 2.0, 3.0], 6)
    frame = pd.DataFrame(
        {"ID": np.repeat(range(6), 4), "TIME": times, "DV": 1 + 0.7 * times + 0.2 * rng.normal(size=24)}
    )
    return Density(Shared(prior, unit), nlme.Dataset.from_frame(frame).batch(), nlme.Tsit5())


def phi_draws(starts=1):
    return 1.0 + 0.1 * torch.randn(1, 5, starts, 6, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def steps(density, values, phi, count, **options):
    state = None
    for _ in range(count):
        moved, state = curvature_step(density, values, NAMES, phi, state, 1.0, **options)
        values = {**values, **moved}
    return values, state


@pytest.mark.parametrize("prior", [None, dist.Normal(number(0.9), number(0.02))], ids=["no prior", "prior"])
def test_a_few_steps_end_at_the_maximum_of_several_starts(prior):
    density, phi = straight(prior), phi_draws(2)
    values = parameter_values(density.model, starts=2)
    values["c.unconstrained"] = number([7.0, -40.0])
    found, _ = steps(density, values, phi, 15)
    for start in range(2):
        own = phi[:, :, start : start + 1]

        def negative(point, own=own):
            at = {**parameter_values(density.model), NAMES[0]: number([point[0]]), NAMES[1]: number([point[1]])}
            conditional = density.at(at)
            total = conditional.log_likelihood(own - conditional.mean[:, None]).sum(-1).mean(0)
            return -(total + density.log_prior(at)).item()

        best = minimize(negative, [0.7, -1.6], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
        point = [found[name][start].item() for name in NAMES]
        assert negative(point) < best.fun + 1e-6 and point == pytest.approx(best.x, abs=1e-4)


def test_units_do_not_matter():
    """A slope per thousand units of time: the same way to the maximum, a thousand times as long."""
    ends = []
    for unit in (1.0, 1e3, 1e-3):
        density = straight(unit=unit)
        found, _ = steps(density, parameter_values(density.model), phi_draws(), 3)
        ends.append(found["c.unconstrained"].item() / unit)
    assert ends[1] == pytest.approx(ends[0], rel=1e-6) and ends[2] == pytest.approx(ends[0], rel=1e-6)


def test_with_effects_held_a_typical_value_moves_and_with_phi_held_it_does_not():
    density, phi = straight(), phi_draws()
    values = parameter_values(density.model)
    names = (*NAMES, "a.typical")
    still, _ = curvature_step(density, values, names, phi, None, 1.0)
    moved, _ = curvature_step(density, values, names, phi, None, 1.0, hold_effects=True)
    assert torch.equal(still["a.typical"], values["a.typical"]) and moved["a.typical"] != values["a.typical"]


def test_draws_that_cannot_be_evaluated_do_not_count():
    density, phi = straight(), phi_draws()
    values = parameter_values(density.model)
    broken = phi.clone()
    broken[0, 0] = math.nan
    clean, _ = curvature_step(density, values, NAMES, phi[:, 1:], None, 1.0)
    found, _ = curvature_step(density, values, NAMES, broken, None, 1.0)
    for name in NAMES:
        torch.testing.assert_close(found[name], clean[name], rtol=1e-8, atol=1e-10)


def test_a_parameter_that_nothing_depends_on_rests():
    class Idle(Shared):
        def __init__(self):
            super().__init__()
            self.idle = nlme.Real(3.0)

    density = Density(Idle(), straight().batch, nlme.Tsit5())
    values = parameter_values(density.model)
    moved, _ = curvature_step(density, values, (*NAMES, "idle.unconstrained"), phi_draws(), None, 1.0)
    assert moved["idle.unconstrained"].item() == 3.0 and moved["c.unconstrained"].item() != 2.0


def test_network_weights_do_not_move_by_newton_steps():
    class WithNetwork(Shared):
        def __init__(self):
            super().__init__()
            self.net = nlme.MLP(1, 2, 1)

    model = WithNetwork()
    chosen = by_curvature(model, free_names(model))
    assert "c.unconstrained" in chosen and "net.weights" not in chosen


def test_the_given_values_are_not_changed():
    density = straight()
    values = parameter_values(density.model)
    before = {name: value.clone() for name, value in values.items()}
    curvature_step(density, values, NAMES, phi_draws(), None, 1.0, hold_effects=True)
    assert all(torch.equal(values[name], before[name]) for name in values)


def test_draws_that_predict_nothing_finite_do_not_carry_the_residual_error_away(theophylline):
    # one concentration mistyped by 1e4: typical values move far, and some draws with them
    frame = theophylline.frame
    frame.loc[20, "conc"] *= 1e4
    data = nlme.Dataset.from_frame(frame, id="Subject", time="Time", outputs="conc", covariates=("Wt", "Dose"))
    method = nlme.SAEM(schedule=nlme.StepSchedule(exploration=12, smoothing=3))
    fit = nlme.fit(nlme.examples.TheophyllineClosedForm(), data, method, progress=False)
    assert np.isfinite(fit.trace[["ka", "cl", "v", "sigma", "omega_ka"]].to_numpy()).all()
