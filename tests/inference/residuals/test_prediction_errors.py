"""Prediction errors are standard normal under the model that made the data, censored or not, and not under others."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from support.fitted_models import quick_fit, shared_fit
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.inference.residuals.continuous_records import ContinuousRecords, outcome_kinds
from nlme_torch.inference.residuals.prediction_errors import prediction_errors
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.replicates import draw_replicates

SETS, SUBJECTS, RECORDS = 200, 12, 5
LIMIT = 0.2


def line(**changes):
    values = {"a": 1.0, "b": 0.3, "omega_a": 0.5, "omega_b": 0.1, "sigma": 0.4} | changes
    return Line(a=nlme.Normal(1.0, omega=1.0), b=nlme.Normal(0.0, omega=1.0)).with_values(values)


@cache
def made_data():
    """As many data sets as are wanted, side by side: the line at its values drew the observations of all subjects."""
    count = SETS * SUBJECTS
    time = np.tile([0.0, 0.5, 1.0, 2.0, 4.0], count)
    frame = pd.DataFrame({"ID": np.repeat(np.arange(count), RECORDS), "TIME": time, "DV": 1.0})
    truth = Density(line(), nlme.Dataset.from_frame(frame).batch(), nlme.Tsit5())
    return truth.batch, draw_replicates(truth, 1, ["DV"], seed=11).values["DV"][:, 0]


@cache
def errors(censored=False, simulations=400, **changes):
    """NPD and NPDE of all data sets, ``(set, subject, record)``."""
    batch, value = made_data()
    observed = replace(batch.outcomes["DV"], value=value)
    if censored:
        floor = torch.full_like(value, -torch.inf)
        code = (value < LIMIT).long()
        observed = replace(observed, value=value.clamp_min(LIMIT), censoring=code, limit=floor)
    density = Density(line(**changes), replace(batch, outcomes={"DV": observed}), nlme.Tsit5())
    found = prediction_errors(ContinuousRecords(density, outcome_kinds(density)), simulations, seed=5)
    return [errors["DV"].T.reshape(SETS, SUBJECTS, RECORDS).numpy() for errors in (found.npd, found.npde)]


@pytest.mark.parametrize("censored", [False, True], ids=["observed", "censored"])
def test_prediction_errors_are_standard_normal_under_the_true_model(censored):
    npd, npde = errors(censored=censored)
    assert np.isfinite(npd).all() and np.isfinite(npde).all()
    # one record of every subject: independent of each other
    assert stats.kstest(npd[..., 2].ravel(), "norm").pvalue > 0.005
    assert stats.kstest(npde.ravel(), "norm").pvalue > 0.005
    by_set = [stats.kstest(values.ravel(), "norm").pvalue for values in npde]
    assert stats.kstest(by_set, "uniform").pvalue > 0.005
    correlation = np.corrcoef(npde.reshape(-1, RECORDS).T)
    assert np.abs(correlation - np.eye(RECORDS)).max() < 4.5 / np.sqrt(SETS * SUBJECTS)


def test_what_is_censored_is_drawn_anew_and_nothing_else_changes():
    """The check above can fail: with the limit in place of what was drawn beyond it nothing is normal."""
    _, value = made_data()
    (npd, _), (plain, _) = errors(censored=True), errors()
    hidden = (value < LIMIT).T.reshape(npd.shape).numpy()
    assert 0.03 < hidden.mean() < 0.2
    np.testing.assert_allclose(npd[~hidden], plain[~hidden])
    assert np.abs(npd[hidden] - plain[hidden]).max() > 0.1
    filled = np.where(hidden, plain[~hidden].min(), plain)
    assert stats.kstest(filled[..., 2].ravel(), "norm").pvalue < 1e-6


@pytest.mark.parametrize(
    "changes", [{"omega_a": 2.5}, {"sigma": 0.5}, {"b": 0.2}, {"a": 1.3}], ids=["omega", "sigma", "slope", "level"]
)
def test_prediction_errors_are_not_normal_under_a_wrong_model(changes):
    _, npde = errors(**changes)
    assert stats.kstest(npde.ravel(), "norm").pvalue < 1e-6


def test_discrepancies_and_errors_are_those_of_a_loop_over_subjects_and_records():
    fit = quick_fit()
    table = fit.table(simulations=300, seed=5)
    simulated = draw_replicates(fit.density, 300, ["conc"], 5).values["conc"].numpy()
    for column, subject in enumerate(fit.data.subjects):
        own = table[table["ID"] == subject]
        y, sims = own["DV"].to_numpy(), simulated[:, :, column]
        below = [(np.sum(sims[j] < y[j]) + 0.5) / 301 for j in range(len(y))]
        np.testing.assert_allclose(own["NPD"], stats.norm.ppf(below), atol=1e-9)
        root = np.linalg.inv(np.linalg.cholesky(np.cov(sims)))
        data = root @ (y - sims.mean(1))
        stars = root @ (sims - sims.mean(1, keepdims=True))
        below = [(np.sum(stars[j] < data[j]) + 0.5) / 301 for j in range(len(y))]
        np.testing.assert_allclose(own["NPDE"], stats.norm.ppf(below), atol=1e-9)


def test_the_seed_decides_and_too_few_simulations_leave_none():
    fit = quick_fit()
    first, again, other = (fit.table(simulations=60, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert (first["NPDE"] != other["NPDE"]).mean() > 0.5
    few = fit.table(simulations=8)
    assert few["NPD"].notna().all() and few["NPDE"].isna().all()
    assert "12 subjects have too few simulations" in few.attrs["absent"]["NPDE"]["conc"]
    none = fit.table(simulations=0)
    assert "NPDE" not in none and "not asked for" in none.attrs["absent"]["NPDE"]["conc"]


def test_counts_have_ranks_drawn_among_ties_and_other_outcomes_are_decorrelated_together():
    table = shared_fit().table(simulations=200)
    count = table[table["OUTCOME"] == "count"]
    assert count["NPD"].notna().all() and count["NPDE"].isna().all()
    assert len(set(count["NPD"])) == len(count)  # ties are broken
    assert table[table["OUTCOME"] != "count"]["NPDE"].notna().all()
