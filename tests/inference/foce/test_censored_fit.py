"""Values below the limit of quantification: M3 finds the maximum of the exact likelihood, leaving them out does not."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
from scipy import stats
from scipy.optimize import minimize
from scipy.special import log_ndtr, logsumexp

import nlme_torch as nlme

TRUTH = np.array([3.0, -0.8, 0.8, 0.5])  # intercept, slope, SD of the intercepts, residual SD
LIMIT = 0.55  # about 30 % of the values lie below
NODES = np.linspace(-7.0, 7.0, 101)  # the trapezoidal rule: the conditional spread is a quarter of the prior one
WEIGHTS = stats.norm.pdf(NODES)
METHOD = nlme.SAEM(chains=2, schedule=nlme.StepSchedule(exploration=120, smoothing=100))


class Lines(nlme.Model):
    """y = a_i + b t + e with a random intercept."""

    def __init__(self):
        super().__init__()
        self.a = nlme.Normal(2.0, omega=1.0)
        self.b = nlme.Real(0.0)
        self.sigma = nlme.Positive(1.0)

    def predict(self, t, p, cov):
        return p.a + p.b * t

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def simulate(seed):
    rng = np.random.default_rng(seed)
    subject, time = np.repeat(np.arange(100), 6), np.tile(np.linspace(0.0, 4.0, 6), 100)
    intercept = TRUTH[0] + TRUTH[2] * rng.normal(size=100)
    y = intercept[subject] + TRUTH[1] * time + TRUTH[3] * rng.normal(size=600)
    below = y < LIMIT
    assert 0.25 < below.mean() < 0.35
    return pd.DataFrame({"ID": subject, "TIME": time, "DV": np.where(below, LIMIT, y), "CENS": below.astype(int)})


def minus2ll(theta, table):
    """By quadrature over the intercept, subject by subject."""
    a, b, omega, sigma = theta
    mean = a + omega * NODES[:, None] + b * table.TIME.to_numpy()
    y, below = table.DV.to_numpy(), table.CENS.to_numpy() == 1
    z = (y - mean) / sigma
    terms = np.where(below, log_ndtr(z), -0.5 * z**2 - np.log(sigma) - 0.5 * np.log(2 * np.pi))
    by_subject = np.add.reduceat(terms, np.flatnonzero(np.r_[True, np.diff(table.ID) != 0]), axis=1)
    return -2 * logsumexp(by_subject + np.log(WEIGHTS / WEIGHTS.sum())[:, None], axis=0).sum()


def maximum(table):
    """Maximum likelihood estimates and their standard errors, from the exact likelihood."""
    best = minimize(minus2ll, TRUTH, args=(table,), method="BFGS").x
    step = 1e-3 * np.eye(4)
    hessian = [
        [sum(s * r * minus2ll(best + s * u + r * v, table) for s in (-1, 1) for r in (-1, 1)) / 4e-6 for v in step]
        for u in step
    ]
    return best, np.sqrt(np.diag(np.linalg.inv(np.array(hessian) / 2)))


def estimate(table, **columns):
    fit = nlme.fit(Lines(), nlme.Dataset.from_frame(table, **columns), METHOD, seed=1, progress=False)
    found = fit.parameters.estimate
    return fit, np.array([found["a"], found["b"], np.sqrt(fit.omega.to_numpy()[0, 0]), found["sigma"]])


@pytest.mark.slow
def test_m3_reaches_the_maximum_and_the_truth():
    """Over three data sets: the mean estimate lies within two of its standard errors of the truth."""
    estimates, errors = [], []
    for seed in (0, 1, 2):
        table = simulate(seed)
        best, error = maximum(table)
        fit, found = estimate(table, cens="CENS")
        assert minus2ll(found, table) - minus2ll(best, table) < 0.1
        exact = nlme.loglik(fit, nlme.Quadrature(nodes=15)).minus2ll
        assert exact == pytest.approx(minus2ll(found, table), abs=1e-3)
        estimates.append(found)
        errors.append(error)
    assert (abs(np.mean(estimates, axis=0) - TRUTH) < 2 * np.mean(errors, axis=0) / np.sqrt(3)).all()


@pytest.mark.slow
def test_leaving_censored_values_out_is_biased():
    table = simulate(0)
    _, error = maximum(table)
    found = estimate(table[table.CENS == 0].drop(columns="CENS"))[1]
    assert abs(found[1] - TRUTH[1]) > 4 * error[1], "the slope of what can be seen is flatter"
