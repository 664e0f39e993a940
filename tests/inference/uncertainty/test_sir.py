"""Sampling importance resampling against the distribution that the exact likelihood of a linear model defines."""

import numpy as np
import pytest
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme

NAMES = ["a", "b", "b_x", "sigma", "omega_a", "omega_b"]


@pytest.fixture(scope="module")
def lines():
    frame, design = simulate_lines(subjects=30, seed=5)
    return nlme.fit(Line(), lines_data(frame), nlme.FOCEI(), progress=False), design


def metropolis(design, start, covariance, steps, seed):
    """Draws from the normalised likelihood over (a, b, b_x, log sigma, log sd_a, log sd_b), by a plain random walk."""
    rng = np.random.default_rng(seed)
    factor = np.linalg.cholesky(covariance) * 2.38 / np.sqrt(len(start))

    def log_likelihood(x):
        return -0.5 * design.minus2ll(x[:3], np.diag(np.exp(2 * x[4:])), np.exp(x[3]))

    point, value, kept = start, log_likelihood(start), []
    for _ in range(steps):
        trial = point + factor @ rng.normal(size=len(start))
        new = log_likelihood(trial)
        if np.log(rng.uniform()) < new - value:
            point, value = trial, new
        kept.append(point)
    return np.array(kept[steps // 10 :])


def natural(draws):
    return np.column_stack([draws[:, :3], np.exp(draws[:, 3]), np.exp(2 * draws[:, 4:])])


def test_moments_are_those_of_the_normalised_likelihood(lines):
    fit, design = lines
    found = nlme.sir(fit, proposals=4000, resamples=1000, seed=1, progress=False)
    estimate = found.table.loc[NAMES, "estimate"].to_numpy()
    start = np.concatenate([estimate[:3], [np.log(estimate[3])], 0.5 * np.log(estimate[4:])])
    spread = np.concatenate([found.table.loc[NAMES[:3], "se"], 0.01 * found.table.loc[NAMES[3:], "rse_percent"]])
    draws = metropolis(design, start, np.diag((spread * [1, 1, 1, 1, 0.5, 0.5]) ** 2), 15000, 0)
    expected, mine = natural(draws), found.draws[NAMES].to_numpy()
    assert (mine.mean(0) - expected.mean(0)) / expected.std(0) == pytest.approx(np.zeros(6), abs=0.12)
    assert mine.std(0) / expected.std(0) == pytest.approx(np.ones(6), abs=0.12)
    limits = found.table.loc[NAMES, ["lower", "upper"]].to_numpy().T
    assert (limits - np.quantile(expected, [0.025, 0.975], axis=0)) / expected.std(0) == pytest.approx(0.0, abs=0.4)
    lowest = design.minus2ll(estimate[:3], np.diag(estimate[4:]), estimate[3])
    rises = [design.minus2ll(x[:3], np.diag(x[4:]), x[3]) - lowest for x in expected[::20]]
    assert found.draws["difference"].mean() == pytest.approx(np.mean(rises), rel=0.08)
    assert found.warnings == () and found.effective_size > 2000


def test_a_proposal_that_is_too_wide_or_too_narrow_is_corrected(lines):
    fit, _ = lines
    narrow, wide = (
        nlme.sir(fit, proposals=800, resamples=250, inflation=inflation, seed=3, progress=False)
        for inflation in (0.5, 2.5)
    )
    assert (wide.table["se"] / narrow.table["se"]).to_numpy() == pytest.approx(np.ones(6), abs=0.25)
    for found in (narrow, wide):
        assert found.iterations["effective_size"].iloc[-1] > found.iterations["effective_size"].iloc[0]


def test_the_same_seed_gives_the_same_sample_and_it_prints(lines):
    fit, _ = lines
    first, second = (nlme.sir(fit, proposals=300, iterations=2, seed=7, progress=False) for _ in range(2))
    assert first.draws.equals(second.draws) and len(first.draws) == 60
    assert "SIR by FOCEI: 60 of 300" in str(first) and "chi-square: 6" in str(first)


def test_too_few_proposals_are_refused(lines):
    fit, _ = lines
    with pytest.raises(nlme.FitError, match="resamples <= proposals"):
        nlme.sir(fit, proposals=10, resamples=20)
