"""Conditional distributions of the random effects against exact Gaussian posteriors."""

import math

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import DOUBLE, Line, number

import nlme_torch as nlme
from nlme_torch.inference.effects.effect_estimates import (
    MOST_CHAINS,
    EffectEstimates,
    estimate_effects,
    find_modes,
    mode_warnings,
    shrinkage,
)
from nlme_torch.inference.fitting.predictions import prediction_table
from nlme_torch.inference.modes.effect_density import column_density
from nlme_torch.model.density.density import Density


@pytest.fixture(scope="module")
def exact():
    frame, design = simulate_lines(subjects=8, seed=2)
    density = Density(Line(full=True), lines_data(frame).batch(), nlme.Tsit5())
    means, covariances = design.posterior(np.array([1.0, 0.0, 0.0]), np.eye(2), 1.0)
    return density, torch.from_numpy(means), torch.from_numpy(covariances)


@pytest.fixture(scope="module")
def estimates(exact):
    return estimate_effects(exact[0], None, torch.Generator().manual_seed(0), iterations=80)


def test_modes_and_curvature_are_exact(exact, estimates):
    density, means, covariances = exact
    torch.testing.assert_close(estimates.modes, means, rtol=1e-8, atol=1e-8)
    inverse = torch.linalg.inv(covariances.permute(2, 0, 1)).permute(1, 2, 0)
    torch.testing.assert_close(estimates.precision, inverse, rtol=1e-7, atol=1e-8)
    with torch.no_grad():
        torch.testing.assert_close(estimates.log_joint, density.at().log_joint(estimates.modes[:, None, None])[0, 0])


def test_means_covariances_and_draws_follow_the_posterior(exact, estimates):
    _, means, covariances = exact
    deviations = covariances.diagonal().mT.sqrt()
    assert estimates.draws.shape == (2, 1600, 8)
    torch.testing.assert_close(estimates.means, estimates.draws.mean(1))
    # 1600 draws whose correlation leaves at least a few hundred independent ones
    assert ((estimates.means - means) / deviations).abs().max() < 4 / np.sqrt(200)
    scaled = torch.einsum("in,ijn,jn->ijn", 1 / deviations, estimates.covariances - covariances, 1 / deviations)
    assert scaled.abs().max() < 6 / np.sqrt(200)
    for subject in range(8):
        torch.testing.assert_close(estimates.covariances[..., subject], torch.cov(estimates.draws[..., subject]))


def test_chains_may_begin_anywhere(exact):
    density, means, _ = exact
    far = torch.full((2, 5, 8), 6.0, dtype=DOUBLE)
    estimates = estimate_effects(density, far, torch.Generator().manual_seed(0), iterations=60)
    assert (estimates.means - means).abs().max() < 0.5
    torch.testing.assert_close(estimates.modes, means, rtol=1e-7, atol=1e-7)


def test_the_best_of_several_modes_is_found_from_the_wrong_side():
    """y = z^2 has two modes, at +-sqrt(y), of which the prior prefers the one on its own side."""

    class Square(nlme.Model):
        def __init__(self):
            super().__init__()
            self.z = nlme.Normal(0.3, omega=1.0)
            self.sigma = nlme.Positive(0.1)

        def predict(self, t, p, cov):
            return p.z**2 + 0 * t

        def observe(self, t, y, p):
            return {"DV": dist.Normal(y, p.sigma)}

    data = nlme.Dataset.from_frame(pd.DataFrame({"ID": [1, 2], "TIME": [0.0, 0.0], "DV": [1.0, 4.0]}))
    conditional = Density(Square(), data.batch(), nlme.Tsit5()).at()
    origins = number([[-1.5, -3.0], [1.5, 3.0]])[None]
    for starts in (origins[:, :1], origins[:, 1:], origins):
        modes = find_modes(conditional, starts)
        assert (modes.effects > 0.5).all()
        torch.testing.assert_close(modes.value, conditional.log_joint(modes.effects[:, None, None])[0, 0])


