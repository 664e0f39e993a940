"""Stepwise search for covariate effects: what is there is found, what is not is not; steps are likelihood ratios."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from support.mixed_linear import simulate_lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.model.density.density import Density


@pytest.fixture(scope="module")
def data():
    frame, _ = simulate_lines(subjects=40, seed=2, slope_on=0.6)
    numbers = np.random.default_rng(5)
    noise = numbers.normal(size=40)
    frame["z"] = noise[frame["ID"] - 1]
    frame["sex"] = np.where(frame["ID"] % 2 == 0, "f", "m")
    return nlme.Dataset.from_frame(frame, covariates=["x", "z", "sex"])


def base():
    return Line(a=nlme.Normal(2.0, omega=0.5), b=nlme.Normal(-0.5, omega=0.5), sigma=nlme.Positive(0.5))


@pytest.fixture(scope="module")
def found(data):
    candidates = {"a": [nlme.Shift("z"), nlme.Shift("sex")], "b": [nlme.Shift("x"), nlme.Shift("z")]}
    return nlme.covariate_search(base(), data, candidates, backward=0.001, progress=False)


def test_the_effect_that_is_there_is_found(found):
    assert found.selected == (("b", "x"),)
    first = found.table[found.table["step"] == 1]
    assert len(first) == 4 and first["taken"].sum() == 1
    assert first.loc[first["taken"], ["parameter", "covariate"]].iloc[0].tolist() == ["b", "x"]
    assert found.best.parameters.loc["b_x", "estimate"] == pytest.approx(0.6, abs=0.2)


def test_steps_are_likelihood_ratios_with_the_candidates_counted(found, data):
    model = Line(a=nlme.Normal(2.0, nlme.Shift("z"), omega=0.5), b=nlme.Normal(-0.5, omega=0.5))
    without, larger = (
        nlme.FOCEI().estimate(Density(one, data.batch(), nlme.Tsit5()), torch.Generator().manual_seed(0), False)
        for one in (base(), model)
    )
    first = found.table[found.table["step"] == 1]
    row = first[(first["parameter"] == "a") & (first["covariate"] == "z")].iloc[0]
    difference = without.log_likelihood.minus2ll - larger.log_likelihood.minus2ll
    assert found.base == pytest.approx(without.log_likelihood.minus2ll, abs=1e-3)
    assert row["chi2"] == pytest.approx(difference, abs=2e-3)
    assert row["p"] == pytest.approx(chi2.sf(row["chi2"], 1)) and row["df"] == 1
    assert row["p_bonferroni"] == pytest.approx(min(1.0, 4 * row["p"]))


def test_candidates_are_checked(data):
    with pytest.raises(nlme.FitError, match="no individual parameter"):
        nlme.covariate_search(base(), data, {"sigma": nlme.Shift("x")})
    with pytest.raises(nlme.FitError, match="already"):
        nlme.covariate_search(Line(), data, {"b": nlme.Shift("x")})
    with pytest.raises(nlme.FitError, match="computes none"):
        nlme.covariate_search(base(), data, {"b": nlme.Shift("x")}, nlme.SAEM())
    with pytest.raises(nlme.FitError, match="nothing to test"):
        nlme.covariate_search(base(), data, {"b": nlme.Shift("x", coefficient=0.1, fixed=True)})
