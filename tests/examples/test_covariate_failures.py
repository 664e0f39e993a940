"""Covariate effects read off shrunken modes, and found with the effects: against what the data were made of."""

import numpy as np
import pytest

import nlme_torch as nlme

QUICK = nlme.FOCEI(optimiser=nlme.BFGS(iterations=30), mode_starts=1)


def fitted_means(fit):
    """Mean predicted from the covariate, and covariate, of every subject."""
    predicted = fit.predictions.groupby("id").PRED.first().to_numpy()
    return predicted, fit.data.covariates["c"].to_numpy()


def test_the_simulated_data_are_what_they_say():
    data = nlme.examples.bimodal_data(4000, seed=3)
    means = data.frame.groupby("ID").DV.mean().to_numpy() - data.covariates["c"].to_numpy()
    assert set(data.covariates["c"]) == {-1.0, 1.0} and data.n_observations == 16_000
    # omega^2 + sigma^2 / 4
    assert means.var() == pytest.approx(0.04 + 0.0025, rel=0.1)
    both, rich = (nlme.examples.rich_and_sparse_data(sparse=sparse, seed=2) for sparse in (200, 0))
    assert both.frame.groupby("ID").size().value_counts().to_dict() == {10: 200, 1: 200}
    assert both.subset(rich.subjects).frame.equals(rich.frame), "the rich subjects are the same"
    error = both.frame.DV - np.sin(1.5 * both.frame.c)
    assert error.var() == pytest.approx(1 + 0.15**2, rel=0.1)


def test_a_network_of_the_covariate_finds_both_modes_and_their_spread():
    data = nlme.examples.bimodal_data(400, seed=1)
    without = nlme.fit(nlme.examples.SubjectMean(), data, nlme.FOCEI(), progress=False)
    joint = nlme.fit(nlme.examples.SubjectMeanNetwork(), data, QUICK, progress=False)
    predicted, c = fitted_means(joint)
    # the error of a mode's mean over 200 subjects is 0.2 / sqrt(200), that of omega 0.2 / sqrt(800)
    np.testing.assert_allclose([predicted[c < 0].mean(), predicted[c > 0].mean()], [-1, 1], atol=4 * 0.0141)
    assert np.sqrt(joint.omega.iloc[0, 0]) == pytest.approx(0.2, abs=4 * 0.0071)
    assert np.sqrt(without.omega.iloc[0, 0]) == pytest.approx(1.02, abs=0.05), "the random effects cover both modes"


def test_sparse_subjects_draw_modes_to_zero_and_do_not_hurt_a_joint_fit():
    slopes, errors = {}, {}
    for sparse in (0, 200):
        data = nlme.examples.rich_and_sparse_data(sparse=sparse, seed=1)
        expected = nlme.examples.smooth_effect(data.covariates["c"].to_numpy())
        without = nlme.fit(nlme.examples.SubjectMean(), data, nlme.FOCEI(), progress=False)
        modes = without.eta["eta_mean"].to_numpy()
        slopes[sparse] = np.polyfit(expected, modes, 1)[0]
        # f + eta has variance 1/2 + 0.15^2 and so shrinks by v / (v + 1 / samples)
        total = without.omega.iloc[0, 0]
        shares = [total / (total + 1 / samples) for samples in ((10, 1) if sparse else (10,))]
        assert slopes[sparse] == pytest.approx(np.mean(shares), abs=0.06)
        ways = {
            "augment": nlme.augment(without, nlme.examples.SubjectMeanNetwork().shift, iterations=100, likelihood=QUICK)
        }
        if sparse:
            ways["joint"] = nlme.fit(ways["augment"].model, data, QUICK, progress=False)
        for way, found in ways.items():
            errors[way, sparse] = np.abs(fitted_means(found)[0] - expected).mean()
            assert np.sqrt(found.omega.iloc[0, 0]) == pytest.approx(0.15, abs=0.06)
    assert slopes[200] < 0.7 < 0.8 < slopes[0]
    assert max(errors["augment", 200], errors["joint", 200]) < errors["augment", 0] < 0.06
