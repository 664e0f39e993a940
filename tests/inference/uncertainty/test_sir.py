"""Sampling importance resampling against the distribution that the exact likelihood of a linear model defines."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import multivariate_normal
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.marginal.objective import MarginalObjective
from nlme_torch.inference.progress import progress_line
from nlme_torch.inference.uncertainty import sir as importance

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


# ------------------------------------------------------------------ one iteration, by numpy


def iterated(monkeypatch, bad=0, proposals=400, kept=50):
    """One iteration for a normal likelihood; the vectors that were drawn, and their rises of -2LL."""
    mean, covariance = np.array([0.5, -1.0]), np.array([[2.0, 0.6], [0.6, 0.5]])
    middle, precision = np.array([0.8, -0.7]), np.array([[1.5, -0.4], [-0.4, 3.0]])
    seen = []

    def rises(objective, scalars, vectors, line):
        away = vectors.numpy() - middle
        rise = np.einsum("ni,ij,nj->n", away, precision, away)
        rise[:bad] = np.inf
        seen.extend((vectors.numpy(), rise))
        return torch.as_tensor(rise)

    monkeypatch.setattr(importance, "_rises", rises)
    proposal = importance._Proposal(torch.as_tensor(mean), torch.as_tensor(covariance))
    unused = (object.__new__(kind) for kind in (MarginalObjective, FreeScalars))
    with progress_line(1, "", False) as line:
        sample = importance._iteration(*unused, proposal, proposals, kept, torch.Generator().manual_seed(2), line)
    vectors, rise = seen
    weights = np.exp(-0.5 * rise - multivariate_normal(mean, covariance).logpdf(vectors))
    return sample, vectors, rise, weights / weights.sum()


@pytest.mark.parametrize("bad", [0, 30])
def test_the_next_proposal_has_the_moments_of_the_weighted_vectors(monkeypatch, bad):
    sample, vectors, rise, share = iterated(monkeypatch, bad)
    np.testing.assert_allclose(sample.proposal.mean, share @ vectors, rtol=1e-12)
    np.testing.assert_allclose(sample.proposal.covariance, np.cov(vectors.T, aweights=share), rtol=3e-8)
    possible = rise[bad:]
    expected = {
        "proposals": 400,
        "resamples": 50,
        "failed": bad,
        "effective_size": 1 / (share**2).sum(),
        "proposed_rise": possible.mean(),
        "resampled_rise": sample.rises.mean().item(),
    }
    assert sample.summary == pytest.approx(expected, rel=1e-12) and sample.lowest == possible.min()
    places = [int((vectors == row).all(1).nonzero()[0][0]) for row in sample.vectors.numpy()]
    assert len(set(places)) == 50 and min(places) >= bad
    np.testing.assert_array_equal(sample.rises, rise[places])


def test_a_vector_is_kept_as_often_as_its_weight_says(monkeypatch):
    """Without replacement, inclusion goes as 1 - exp(-c w) nearly, with c such that 50 are kept."""
    sample, _, rise, share = iterated(monkeypatch)
    factor = brentq(lambda c: (1 - np.exp(-c * share)).sum() - 50, 1, 1e5)
    chance = 1 - np.exp(-factor * share)
    spread = np.sqrt((rise**2 * chance * (1 - chance)).sum()) / 50
    assert sample.rises.mean().item() == pytest.approx(chance @ rise / 50, abs=3 * spread)


def test_as_many_possible_vectors_as_are_kept_suffice(monkeypatch):
    assert len(iterated(monkeypatch, bad=350)[0].vectors) == 50
    with pytest.raises(nlme.FitError, match="for 49 of 400 proposals only, fewer than the 50"):
        iterated(monkeypatch, bad=351)


def test_what_is_said_of_the_last_iteration():
    table = pd.DataFrame({"effective_size": [1.0, 2.0, 51.0], "resamples": 100.0, "failed": [7.0, 8.0, 0.0]})
    sample = importance._Sample(torch.zeros(1, 1), torch.zeros(1), -0.09, None, {})
    assert importance._warnings(table, sample) == []
    table.iloc[2] = [49.0, 100.0, 3.0]
    size, failed, lower = importance._warnings(table, sample._replace(lowest=-0.11))
    assert (
        "effective size of 49 only" in size and "no value for 3 proposals" in failed and "-2LL is 0.11 lower" in lower
    )


@pytest.mark.parametrize(
    "wrong", [{"resamples": 1}, {"proposals": 9, "resamples": 10}, {"iterations": 0}, {"inflation": 0.0}]
)
def test_settings_without_a_meaning_are_refused(lines, wrong):
    with pytest.raises(nlme.FitError, match="sir needs"):
        nlme.sir(lines[0], progress=False, **wrong)


def test_two_vectors_of_two_are_enough(lines):
    found = nlme.sir(lines[0], proposals=2, resamples=2, iterations=1, progress=False)
    assert len(found.draws) == 2 and found.draws["difference"].nunique() == 2 and found.level == 0.95


def test_estimates_that_are_no_maximum_are_said(lines):
    """With a variance that is far too small the log-likelihood is convex in its logarithm."""
    fit, _ = lines
    low = replace(fit, model=Line(a=nlme.Normal(2.0, omega=1e-5), b=nlme.Normal(-0.6, nlme.Shift("x"), omega=0.1)))
    found = nlme.sir(low, proposals=40, resamples=5, iterations=1, progress=False)
    assert "R is not positive definite" in found.warnings[0] and "do not maximise" in found.warnings[-1]
