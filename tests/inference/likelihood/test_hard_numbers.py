"""Numbers at the end of their range: no table, print, standard error or likelihood is ended by one."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from support.fitted_models import made_fit
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.inference.fitting.tables import coefficient_of_variation
from nlme_torch.inference.information.observed import Information, condition_number, invert
from nlme_torch.inference.likelihood.annealed_importance_sampling import Annealing

VARIANCES = [1e-300, 1e-30, 709.5, 1e4, 1e300]


def wild_fit(variance):
    """Theophylline with one variance at the end of what numbers hold; effects are made up and small."""
    model, data = nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline()
    fit = made_fit(model, data)
    block = model.blocks[0]
    with torch.no_grad():
        block.covariance.log_sd[1] = 0.5 * math.log(variance)
    return fit


def test_the_coefficient_of_variation_against_its_formula_and_beyond_it():
    assert coefficient_of_variation(0.0) == 0.0
    assert coefficient_of_variation(1e-20) == pytest.approx(1e-8, rel=1e-12)
    assert coefficient_of_variation(708.0) == pytest.approx(100 * math.exp(354.0), rel=1e-12)
    assert coefficient_of_variation(709.9) == coefficient_of_variation(math.inf) == math.inf
    assert math.isnan(coefficient_of_variation(math.nan))


@pytest.mark.parametrize("variance", VARIANCES)
def test_a_fit_prints_and_saves_whatever_its_variances(variance, tmp_path):
    fit = wild_fit(variance)
    assert math.isfinite(fit.parameters["estimate"].sum())
    assert "TheophyllineClosedForm fitted" in str(fit) and "TheophyllineClosedForm" in fit._repr_html_()
    assert (fit.save(tmp_path / "run") / "parameters.csv").is_file()
    assert fit.correlation.shape == (3, 3) and len(fit.shrinkage) == 3


@pytest.mark.parametrize("variance", [1e-300, 1e4])
@pytest.mark.parametrize(
    "method",
    [
        nlme.Laplace(mode_starts=1),
        nlme.Quadrature(nodes=2),
        nlme.ImportanceSampling(samples=30),
        nlme.AnnealedImportanceSampling(annealing=Annealing(groups=2, chains=4, moves=1, max_steps=3)),
    ],
    ids=lambda method: type(method).__name__,
)
def test_a_likelihood_has_a_value_or_says_why_not(variance, method):
    fit = wild_fit(variance)
    try:
        assert nlme.loglik(fit, method).subjects.shape[0] == 12
    except nlme.NLMEError as error:
        assert len(str(error)) > 20


def test_held_out_subjects_under_a_collapsed_variance():
    fit = wild_fit(1e-300)
    value = nlme.held_out(fit, fit.data.subset(fit.data.subjects[:2]), nlme.ImportanceSampling(samples=100))
    assert math.isfinite(value.minus2ll)


@pytest.mark.parametrize("kind", ["sandwich", "R", "S"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_derivatives_that_are_not_finite_give_unknown_standard_errors_and_a_warning(kind, bad):
    matrix = torch.eye(2, dtype=torch.float64)
    broken = matrix.clone()
    broken[0, 1] = broken[1, 0] = bad
    for information in (Information(broken, matrix, 5), Information(matrix, broken, 5)):
        inverse = invert(information, kind, ["a", "b"])
        assert bool(inverse.covariance.isnan().all()) and "not finite" in inverse.warnings[-1]


def test_the_condition_number_of_a_covariance_that_is_none():
    for entry in (0.0, -1.0, math.nan):
        assert condition_number(torch.diag(torch.tensor([1.0, entry]))) == math.inf


@pytest.mark.parametrize("values", ["constant", "outlier", "huge"])
def test_a_fit_to_strange_values_ends_with_estimates(values, tmp_path):
    frame = simulate_lines(subjects=6, seed=9)[0]
    if values == "constant":
        frame["DV"] = 3.0
    elif values == "outlier":
        frame.loc[3, "DV"] = 1e6
    else:
        frame["DV"] *= 1e6
    data = lines_data(frame)
    fit = nlme.fit(Line(), data, nlme.FOCEI(), progress=False)
    assert fit.parameters["estimate"].notna().all()
    assert "Line fitted" in str(fit)
    if values == "constant":  # no maximum, and no curvature
        assert fit.status is nlme.Status.UNBOUNDED
        with pytest.raises(nlme.FitError, match="standard errors cannot be computed"):
            fit.with_standard_errors(kind="R")
    else:
        assert "Line fitted" in str(fit.with_standard_errors(kind="R"))
    assert (fit.save(tmp_path / "run") / "fit.json").is_file()


def test_standard_errors_without_a_number_still_print():
    fit = made_fit(nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline())
    names = ["cl", "v"]
    table = pd.DataFrame(math.nan, index=names, columns=["estimate", "se", "rse_percent", "lower", "upper"])
    matrix = torch.full((2, 2), math.nan, dtype=torch.float64)
    unknown = nlme.Uncertainty(
        "FOCEI", "R", table, pd.DataFrame(matrix, index=names, columns=names), matrix, matrix, 0.95, math.inf, ("w",)
    )
    assert "warning: w" in str(replace(fit, uncertainty=unknown))
