"""Marginal likelihoods of fits by every method against the exact answer, and their conventions."""

import math

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from support.mixed_linear import MixedLinear, lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme

SHORT = nlme.SAEM(chains=2, schedule=nlme.StepSchedule(exploration=6, smoothing=4))


@pytest.fixture(scope="module")
def fitted():
    """A fit of the linear model, and its exact log-likelihood by subject at the fit's own estimates."""
    frame, design = simulate_lines(subjects=10, seed=4)
    method = nlme.SAEM(schedule=nlme.StepSchedule(exploration=30, smoothing=20))
    fit = nlme.fit(Line(full=True), lines_data(frame), method, seed=1, progress=False)
    estimate = fit.parameters.estimate
    omega = fit.omega.loc[["eta_a", "eta_b"], ["eta_a", "eta_b"]].to_numpy()
    return fit, design.log_marginal(estimate[["a", "b", "b_x"]].to_numpy(), omega, estimate["sigma"])


@pytest.mark.parametrize("method", [nlme.Laplace(), nlme.Quadrature(nodes=3)], ids=str)
def test_deterministic_methods_are_exact_for_a_gaussian(fitted, method):
    fit, exact = fitted
    value = nlme.loglik(fit, method)
    np.testing.assert_allclose(value.subjects.log_likelihood, exact, rtol=1e-8, atol=1e-8)
    assert value.value == pytest.approx(sum(exact), rel=1e-9)
    assert value.standard_error == 0 and value.method == str(method) and value.warnings == ()
    assert value.subjects.id.tolist() == list(fit.data.subjects)


@pytest.mark.parametrize("method", [nlme.ImportanceSampling(2000), nlme.ImportanceSampling(2000, modes=3)], ids=str)
def test_importance_sampling_states_its_own_error(fitted, method):
    fit, exact = fitted
    value = nlme.loglik(fit, method, seed=3)
    assert 0 < value.standard_error < 0.2
    assert abs(value.value - sum(exact)) < 4 * value.standard_error
    table = value.subjects
    assert (abs(table.log_likelihood - exact) < 5 * table.standard_error).all()
    assert value.standard_error == pytest.approx(math.sqrt((table.standard_error**2).sum()), rel=1e-9)
    assert table.effective_size.between(1000, 2000).all() and (table.k_hat < 0.7).all() and value.warnings == ()
    again, other = nlme.loglik(fit, method, seed=3), nlme.loglik(fit, method, seed=4)
    assert again.value == value.value and other.value != value.value


def test_annealed_importance_sampling_too(fitted):
    fit, exact = fitted
    value = nlme.loglik(fit, nlme.AnnealedImportanceSampling(target_error=1.0))
    assert abs(value.value - sum(exact)) < 4 * value.standard_error + 0.05


class Bases(nlme.Model):
    """y = w_0 + sum_k w_k cos(k t) + e with 28 random weights: linear, so that its likelihood is exact."""

    def __init__(self):
        super().__init__()
        self.net = nlme.RandomWeights(nlme.MLP(27, 1), nlme.Diagonal(0.5))
        self.sigma = nlme.Positive(0.3)

    def predict(self, t, p, cov):
        return p.net(*(torch.cos(k * t) for k in range(1, 28)))

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


@pytest.mark.slow
def test_annealing_is_exact_with_28_effects_and_12_subjects():
    generator = np.random.default_rng(0)
    times = np.linspace(0.0, 3.0, 11)
    design = np.column_stack([*(np.cos(k * times) for k in range(1, 28)), np.ones(11)])
    weights = generator.normal(0.0, np.sqrt(0.5), (12, 28))
    responses = weights @ design.T + generator.normal(0.0, 0.3, (12, 11))
    rows = {"ID": np.repeat(np.arange(12), 11), "TIME": np.tile(times, 12), "DV": responses.ravel()}
    fit = nlme.fit(Bases(), nlme.Dataset.from_frame(pd.DataFrame(rows)), SHORT, seed=1, progress=False)
    b = fit.model.net.network.weights.detach().numpy()
    exact = MixedLinear(tuple(responses), (design,) * 12, (design,) * 12).log_marginal(
        b, np.diag(np.diag(fit.omega.to_numpy())), fit.parameters.estimate["sigma"]
    )
    value = nlme.loglik(fit, nlme.AnnealedImportanceSampling())
    assert value.standard_error < 0.5
    assert abs(value.value - sum(exact)) < min(0.2, 3 * value.standard_error)