def test_columns_are_reshaped_to_chain_start_subject(exact):
    conditional = exact[0].at()
    effects = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    log_joint = column_density(conditional)
    value = log_joint(effects)
    assert value.shape == (3, 4, 8)
    torch.testing.assert_close(value[1, 2], log_joint(effects[:, 1, 2]))
    torch.testing.assert_close(value[1, 2], conditional.log_joint(effects[:, 1, 2][:, None, None])[0, 0])


def test_shrinkage_uses_the_sample_standard_deviation():
    effects = number([[1.0, 2.0, 4.0], [0.5, 0.5, 0.5]])
    omega = torch.diag(number([9.0, 1.0]))
    expected = 1 - np.std([1.0, 2.0, 4.0], ddof=1) / 3
    assert shrinkage(effects, omega).tolist() == pytest.approx([expected, 1.0], rel=1e-12)


class Broken(nlme.Model):
    """A line through each subject's own level; where BAD is 1, nothing can be evaluated but at zero effects."""

    def __init__(self):
        super().__init__()
        self.level = nlme.Normal(1.0, omega=1.0, fixed=True)
        self.sigma = nlme.Positive(0.5)

    def predict(self, t, p, cov):
        away = (p.level - 1.0).abs() > 0
        return p.level + torch.where(away & (cov.BAD == 1), torch.nan, 0.0) + 0 * t

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def broken_data():
    rows = [
        {"ID": subject, "TIME": time, "DV": float(subject), "BAD": float(subject == 3)}
        for subject in range(1, 6)
        for time in (0.0, 1.0)
    ]
    return nlme.Dataset.from_frame(pd.DataFrame(rows))


def test_a_mode_that_is_not_found_is_nan_and_named():
    data = broken_data()
    density = Density(Broken(), data.batch(), nlme.Tsit5())
    conditional = density.at()
    modes = find_modes(conditional, torch.zeros(1, 1, 5, dtype=torch.float64))
    known = torch.tensor([True, True, False, True, True])
    assert torch.equal(torch.isfinite(modes.effects[0]), known)
    # precision 1 from the prior and 8 from two observations
    torch.testing.assert_close(modes.effects[0, known], number([0.0, 1.0, 3.0, 4.0]) * 8 / 9)
    torch.testing.assert_close(modes.precision[0, 0, known], number([9.0] * 4))
    spread = float(modes.effects[0, known].std())
    assert float(shrinkage(modes.effects, torch.eye(1, dtype=torch.float64))[0]) == pytest.approx(1 - spread)

    unknown = torch.full_like(modes.effects, torch.nan)
    draws = unknown[:, None].expand(-1, 2, -1)
    effects = EffectEstimates(modes.effects, modes.precision, modes.value, unknown, modes.precision, draws)
    (message,) = mode_warnings(effects, data.subjects)
    assert "1 of 5 subjects (3)" in message and "NaN" in message
    table = prediction_table(density, data, modes.effects)
    lost = table["id"] == 3
    assert table.loc[lost, ["IPRED", "IRES", "IWRES"]].isna().all().all()
    assert table.loc[~lost, ["IPRED", "IRES", "IWRES"]].notna().all().all() and table["PRED"].notna().all()


def test_saem_names_the_subject_without_a_mode(caplog):
    short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=10, smoothing=5))
    fit = nlme.fit(Broken(), broken_data(), short, seed=1, progress=False)
    assert fit.eta.loc[3].isna().all() and fit.eta.drop(3).notna().all().all()
    assert any("1 of 5 subjects (3)" in message for message in fit.warnings)
    assert fit.predictions.query("id == 3")["IPRED"].isna().all()
    assert math.isfinite(float(fit.shrinkage.iloc[0]))
    alone = fit.individualise(broken_data()).predictions
    assert alone.query("id == 3")["IPRED"].isna().all() and alone.query("id != 3")["IPRED"].notna().all()
    assert "1 subjects (3)" in caplog.text


def test_of_very_many_draws_some_are_gone_on_from(theophylline, generator):
    density = Density(nlme.examples.TheophyllineClosedForm(), theophylline.batch(), nlme.Auto())
    many = 0.1 * torch.randn(3, 500, 12, generator=generator, dtype=torch.float64)
    assert estimate_effects(density, many, generator, iterations=2).draws.shape == (3, 2 * MOST_CHAINS, 12)
