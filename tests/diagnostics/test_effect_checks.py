"""Shrinkage, associations, influence and outliers against what others printed, SciPy, and fits without a subject."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from support.fitted_models import quick_fit, shared_fit
from support.mixed_linear import lines_data, simulate_lines
from support.phenobarbital_reference import REFERENCE, nonmem_fit
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.diagnostics import (
    covariate_associations,
    effect_associations,
    normality_tests,
    outlying_observations,
    outlying_subjects,
    shrinkage_table,
    subject_influence,
)
from nlme_torch.diagnostics.associations import holm
from nlme_torch.model.declare.values import assign
from nlme_torch.model.density.density import Density


def test_shrinkage_and_etabar_of_phenobarbital_are_those_that_nonmem_printed():
    table = shrinkage_table(nonmem_fit())
    etas = table[table["kind"] == "eta"]
    np.testing.assert_allclose(100 * etas["shrinkage_sd"], REFERENCE["eta_shrinkage_sd_percent"], atol=0.02)
    np.testing.assert_allclose(100 * etas["shrinkage_variance"], REFERENCE["eta_shrinkage_variance_percent"], atol=0.02)
    np.testing.assert_allclose(etas["mean"], REFERENCE["etabar"], atol=5e-6)
    # NONMEM divides by n and reads the normal distribution; here it is n - 1 and Student's
    np.testing.assert_allclose(etas["mean_se"] * np.sqrt(58 / 59), REFERENCE["etabar_se"], rtol=1e-3)
    np.testing.assert_allclose(etas["mean_p_value"], REFERENCE["etabar_p"], atol=3e-3)
    # its conditional variances are those of the linearised model
    variance = 100 * etas["shrinkage_conditional"]
    np.testing.assert_allclose(variance, REFERENCE["ebv_shrinkage_variance_percent"], atol=1.0)
    epsilon = table.loc["epsilon DV"]
    assert 100 * epsilon["shrinkage_sd"] == pytest.approx(REFERENCE["epsilon_shrinkage_sd_percent"], abs=0.01)
    assert 100 * epsilon["shrinkage_variance"] == pytest.approx(
        REFERENCE["epsilon_shrinkage_variance_percent"], abs=0.01
    )


def test_associations_with_covariates_are_scipys():
    fit = shared_fit()
    table = covariate_associations(fit, effects=["eta_v"]).set_index("covariate")
    covariates, modes = fit.data.covariates, fit.eta["eta_v"]
    found = stats.pearsonr(covariates["Wt"], modes)
    assert table.loc["Wt", ["statistic", "p_value"]].tolist() == pytest.approx([found.statistic, found.pvalue])
    found = stats.f_oneway(modes[covariates["sex"] == 0], modes[covariates["sex"] == 1])
    assert table.loc["sex", ["statistic", "p_value"]].tolist() == pytest.approx([found.statistic, found.pvalue])
    draws = fit.effects.draws[0].numpy()
    p_values = [stats.pearsonr(covariates["Wt"], one).pvalue for one in draws]
    assert table.loc["Wt", "draws_p_value"] == pytest.approx(min(1, 2 * np.median(p_values)))
    np.testing.assert_allclose(table["p_holm"], holm(table["draws_p_value"]))
    np.testing.assert_allclose(table["q_value"], stats.false_discovery_control(table["draws_p_value"]))


def test_holms_correction_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


def test_tests_on_draws_keep_their_level_where_those_on_modes_may_not():
    """Draws whose effects follow the model: p-values of no covariate effect are not too small."""
    fit, numbers = quick_fit(), np.random.default_rng(0)
    small = []
    for _ in range(60):
        drawn = torch.tensor(numbers.normal(size=(3, 40, 12)))
        effects = replace(fit.effects, draws=drawn, modes=drawn[:, 0])
        table = covariate_associations(replace(fit, effects=effects))
        small.append(table["draws_p_value"].min() < 0.05 / 6)
    assert np.mean(small) <= 0.1


def test_effects_are_tested_for_what_the_model_does_not_have():
    fit = quick_fit()
    table = effect_associations(fit)
    assert len(table) == 3 and set(table["model"]) == {0.0}
    line = table[(table["effect"] == "eta_v") & (table["other"] == "eta_cl")].iloc[0]
    found = stats.pearsonr(fit.eta["eta_cl"], fit.eta["eta_v"])
    assert [line["statistic"], line["p_value"]] == pytest.approx([found.statistic, found.pvalue])


def test_normality_of_effects_and_residuals():
    fit = quick_fit()
    table = normality_tests(fit, simulations=200).set_index(["what", "kind"])
    found = stats.shapiro(fit.eta["eta_ka"])
    assert table.loc[("eta_ka", "modes"), "shapiro_p_value"] == pytest.approx(found.pvalue)
    residuals = fit.table(simulations=200)
    for kind in ("IWRES", "CWRES", "NPDE"):
        expected = stats.kstest(residuals[kind], "norm").pvalue
        assert table.loc[("conc", kind), "ks_p_value"] == pytest.approx(expected)


def refitted(fit, data):
    """The model at the estimates from other data: the search alone, without what a fit finds out afterwards."""
    density = Density(fit.model, data.batch(), fit.solver)
    values = fit.method.estimate(density, torch.Generator().manual_seed(0), False).values
    model = copy.deepcopy(fit.model)
    assign(model, values)
    return model


def test_influence_is_what_fits_without_the_subject_say():
    frame, _ = simulate_lines(subjects=25, seed=3)
    frame.loc[frame["ID"] == 4, "DV"] += 2.5
    fit = nlme.fit(Line(), lines_data(frame), nlme.FOCEI(), progress=False)
    table = subject_influence(fit)
    assert table.index[0] == 4
    for subject in (4, 11):
        without = fit.data.subset([label for label in fit.data.subjects if label != subject])
        other = refitted(fit, without)
        for name in ("a", "b"):
            estimate = fit.parameters.loc[name, "estimate"]
            moved = float(getattr(other, name).value) - estimate
            assert table.loc[subject, name] - estimate == pytest.approx(moved, rel=0.2, abs=2e-3)
    # Cook's displacement to second order, at the estimates without the subject
    method = nlme.FOCEI()
    worse = nlme.ofv(other, fit.data, method).ofv - nlme.ofv(fit.model, fit.data, method).ofv
    assert table.loc[11, "displacement"] == pytest.approx(worse, rel=0.4)


def test_outliers_are_named_by_the_users_row():
    fit = quick_fit()
    frame = fit.data.frame
    frame.loc[40, "conc"] += 12.0
    data = nlme.Dataset.from_frame(frame, id="Subject", time="Time", outputs="conc", covariates=["Wt", "Dose"])
    found = outlying_observations(replace(fit, data=data), simulations=200)
    assert found.iloc[0]["row"] == 40 and found.iloc[0]["DV"] == frame.loc[40, "conc"]
    assert len(found["row"].unique()) < 4
    bound = stats.norm.isf(0.05 / 2 / 132)
    assert (found["residual"].abs() > bound).all() and found["bound"].iloc[0] == pytest.approx(bound)
    modes = fit.effects.modes.clone()
    modes[1, 5] = 8 * float(fit.omega.iloc[1, 1]) ** 0.5
    table = outlying_subjects(replace(fit, effects=replace(fit.effects, modes=modes)))
    assert table.index[0] == fit.data.subjects[5] and table["outlying"].sum() == 1
    inverse = np.linalg.inv(fit.omega.to_numpy())
    eta = modes[:, 0].numpy()
    assert table.loc[fit.data.subjects[0], "distance"] == pytest.approx(eta @ inverse @ eta)