class Squares(nlme.Model):
    """y_k = a_k^2 + e: eight humps of equal mass for every subject, which no local move connects."""

    def __init__(self):
        super().__init__()
        self.a = nlme.Latent(3)
        self.sigma = nlme.Positive(0.05)

    def predict(self, t, p, cov):
        return sum(torch.where(t == k, value**2, 0.0) for k, value in enumerate(p.a))

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def test_annealing_finds_the_humps_that_the_chains_never_saw():
    """A start from the chains' own mean and covariance loses log 2 for every subject and effect, 8.3 in all."""
    values = np.random.default_rng(1).normal(size=(4, 3)) ** 2 + 0.5
    rows = {"ID": np.repeat(np.arange(4), 3), "TIME": np.tile(np.arange(3.0), 4), "DV": values.ravel()}
    fit = nlme.fit(Squares(), nlme.Dataset.from_frame(pd.DataFrame(rows)), SHORT, seed=1, progress=False)
    sigma = fit.parameters.estimate["sigma"]
    grid = np.linspace(-5.0, 5.0, 200_001)
    integrand = np.exp(-0.5 * grid**2 - 0.5 * ((values[..., None] - grid**2) / sigma) ** 2) / (2 * np.pi * sigma)
    exact = np.log(integrand.sum(-1) * (grid[1] - grid[0])).sum()
    value = nlme.loglik(fit, nlme.AnnealedImportanceSampling())
    assert abs(value.value - exact) < min(0.5, 4 * value.standard_error)


def test_the_two_conventions_differ_by_n_log_two_pi(fitted):
    fit, exact = fitted
    value = nlme.loglik(fit, nlme.Laplace())
    n = sum(len(rows) for _, rows in fit.data.frame.groupby("ID"))
    assert value.minus2ll == pytest.approx(-2 * sum(exact), rel=1e-9)
    assert value.ofv == pytest.approx(-2 * sum(exact) - n * math.log(2 * math.pi), rel=1e-9)
    assert "OFV" in str(value) and "by Laplace" in str(value) and "SE" not in str(value)


def test_the_text_gives_the_error_of_minus_two_log_likelihood():
    value = nlme.LogLikelihood(-100.0, 0.25, "ImportanceSampling()", pd.DataFrame({"k_hat": [0.1]}), 10)
    assert "-2LL 200.000 (Monte-Carlo SE 0.50)" in str(value)


def test_a_bad_proposal_is_a_warning_that_names_the_remedy():
    table = pd.DataFrame({"k_hat": [0.2, 0.9, 1.3]})
    (message,) = nlme.LogLikelihood(-1.0, 0.1, "ImportanceSampling()", table, 10).warnings
    assert "exceeds 0.7 for 2 of 3 subjects (worst 1.30)" in message and "unreliable" in message
    named = [word.strip("()") for word in message.split("nlme.")[1:]]
    assert all(hasattr(nlme, name.split("(")[0]) for name in named), f"the remedy {named} does not exist"


def test_theophylline_against_the_known_value(theophylline):
    """At the published estimates the exact OFV is 118.1017 (maximum likelihood); quadrature must say so."""
    model = nlme.examples.TheophyllineClosedForm()
    short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=60, smoothing=60))
    fit = nlme.fit(model, theophylline, short, seed=1, progress=False, likelihood=nlme.Quadrature(nodes=7))
    assert fit.log_likelihood.method == "Quadrature(nodes=7)"
    assert 118.1017 - 1e-4 <= fit.ofv < 118.1017 + 0.3
    sampled = nlme.loglik(fit, nlme.ImportanceSampling(3000))
    assert abs(sampled.value - fit.log_likelihood.value) < 4 * sampled.standard_error + 0.01
    laplace = nlme.loglik(fit, nlme.Laplace())
    assert 1e-4 < abs(laplace.value - fit.log_likelihood.value) < 0.5
