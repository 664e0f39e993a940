"""Which objective judges the uncertainty of a fit: the one that was maximised, with its settings."""

import dataclasses

import pytest
from support.fitted_models import quick_fit

import nlme_torch as nlme
from nlme_torch.inference.uncertainty.fitted_method import fitted_method, maximised

SETTINGS = nlme.FOCEI(optimiser=nlme.LBFGS(iterations=7), mode_starts=3, rescue=None)


@pytest.mark.parametrize("likelihood", [None, nlme.ImportanceSampling(samples=100)])
def test_after_stages_the_settings_of_the_last_one_judge(likelihood):
    start = quick_fit()
    staged = nlme.Staged(nlme.Pooled(steps=3), SETTINGS)
    fit = nlme.fit(start.model, start.data, staged, likelihood=likelihood, progress=False)
    assert fitted_method(fit) == SETTINGS
    nested = nlme.Staged(nlme.Pooled(steps=3), nlme.Staged(nlme.SAEM(), SETTINGS))
    assert maximised(nested) == SETTINGS and maximised(nlme.Staged(SETTINGS, nlme.SAEM())) is None


def test_what_gave_the_likelihood_is_known_with_its_settings_and_after_loading(tmp_path):
    fit = quick_fit()
    assert maximised(fit.method) is None and fitted_method(fit) == nlme.FOCEI()
    method = nlme.Quadrature(nodes=5, mode_starts=2)
    other = dataclasses.replace(fit, log_likelihood=nlme.loglik(fit, method))
    assert fitted_method(other) == method
    loaded = nlme.load(other.save(tmp_path / "run"), other.model, other.data)
    assert fitted_method(loaded) == method and loaded.log_likelihood.method == "Quadrature(nodes=5)"
    sampled = dataclasses.replace(fit, log_likelihood=nlme.loglik(fit, nlme.ImportanceSampling(samples=50)))
    assert fitted_method(nlme.load(sampled.save(tmp_path / "sampled"), fit.model, fit.data)) == nlme.FOCEI()
