"""Covariate effects after a fit, against the exact likelihood of a linear Gaussian mixed model."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
from scipy.optimize import minimize
from support.mixed_linear import MixedLinear

import nlme_torch as nlme
from nlme_torch.errors import FitError, ModelError


class Lines(nlme.Model):
    """a + b t; the covariate c moves a, and the model does not know it."""

    def __init__(self, full=False):
        super().__init__()
        self.a, self.b = nlme.Normal(0.0, omega=1.0), nlme.Normal(0.0, omega=0.3)
        self.sigma = nlme.Fixed(0.8)
        if full:
            self.ab = nlme.Omega("a", "b", structure="full")

    def individual(self, p, cov):
        return {"twice": 2 * p.a}

    def predict(self, t, p, cov):
        return 0.5 * p.twice + p.b * t

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def rich_and_sparse(rich=30, sparse=60, seed=0):
    """Ten samples of some subjects, one of the others; a = 1 + 0.9 c + N(0, 0.3^2)."""
    rng = np.random.default_rng(seed)
    rows, parts = [], []
    for subject in range(rich + sparse):
        count = 10 if subject < rich else 1
        t, c = np.sort(rng.uniform(0, 3, count)), rng.normal()
        y = 1 + 0.9 * c + 0.3 * rng.normal() + (0.5 + 0.3 * rng.normal()) * t + 0.8 * rng.normal(size=count)
        rows += [{"ID": subject, "TIME": t[k], "DV": y[k], "c": c} for k in range(count)]
        one = np.ones(count)
        parts.append((y, np.column_stack([one, t, c * one]), np.column_stack([one, t])))
    data = nlme.Dataset.from_frame(pd.DataFrame(rows), covariates=["c"])
    return data, MixedLinear(*(tuple(part[k] for part in parts) for k in range(3)))


@pytest.mark.parametrize("full", [False, True])
def test_a_linear_network_reaches_the_exact_maximum_with_sparse_subjects(full):
    data, design = rich_and_sparse()
    fit = nlme.fit(Lines(full), data, nlme.FOCEI(), progress=False)
    found = nlme.augment(fit, nlme.MLP(1, 1), parameters=["a"], likelihood=nlme.FOCEI())

    def omega(x):
        factor = np.array([[np.exp(x[0]), 0.0], [x[2] if full else 0.0, np.exp(x[1])]])
        return factor @ factor.T

    def objective(x):
        return design.minus2ll(design.gls(omega(x), 0.8), omega(x), 0.8)

    best = minimize(objective, [-1.0, -1.0, 0.0], method="BFGS")
    b = design.gls(omega(best.x), 0.8)
    weight, bias = found.model.covariate_network.weights.tolist()
    assert weight == pytest.approx(b[2], abs=1e-4)
    assert found.parameters.estimate["a"] + bias == pytest.approx(b[0], abs=1e-4)
    assert found.parameters.estimate["b"] == pytest.approx(b[1], abs=1e-4)
    np.testing.assert_allclose(np.asarray(found.omega, dtype=float), omega(best.x), atol=1e-4)
    assert found.minus2ll == pytest.approx(best.fun, abs=1e-5)
    modes = fit.eta["eta_a"].to_numpy()
    raw = np.polyfit(data.covariates["c"], modes, 1)[0]
    assert abs(raw - b[2]) > 0.1, "the modes of sparse subjects are shrunken: a regression of them is biased"


def test_predictions_come_from_the_covariate_and_the_model_can_be_fitted_on():
    data, _ = rich_and_sparse(rich=15, sparse=0)
    fit = nlme.fit(Lines(), data, nlme.FOCEI(), progress=False)
    network = nlme.MLP(1, 3, 1, scale="auto", prior=nlme.L2(0.5))
    found = nlme.augment(fit, network, parameters=["a"], likelihood=nlme.FOCEI())
    assert str(found.method) == f"augment({fit.method})" and "covariate_network" in str(found)
    assert found.minus2ll < fit.minus2ll - 10
    own = found.model.covariate_network
    c = data.covariates["c"].to_numpy()
    assert float(own.scale) == pytest.approx(np.sqrt(np.mean(c**2)))
    shifts = own.bind(own.weights[:, None])(data.batch().covariates["c"])
    table = found.predictions
    expected = found.parameters.estimate["a"] + shifts.detach().numpy()[table["id"]]
    expected = expected + found.parameters.estimate["b"] * table["time"]
    np.testing.assert_allclose(table["PRED"], expected)
    joint = nlme.fit(found.model, data, nlme.FOCEI(), progress=False)
    assert joint.minus2ll - 2 * joint.log_prior <= found.minus2ll - 2 * found.log_prior + 1e-6
    assert not hasattr(fit.model, "covariate_network"), "the first fit is as it was"


def test_what_cannot_be_augmented_is_refused():
    data, _ = rich_and_sparse(rich=5, sparse=0)
    fit = nlme.fit(Lines(), data, nlme.FO(), progress=False)
    for settings, error, words in (
        ({"covariates": ["x"]}, FitError, "no covariate 'x'"),
        ({"covariates": []}, FitError, "no covariates"),
        ({"parameters": ["sigma"]}, FitError, "must be among a, b"),
        ({}, ModelError, "must have 1 inputs"),
    ):
        with pytest.raises(error, match=words):
            nlme.augment(fit, nlme.MLP(1, 1), **settings)


def test_a_network_that_explains_nearly_everything_is_reported():
    data, _ = rich_and_sparse(rich=8, sparse=0)
    fit = nlme.fit(Lines(), data, nlme.FOCEI(), progress=False)
    greedy = nlme.augment(fit, nlme.MLP(1, 8, 1, prior=nlme.L2(1e-6)), parameters=["a"], likelihood=nlme.FOCEI())
    assert any("nearly all of the variance of eta_a" in message for message in greedy.warnings)
    modest = nlme.augment(fit, nlme.MLP(1, 1), parameters=["b"], likelihood=nlme.FOCEI())
    assert not any("nearly all" in message for message in modest.warnings)
