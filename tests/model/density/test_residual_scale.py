"""Which parameters have the closed-form update of a residual scale, and that the update is the maximum."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import minimize_scalar
from support.small_models import DOUBLE

import nlme_torch as nlme
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.residual_scale import residual_scales, scaled_residuals

FRAME = pd.DataFrame(
    {
        "ID": np.repeat([1, 2, 3], 4),
        "TIME": np.tile([0.5, 1.0, 2.0, 4.0], 3),
        "y": np.linspace(3.0, 1.0, 12),
        "w": [*np.linspace(0.5, 2.0, 6), None, *np.linspace(1.0, 2.0, 5)],
    }
)
DATA = nlme.Dataset.from_frame(FRAME, outputs=["y", "w"])


class Outcomes(nlme.Model):
    """Two outcomes whose distributions a test supplies as functions of prediction and p."""

    def __init__(self, y, w=lambda f, p: dist.Normal(f, 1.0), sigma=None):
        super().__init__()
        self.f = nlme.LogNormal(2.0, omega=0.3)
        self.k = nlme.LogNormal(0.2, omega=0.3)
        self.z = nlme.Latent(1)
        self.sigma = nlme.Positive(0.7) if sigma is None else sigma
        self.tau = nlme.Positive(0.4)
        self._y, self._w = y, w

    def predict(self, t, p, cov):
        return p.f * torch.exp(-p.k * t)

    def observe(self, t, y, p):
        return {"y": self._y(y, p), "w": self._w(y, p)}


def found(y, **options):
    return residual_scales(Density(Outcomes(y, **options), DATA.batch(), nlme.Tsit5()))


QUALIFY = {
    "additive": lambda f, p: dist.Normal(f, p.sigma),
    "proportional": lambda f, p: dist.Normal(f, p.sigma * f),
    "power": lambda f, p: dist.Normal(f, p.sigma * f**0.7),
    "log-normal": lambda f, p: dist.LogNormal(f.log(), p.sigma),
    "torch's own": lambda f, p: torch.distributions.Normal(f, p.sigma * f),
    "with an individual factor": lambda f, p: dist.Normal(f, p.sigma * torch.exp(0.3 * p.z)),
    "of a known form": lambda f, p: dist.Normal(f, p.sigma * (1 + f**2).sqrt()),
}
REFUSED = {
    "combined": lambda f, p: dist.Normal(f, (p.sigma**2 + 0.01 * f**2).sqrt()),
    "sum of two": lambda f, p: dist.Normal(f, p.sigma + p.tau * f),
    "square": lambda f, p: dist.Normal(f, p.sigma**2),
    "Student": lambda f, p: dist.StudentT(5.0, f, p.sigma),
    "in the location too": lambda f, p: dist.Normal(f + 0.1 * p.sigma, p.sigma),
    "in the location at effects other than zero": lambda f, p: dist.Normal(f + p.sigma * p.z, p.sigma),
    "in the location of a log-normal": lambda f, p: dist.LogNormal(f.log() - p.sigma**2 / 2, p.sigma),
    "Laplace": lambda f, p: dist.Laplace(f, p.sigma),
}


@pytest.mark.parametrize("name", QUALIFY)
def test_pure_scales_qualify(name):
    assert found(QUALIFY[name]) == {"sigma": ("y",)}


@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_is_left_to_the_gradient(name):
    assert "sigma" not in found(REFUSED[name])


def test_one_scale_may_serve_several_outcomes():
    both = {"w": lambda f, p: dist.LogNormal(f.log(), 2 * p.sigma)}
    assert found(QUALIFY["additive"], **both) == {"sigma": ("y", "w")}
    assert found(QUALIFY["additive"], w=lambda f, p: dist.Normal(f, p.tau)) == {"sigma": ("y",), "tau": ("w",)}


def test_scales_that_multiply_each_other_are_not_both_updated():
    """Each update would assume the other's old value, and the product would overshoot by its whole error, for ever."""
    assert found(lambda f, p: dist.Normal(f, p.sigma * p.tau)) == {"sigma": ("y",)}


def test_a_parameter_that_another_kind_of_outcome_reads_does_not_qualify():
    assert found(QUALIFY["additive"], w=lambda f, p: dist.Gamma(2.0, p.sigma)) == {}


@pytest.mark.parametrize(
    "sigma", [nlme.Real(0.7), nlme.Bounded(0.7, 0.1, 2.0), nlme.Positive(0.7, fixed=True)], ids=str
)
def test_only_free_positive_parameters_qualify(sigma):
    assert found(QUALIFY["additive"], sigma=sigma) == {}


class InDynamics(nlme.Model):
    states = ("a",)

    def __init__(self):
        super().__init__()
        self.k = nlme.LogNormal(0.3)
        self.sigma = nlme.Positive(0.5)

    def initial(self, p):
        return (2.0,)

    def dynamics(self, t, y, p):
        return (-p.k * p.sigma * y.a,)

    def observe(self, t, y, p):
        return {"y": dist.Normal(y.a, p.sigma), "w": dist.Normal(y.a, 1.0)}


def test_a_scale_that_the_dynamics_read_does_not_qualify():
    assert residual_scales(Density(InDynamics(), DATA.batch(), nlme.RK4(4, compile=False))) == {}


@pytest.mark.parametrize("name", ["additive", "proportional", "log-normal"])
def test_scaled_residuals_give_the_maximum(name):
    """sigma^2 = sum of squared residuals at sigma = 1 over n, against a numerical search of the density."""
    density = Density(Outcomes(QUALIFY[name]), DATA.batch(), nlme.Tsit5())
    values = parameter_values(density.model)
    eta = 0.2 * torch.randn(3, 1, 1, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    observed, _ = density.at(values).observe(eta)
    residuals = scaled_residuals(observed["y"], DATA.batch().outcomes["y"].value[:, None, None]) * 0.7
    sigma = residuals.square().mean().sqrt().item()

    def minus(log_sigma):
        moved = {**values, "sigma.unconstrained": torch.tensor([log_sigma], dtype=DOUBLE)}
        return -density.at(moved).log_likelihood(eta).sum().item()

    best = minimize_scalar(minus, bracket=(-2.0, 0.0), tol=1e-10)
    assert np.exp(best.x) == pytest.approx(sigma, rel=1e-5)
