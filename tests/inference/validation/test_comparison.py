"""Fits side by side."""

import copy
import math

import pytest
import scipy.stats

import nlme_torch as nlme


def test_criteria_and_the_likelihood_ratio_test(theophylline):
    model = nlme.examples.TheophyllineClosedForm()
    held = copy.deepcopy(model)
    held.ka.typical.requires_grad_(False)
    full = nlme.fit(model, theophylline, nlme.FOCEI(), progress=False)
    less = nlme.fit(held, theophylline, nlme.FOCEI(), progress=False)
    table = nlme.compare(full=full, less=less).table
    assert list(table["parameters"]) == [7, 6]
    assert table.loc["full", "OFV"] == pytest.approx(116.803413, abs=1e-4)
    chi2 = less.minus2ll - full.minus2ll
    assert table.loc["less", "LRT against"] == "full" and table.loc["less", "df"] == 1
    assert table.loc["less", "chi2"] == pytest.approx(chi2)
    assert table.loc["less", "p"] == pytest.approx(scipy.stats.chi2.sf(chi2, 1))
    assert math.isnan(table.loc["full", "p"])
    # six parameters of ka, cl, v and their variances count with 12 subjects, sigma with 132 observations
    expected = full.minus2ll + 6 * math.log(12) + math.log(132)
    assert table.loc["full", "BICc"] == pytest.approx(expected)
    assert table.loc["full", "BIC"] == pytest.approx(full.bic) and table.loc["full", "AIC"] == pytest.approx(full.aic)


def test_different_approximations_are_brought_to_a_common_one(theophylline):
    model = nlme.examples.TheophyllineClosedForm()
    first = nlme.fit(model, theophylline, nlme.FO(), progress=False)
    second = nlme.fit(model, theophylline, nlme.FOCEI(), progress=False)
    comparison = nlme.compare(nlme.Laplace(), first=first, second=second)
    assert comparison.method == "Laplace"
    at_first = nlme.ofv(first.model, theophylline, nlme.Laplace())
    assert comparison.table.loc["first", "OFV"] == pytest.approx(at_first.ofv, abs=1e-6)
    assert comparison.parameters.loc["ka", "second"] == pytest.approx(math.exp(0.46388), rel=1e-4)


def test_other_data_and_a_single_fit_are_refused(theophylline):
    fit = nlme.fit(nlme.examples.TheophyllineClosedForm(), theophylline, nlme.FO(), progress=False)
    frame = theophylline.frame
    frame.loc[0, "conc"] += 1
    data = nlme.Dataset.from_frame(frame, id="Subject", time="Time", outputs="conc", covariates=["Wt", "Dose"])
    other = nlme.fit(nlme.examples.TheophyllineClosedForm(), data, nlme.FO(), progress=False)
    with pytest.raises(nlme.FitError, match="'b' was fitted to other data"):
        nlme.compare(a=fit, b=other)
    with pytest.raises(nlme.FitError, match="at least two"):
        nlme.compare(a=fit)
