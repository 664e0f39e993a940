"""Predictive densities at a row against closed forms and scipy."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from support.fitted_models import made_fit, quick_fit, shared_fit

import nlme_torch as nlme
from nlme_torch.diagnostics import predictive_density


class Shift(nlme.Model):
    """y = a + eta + e: both predictive distributions are known."""

    def __init__(self, outcome):
        super().__init__()
        self.a = nlme.Normal(2.0, omega=0.49)
        self.outcome = (outcome,)

    def predict(self, t, p, cov):
        return p.a + 0 * t

    def observe(self, t, y, p):
        return {"DV": self.outcome[0](y)}


def shift_fit(outcome, value=2.6, others=0.5):
    frame = pd.DataFrame({"ID": [1, 1, 2, 2], "TIME": [0.0, 1.0, 0.0, 1.0], "DV": [others] * 3 + [value]})
    return made_fit(Shift(outcome), nlme.Dataset.from_frame(frame), draws=200)


def components(fit, subject):
    return 2.0 + fit.effects.draws[0, :, subject].numpy()


def integral(at, column):
    return np.trapezoid(at.table[column], at.table["value"])


def test_the_individual_density_is_the_mixture_over_the_conditional_draws():
    fit = shift_fit(lambda y: dist.Normal(y, 0.3))
    at = predictive_density(fit, 3)
    centres = components(fit, 1)
    values = at.table["value"].to_numpy()
    expected = stats.norm.pdf(values[:, None], centres, 0.3).mean(1)
    np.testing.assert_allclose(at.table["individual"], expected, rtol=1e-10, atol=1e-14)
    assert at.pit_individual == pytest.approx(stats.norm.cdf(2.6, centres, 0.3).mean(), rel=1e-12)
    assert (at.id, at.time, at.outcome, at.observed, at.discrete) == (2, 1.0, "DV", 2.6, False)


def test_the_population_density_is_the_marginal_normal():
    at = predictive_density(shift_fit(lambda y: dist.Normal(y, 0.3)), 3, draws=10_000, points=100)
    marginal = stats.norm(2.0, np.sqrt(0.49 + 0.09))
    # 10 000 draws: the standard error of a density of height 0.5 is about 0.005
    np.testing.assert_allclose(at.table["population"], marginal.pdf(at.table["value"]), atol=0.02)
    assert at.pit_population == pytest.approx(marginal.cdf(2.6), abs=0.015)


@pytest.mark.parametrize(
    "outcome",
    [
        lambda y: dist.Normal(y, 0.05),
        lambda y: dist.LogNormal(y, 0.8),
        lambda y: dist.StudentT(6.0, y, 0.2),
        lambda y: dist.Exponential(torch.exp(-y)),
        lambda y: dist.Gamma(3.0, torch.exp(-y)),
        lambda y: dist.Beta(torch.exp(y), 5.0),
    ],
    ids=["normal", "log-normal", "student", "exponential", "gamma", "beta"],
)
def test_both_densities_integrate_to_one(outcome):
    at = predictive_density(shift_fit(outcome, value=0.6), 3, points=800)
    assert integral(at, "population") == pytest.approx(1.0, abs=5e-3)
    assert integral(at, "individual") == pytest.approx(1.0, abs=5e-3)
    assert at.table["value"].is_monotonic_increasing and (at.table[["population", "individual"]] >= 0).all(axis=None)


def test_densities_of_a_real_fit_integrate_to_one():
    for row in (0, 3, 130):
        at = predictive_density(quick_fit(), row)
        assert integral(at, "population") == pytest.approx(1.0, abs=2e-3)
        assert integral(at, "individual") == pytest.approx(1.0, abs=2e-3)


def test_the_transform_of_a_distribution_without_cdf_is_integrated():
    fit = shift_fit(lambda y: dist.StudentT(4.0, y, 0.2))
    with pytest.raises(NotImplementedError):
        dist.StudentT(4.0).cdf(torch.tensor(0.0))
    at = predictive_density(fit, 3, points=800)
    expected = stats.t.cdf((2.6 - components(fit, 1)) / 0.2, 4.0).mean()
    assert at.pit_individual == pytest.approx(expected, abs=2e-3)


def test_a_count_has_probabilities_and_the_middle_of_its_transform():
    fit = shift_fit(lambda y: dist.Poisson(torch.exp(y)), value=7.0, others=1.0)
    at = predictive_density(fit, 3)
    rates = np.exp(components(fit, 1))
    values = at.table["value"].to_numpy()
    assert at.discrete and np.array_equal(values, np.arange(len(values)))
    np.testing.assert_allclose(at.table["individual"], stats.poisson.pmf(values[:, None], rates).mean(1), rtol=1e-9)
    assert at.table[["population", "individual"]].sum().to_numpy() == pytest.approx(1.0, abs=2e-3)
    middle = (stats.poisson.cdf(6, rates) + 0.5 * stats.poisson.pmf(7, rates)).mean()
    assert at.pit_individual == pytest.approx(middle, abs=1e-4)


def test_transforms_of_data_from_the_model_are_uniform():
    """One observation per subject, drawn from the model itself."""
    numbers = np.random.default_rng(5)
    count = 60
    value = 2.0 + numbers.normal(0, 0.7, count) + numbers.normal(0, 0.3, count)
    frame = pd.DataFrame({"ID": np.arange(count), "TIME": 0.0, "DV": value})
    fit = made_fit(Shift(lambda y: dist.Normal(y, 0.3)), nlme.Dataset.from_frame(frame), draws=2)
    transforms = [predictive_density(fit, row, draws=400, points=8).pit_population for row in range(count)]
    assert stats.kstest(transforms, "uniform").pvalue > 0.01


def test_same_seed_same_answer_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    first, second = (predictive_density(quick_fit(), 5, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(first.table, second.table)
    assert first.pit_population == second.pit_population
    assert predictive_density(quick_fit(), 5, seed=4).pit_population != first.pit_population
    assert torch.equal(before, torch.get_rng_state())


def test_rows_are_those_of_the_users_table():
    fit = quick_fit()
    for row in (0, 17, 131):
        at, entry = predictive_density(fit, row, points=8, draws=4), fit.data.frame.iloc[row]
        assert (at.id, at.time, at.observed) == (entry["Subject"], entry["Time"], entry["conc"])


def test_a_row_without_observation_or_with_several_is_refused():
    with pytest.raises(nlme.DataError, match="row 500 holds no observation"):
        predictive_density(quick_fit(), 500)
    with pytest.raises(nlme.DataError, match="several outcomes, conc, effect, count"):
        predictive_density(shared_fit(), 3)
    with pytest.raises(nlme.DataError, match="no observation of 'nothing'"):
        predictive_density(shared_fit(), 3, "nothing")
    assert predictive_density(shared_fit(), 3, "count").discrete


def test_an_extreme_draw_does_not_stop_the_others():
    fit = shift_fit(lambda y: dist.Normal(y, torch.exp(200 * (y - 5))))
    draws = fit.effects.draws.clone()
    draws[0, 0, 1] = 1e4
    at = predictive_density(replace(fit, effects=replace(fit.effects, draws=draws)), 3)
    assert np.isfinite(at.pit_individual)
