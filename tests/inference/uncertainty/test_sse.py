"""Simulation and estimation against the exact answers of the linear mixed model."""

import numpy as np
import pandas as pd
import pytest
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme


def study(samples, **options):
    frame, _ = simulate_lines(subjects=20, seed=1)
    b = nlme.Normal(-0.6, nlme.Shift("x", coefficient=0.3), omega=0.15)
    model = Line(a=nlme.Normal(2.0, omega=0.5), b=b, sigma=nlme.Positive(0.4))
    return nlme.sse(model, lines_data(frame), samples=samples, progress=False, **options)


@pytest.fixture(scope="module")
def found():
    return study(24)


def test_the_table_is_what_the_estimates_say(found):
    true = {"a": 2.0, "b": -0.6, "sigma": 0.4, "omega_a": 0.5, "omega_b": 0.15, "b_x": 0.3}
    assert found.table["true"].to_dict() == pytest.approx(true)
    assert not found.problems
    for name, value in true.items():
        own, row = found.estimates[name].to_numpy(), found.table.loc[name]
        assert row["bias"] == pytest.approx(own.mean() - value)
        assert row["rmse"] == pytest.approx(np.sqrt(np.mean((own - value) ** 2)))
        assert abs(row["bias"]) < 4 * row["bias_se"] + 0.1 * abs(value)


def test_standard_errors_of_single_data_sets_are_those_of_a_fit_to_them(found):
    """The third data set, drawn again and fitted alone."""
    import torch

    from nlme_torch.inference.uncertainty.resamples import ParametricResamples
    from nlme_torch.model.density.density import Density

    frame, _ = simulate_lines(subjects=20, seed=1)
    b = nlme.Normal(-0.6, nlme.Shift("x", coefficient=0.3), omega=0.15)
    model = Line(a=nlme.Normal(2.0, omega=0.5), b=b, sigma=nlme.Positive(0.4))
    density = Density(model, lines_data(frame).batch(), nlme.Tsit5())
    draws = ParametricResamples.draw(density, 24, torch.Generator().manual_seed(0))
    outcome = draws.batch(2).outcomes["DV"]
    own = pd.concat(
        [
            part.assign(DV=outcome.value[outcome.mask[:, k], k].numpy())
            for k, (_, part) in enumerate(frame.groupby("ID", sort=False))
        ]
    )
    fit = nlme.fit(model, lines_data(own), nlme.FOCEI(), progress=False).with_standard_errors(kind="R")
    for name in ("a", "b", "sigma", "omega_a"):
        assert found.estimates.loc[2, name] == pytest.approx(fit.parameters.loc[name, "estimate"], rel=5e-3)
        assert found.errors.loc[2, name] == pytest.approx(fit.parameters.loc[name, "se"], rel=0.02)


def test_intervals_cover_the_truth_about_as_often_as_they_say(found):
    fixed = found.table.loc[["a", "b", "b_x"]]
    assert (fixed["coverage"] > 0.8).all() and (fixed["count"] == 24).all()
    # empirical spread and mean standard error agree
    np.testing.assert_allclose(fixed["mean_se"], fixed["sd"], rtol=0.35)


def test_settings_are_checked():
    with pytest.raises(nlme.FitError, match="at least 2"):
        study(1)
    with pytest.raises(nlme.FitError, match="level"):
        study(5, level=1.5)


@pytest.mark.slow
def test_coverage_and_bias_over_many_data_sets():
    found = study(400, seed=7)
    fixed = found.table.loc[["a", "b", "b_x"]]
    assert (np.abs(fixed["bias"]) < 4 * fixed["bias_se"]).all()
    assert fixed["coverage"].between(0.9, 0.98).all()
    np.testing.assert_allclose(fixed["mean_se"], fixed["sd"], rtol=0.1)
