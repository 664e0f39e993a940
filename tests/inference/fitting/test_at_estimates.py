"""Whatever happens after the iterations, the estimates are returned: what fails is a warning and NaN."""

import math
from dataclasses import dataclass

import pytest
import torch
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.inference.fitting import at_estimates
from nlme_torch.model.density.density import Density

POOLED = nlme.Pooled(steps=3)
FOCEI = nlme.FOCEI(optimiser=nlme.BFGS(iterations=3))


@dataclass(frozen=True)
class Raising:
    """A likelihood that ends in an exception."""

    error: BaseException

    def log_marginal(self, density, effects, generator):
        raise self.error


@pytest.fixture(scope="module")
def data():
    return lines_data(simulate_lines(subjects=6, seed=9)[0])


ENDS = [
    nlme.FitError("no draw of subject 3 could be evaluated."),
    nlme.SolveError("subject 3 at time 2."),
    OverflowError("cannot convert float infinity to integer"),
    torch.linalg.LinAlgError("the input is not positive-definite"),
]


@pytest.mark.parametrize("error", ENDS, ids=lambda error: type(error).__name__)
def test_a_likelihood_that_fails_is_unknown_and_the_estimates_stand(data, error, tmp_path):
    fit = nlme.fit(Line(), data, FOCEI, likelihood=Raising(error), progress=False)
    assert math.isnan(fit.minus2ll) and math.isnan(fit.ofv) and math.isnan(fit.aic)
    assert fit.status is nlme.fit(Line(), data, FOCEI, progress=False).status
    assert fit.parameters["estimate"].notna().all() and fit.eta.notna().to_numpy().all()
    assert sum(str(error).rstrip(".") in message for message in fit.warnings) == 1
    assert "-2LL unknown" in str(fit)
    again = nlme.load(fit.save(tmp_path / "run"), Line(), data)
    assert str(again) == str(fit)


def test_modes_that_fail_are_nan_and_the_draws_of_the_method_stand(data, monkeypatch):
    def fail(*_, **__):
        raise nlme.SolveError("subject 2 could not be solved.")

    monkeypatch.setattr(at_estimates, "estimate_effects", fail)
    saem = nlme.SAEM(schedule=nlme.StepSchedule(burn_in=2, exploration=4, smoothing=2))
    fit = nlme.fit(Line(), data, saem, likelihood=nlme.ImportanceSampling(200), progress=False)
    assert fit.eta.isna().to_numpy().all() and fit.predictions["IPRED"].isna().all()
    assert fit.predictions["PRED"].notna().all() and fit.eta_mean.notna().to_numpy().all()
    assert math.isfinite(fit.minus2ll), "importance sampling needs means and covariances only"
    assert any("random effects" in message and "subject 2" in message for message in fit.warnings)
    assert "nan" not in str(fit.parameters["estimate"].tolist())


def test_an_interrupt_of_the_likelihood_returns_what_stands_and_says_so(data):
    fit = nlme.fit(Line(), data, FOCEI, likelihood=Raising(KeyboardInterrupt()), progress=False)
    assert fit.status is nlme.Status.INTERRUPTED and not fit.converged
    assert math.isnan(fit.minus2ll) and fit.eta.notna().to_numpy().all()
    assert any("interrupted while the likelihood" in message for message in fit.warnings)


def test_an_interrupt_of_the_modes_skips_what_follows(data, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(at_estimates, "estimate_effects", interrupt)
    fit = nlme.fit(Line(), data, POOLED, likelihood=Raising(AssertionError("not reached")), progress=False)
    assert fit.status is nlme.Status.INTERRUPTED
    assert fit.eta.isna().to_numpy().all() and math.isnan(fit.minus2ll)


def test_a_defect_of_a_likelihood_surfaces(data):
    with pytest.raises(AttributeError, match="a typing error"):
        nlme.fit(Line(), data, FOCEI, likelihood=Raising(AttributeError("a typing error")), progress=False)


def test_one_subject_without_a_likelihood_is_named_and_the_others_keep_theirs(data):
    @dataclass(frozen=True)
    class Partly:
        def log_marginal(self, density, effects, generator):
            estimate = nlme.Laplace().log_marginal(density, effects, generator)
            estimate.log_marginal[2] = -math.inf
            return estimate

    fit = nlme.fit(Line(), data, FOCEI, likelihood=Partly(), progress=False)
    name = data.subjects[2]
    assert math.isnan(fit.minus2ll) and repr(name) in str(fit.log_likelihood)
    assert fit.log_likelihood.subjects["log_likelihood"].replace(-math.inf, math.nan).notna().sum() == 5


def test_unknown_effects_take_their_moments_from_draws(data):
    density = Density(Line(), data.batch(), nlme.Tsit5())
    shape = (density.model.n_effects, 50, 6)
    draws = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = at_estimates.unknown_effects(density, draws)
    torch.testing.assert_close(found.covariances[:, :, 1], torch.cov(draws[:, :, 1]))
    assert bool(found.modes.isnan().all())
