"""Moments, sums and limits against closed forms: each fails where a centre, a divisor, a mask or a scale is wrong."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats
import torch
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.inference.effects.effect_estimates import estimate_effects
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.information.leave_one_out import LeaveOneOut
from nlme_torch.inference.likelihood.annealed_importance_sampling import _combine
from nlme_torch.inference.likelihood.importance_sampling import WeightedDraws, summarise
from nlme_torch.inference.saem.sufficient_statistics import statistics
from nlme_torch.inference.uncertainty.sampled import sample_table
from nlme_torch.inference.uncertainty.standard_errors import error_table
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.residual_scale import residual_scales
from nlme_torch.model.parameters.transforms import Identity, Log, Logit


def number(values):
    return torch.tensor(values, dtype=torch.float64)


# ------------------------------------------------------------------ confidence limits


@pytest.mark.parametrize("lower, upper, value, error", [(0.0, 1.0, 0.9, 0.05), (-2.0, 6.0, 0.5, 0.7)])
def test_limits_of_a_bounded_parameter_are_symmetric_on_the_logit_scale(lower, upper, value, error):
    table = error_table(["x"], number([value]), number([[error**2]]), [Logit(lower, upper)], 0.9)
    share = (value - lower) / (upper - lower)
    reach = scipy.stats.norm.ppf(0.95) * error / (upper - lower) / (share * (1 - share))
    ends = lower + (upper - lower) * scipy.special.expit(scipy.special.logit(share) + reach * np.array([-1, 1]))
    assert table.loc["x", ["lower", "upper"]].tolist() == pytest.approx(ends.tolist(), rel=1e-10)
    assert lower < ends[0] < value < ends[1] < upper
    assert table.loc["x", "se"] == pytest.approx(error)


def test_limits_of_other_scales():
    table = error_table(["p", "r"], number([2.0, -3.0]), torch.diag(number([0.04, 0.09])), [Log(), Identity()], 0.95)
    z = scipy.stats.norm.ppf(0.975)
    assert table.loc["p", ["lower", "upper"]].tolist() == pytest.approx([2 * math.exp(-z * 0.1), 2 * math.exp(z * 0.1)])
    assert table.loc["r", ["lower", "upper"]].tolist() == pytest.approx([-3 - z * 0.3, -3 + z * 0.3])


class Ranges(nlme.Model):
    """One parameter of every kind of range."""

    def __init__(self):
        super().__init__()
        self.share = nlme.LogitNormal(0.3, omega=0.2)
        self.top = nlme.Bounded(2.0, lower=1.0, upper=4.0)
        self.rate = nlme.LogNormal(1.5, omega=0.1)
        self.shift = nlme.Real(0.1)
        self.sigma = nlme.Positive(0.4)

    def predict(self, t, p, cov):
        return p.top * p.share * torch.exp(-p.rate * t) + p.shift

    def observe(self, t, y, p):
        return {"DV": torch.distributions.Normal(y, p.sigma)}


def test_every_scalar_has_the_scale_of_its_range():
    model = Ranges()
    scalars = FreeScalars(model, parameter_values(model))
    scales = dict(zip(scalars.names, scalars.scales, strict=True))
    assert scales == {
        "share": Logit(0.0, 1.0), "top": Logit(1.0, 4.0), "rate": Log(), "shift": Identity(), "sigma": Log(),
        "omega_share": Log(), "omega_rate": Log(),
    }  # fmt: skip


# ------------------------------------------------------------------ sums over subjects


def test_residual_sums_leave_out_subjects_that_were_not_solved():
    class Fragile(nlme.Model):
        """The states of a subject whose rate is very large leave all numbers."""

        states = ("x",)

        def __init__(self):
            super().__init__()
            self.k = nlme.Normal(0.5, omega=0.1)
            self.sigma = nlme.Positive(2.0)

        def initial(self, p):
            return (1.0,)

        def dynamics(self, t, y, p):
            return (p.k * y.x,)

        def observe(self, t, y, p):
            return {"DV": torch.distributions.Normal(y.x, p.sigma)}

    frame = pd.DataFrame({"ID": [1, 1, 2, 2], "TIME": [0.5, 1.0] * 2, "DV": [1.0, 2.0, 3.0, 4.0]})
    model, data = Fragile(), nlme.Dataset.from_frame(frame)
    density = Density(model, data.batch(), nlme.Tsit5(1e-9, 1e-11, compile=False, max_steps=200))
    conditional = density.at()
    transformed = number([0.5, 1e6]).reshape(1, 1, 1, 2)
    observed, solved = conditional.observe(transformed - conditional.mean[:, None])
    assert solved.flatten().tolist() == [True, False]
    found = statistics(model, conditional, transformed, residual_scales(density)).residual["sigma"]
    expected = (1 - 1) ** 2 + (2 - math.exp(0.25)) ** 2
    assert float(found) == pytest.approx(expected, rel=1e-6), "the second subject counts nothing"


# ------------------------------------------------------------------ moments


def test_moments_of_weighted_draws_stand_about_their_own_weighted_mean():
    generator = torch.Generator().manual_seed(0)
    effects = 3 + torch.randn(2, 50, 3, generator=generator, dtype=torch.float64)
    log_weights = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    mean, covariance = WeightedDraws(effects, log_weights).moments()
    for subject in range(3):
        weights = torch.softmax(log_weights[:, subject], 0).numpy()
        expected = np.average(effects[:, :, subject], axis=1, weights=weights)
        assert mean[:, subject].numpy() == pytest.approx(expected, rel=1e-12)
        spread = np.cov(effects[:, :, subject], aweights=weights, ddof=0)
        assert covariance[:, :, subject].numpy() == pytest.approx(spread, rel=1e-10)
        assert np.abs(expected - effects[:, :, subject].mean(1).numpy()).max() > 0.05, (
            "another centre is another answer"
        )


def test_the_error_of_importance_sampling_divides_by_one_less_than_the_draws():
    log_weights = number([[0.0], [1.0], [2.0], [0.5]])
    weights = np.exp(log_weights[:, 0].numpy())
    expected = np.std(weights, ddof=1) / math.sqrt(4) / weights.mean()
    assert float(summarise(WeightedDraws(torch.zeros(1, 4, 1), log_weights)).standard_error) == pytest.approx(expected)


def test_the_error_of_annealing_divides_by_one_less_than_the_groups():
    log_evidence = number([[0.0, 1.0], [0.4, 1.3], [0.1, 0.2]])
    evidence = np.exp(log_evidence.numpy())
    expected = np.std(evidence, axis=0, ddof=1) / math.sqrt(3) / evidence.mean(0)
    assert _combine(log_evidence, 1).standard_error.tolist() == pytest.approx(expected.tolist())


def test_conditional_covariances_are_those_of_the_draws():
    density = Density(Line(), lines_data(simulate_lines(subjects=3, seed=1)[0]).batch(), nlme.Tsit5())
    chains = torch.zeros(2, 2, 3, dtype=torch.float64)
    found = estimate_effects(density, chains, torch.Generator().manual_seed(0), iterations=4, starts=2)
    assert found.draws.shape == (2, 8, 3), "few enough for one in the divisor to be seen"
    for subject in range(3):
        torch.testing.assert_close(found.covariances[:, :, subject], torch.cov(found.draws[:, :, subject]))
        torch.testing.assert_close(found.means[:, subject], found.draws[:, :, subject].mean(1))


def test_spreads_of_samples_and_of_losses():
    draws = pd.DataFrame({"a": [1.0, 2.0, 4.0]})
    assert sample_table([2.0], draws, 0.5).loc["a", "se"] == pytest.approx(np.std([1, 2, 4], ddof=1))
    table = pd.DataFrame({"id": [1, 2, 3, 4], "fitted": [1.0] * 4, "left_out": [2.0, 3.0, 7.0, math.nan]})
    found = LeaveOneOut(table, 10)
    assert found.loss == pytest.approx(4 * np.mean([1, 2, 6]))
    assert found.standard_error == pytest.approx(4 * np.std([1, 2, 6], ddof=1) / math.sqrt(3))
