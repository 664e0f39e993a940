"""fit() and the Fit it returns."""

import copy
import io
import math
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import DOUBLE, Line, number

import nlme_torch as nlme

SHORT = nlme.SAEM(schedule=nlme.StepSchedule(exploration=20, smoothing=15))


def quick(model, data, seed=1, method=SHORT, **options):
    return nlme.fit(model, data, method, seed=seed, progress=False, likelihood=nlme.Laplace(), **options)


@pytest.fixture(scope="module")
def lines():
    return simulate_lines(subjects=9, seed=6)


@pytest.fixture(scope="module")
def line_fit(lines):
    return quick(Line(full=True), lines_data(lines[0]))


@pytest.fixture(scope="module")
def theophylline_fit(theophylline):
    return quick(nlme.examples.TheophyllineClosedForm(), theophylline)


# ------------------------------------------------------------------ fit()


def test_the_given_model_and_data_are_not_changed(lines):
    model, data = Line(), lines_data(lines[0])
    before, digest = copy.deepcopy(model.state_dict()), data.hash
    fit = quick(model, data)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert data.hash == digest and fit.data is data and fit.model is not model
    assert not torch.equal(fit.model.a.typical, model.a.typical)


def test_the_same_seed_gives_the_same_fit_bit_for_bit(lines):
    data = lines_data(lines[0])
    one, two, other = (nlme.fit(Line(), data, SHORT, seed=seed, progress=False) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))
    for name in ("modes", "precision", "means", "covariances", "draws"):
        assert torch.equal(getattr(one.effects, name), getattr(two.effects, name))
    assert one.minus2ll == two.minus2ll and one.predictions.equals(two.predictions) and one.trace.equals(two.trace)
    assert one.minus2ll != other.minus2ll


def test_methods_chain(lines):
    data = lines_data(lines[0])
    first = quick(Line(), data)
    second = quick(
        first.model, data, method=nlme.SAEM(schedule=nlme.StepSchedule(burn_in=5, exploration=0, smoothing=1))
    )
    start = second.trace.iloc[0]
    assert start.a == pytest.approx(first.parameters.estimate.a, rel=1e-12)
    assert start.omega_b == pytest.approx(first.omega.loc["eta_b", "eta_b"], rel=1e-12)


def test_nothing_is_printed_and_progress_goes_to_stderr(lines):
    data, out, err = lines_data(lines[0]), io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        quick(Line(), data)
    assert out.getvalue() == "" and err.getvalue() == ""
    with redirect_stdout(out), redirect_stderr(err):
        nlme.fit(Line(), data, SHORT, progress=True, likelihood=nlme.Laplace())
    assert out.getvalue() == "" and "SAEM" in err.getvalue() and "40/40" in err.getvalue()


def test_data_without_observations_are_refused():
    design = nlme.Dataset.from_frame(pd.DataFrame({"ID": [1], "TIME": [0.0], "DV": [1.0], "x": [0.0]})).with_regimen
    empty = design(nlme.Regimen(1.0), [1.0, 2.0]) if hasattr(nlme, "Regimen") else None
    if empty is None:
        from nlme_torch.data import Regimen

        empty = design(Regimen(1.0), [1.0, 2.0])
    with pytest.raises(nlme.FitError, match="no observations to fit"):
        nlme.fit(Line(), empty, SHORT, progress=False)


def test_pooled_fit_of_a_model_without_random_effects(lines):
    class NoEffects(nlme.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.sigma = nlme.Real(1.0), nlme.Real(0.0), nlme.Positive(1.0)

        def predict(self, t, p, cov):
            return p.a + p.b * t

        def observe(self, t, y, p):
            return {"DV": dist.Normal(y, p.sigma)}

    frame = lines[0]
    fit = nlme.fit(NoEffects(), lines_data(frame), nlme.Pooled(steps=600), progress=False)
    slope, intercept = np.polyfit(frame.TIME, frame.DV, 1)
    residual = frame.DV - intercept - slope * frame.TIME
    assert fit.parameters.estimate[["a", "b"]].tolist() == pytest.approx([intercept, slope], abs=1e-3)
    sigma = residual.std(ddof=0)
    assert fit.parameters.estimate.sigma == pytest.approx(sigma, abs=1e-3)
    assert fit.minus2ll == pytest.approx(len(frame) * (math.log(2 * math.pi * sigma**2) + 1), abs=1e-3)
    assert fit.eta.shape == (9, 0) and fit.predictions.PRED.equals(fit.predictions.IPRED)


# ------------------------------------------------------------------ numbers


def test_criteria_follow_their_definitions(theophylline_fit):
    fit = theophylline_fit
    assert fit.n_parameters == 7  # ka, CL, V, three variances, sigma
    assert fit.aic == pytest.approx(fit.minus2ll + 14, abs=1e-9)
    assert fit.bic == pytest.approx(fit.minus2ll + 7 * math.log(132), abs=1e-9)
    assert fit.ofv == pytest.approx(fit.minus2ll - 132 * math.log(2 * math.pi), abs=1e-9)
    assert fit.log_prior == 0.0


def test_a_penalised_objective_is_never_shown_as_a_likelihood(lines):
    """A published failure: both are shown, and -2LL, AIC and BIC are without the penalty."""
    frame, design = lines
    prior = dist.Normal(number(0.0), number(0.05))
    fit = quick(Line(a=nlme.Normal(1.0, omega=1.0, prior=prior)), lines_data(frame))
    estimate = fit.parameters.estimate
    exact = design.minus2ll(estimate[["a", "b", "b_x"]].to_numpy(), fit.omega.to_numpy(), estimate.sigma)
    assert fit.minus2ll == pytest.approx(exact, rel=1e-8)
    assert fit.log_prior == pytest.approx(prior.log_prob(number(estimate.a)).item(), rel=1e-10)
    text = repr(fit)
    assert (
        f"penalised objective {fit.minus2ll - 2 * fit.log_prior:.3f} (not a likelihood)" in text
        and f"-2LL {fit.minus2ll:.3f}" in text
    )


def test_random_effects_and_individual_parameters(theophylline_fit, theophylline):
    fit = theophylline_fit
    assert fit.eta.index.tolist() == list(theophylline.subjects) and fit.eta.columns.tolist() == [
        "eta_ka",
        "eta_cl",
        "eta_v",
    ]
    for name in ("ka", "cl", "v"):
        expected = fit.parameters.estimate[name] * np.exp(fit.eta[f"eta_{name}"])
        np.testing.assert_allclose(fit.individual_parameters[name], expected, rtol=1e-10)
    np.testing.assert_allclose(fit.eta_mean.to_numpy().T, fit.effects.means.numpy())
    np.testing.assert_allclose(fit.eta_sd.to_numpy().T, fit.effects.covariances.diagonal().mT.sqrt().numpy())
    expected = 1 - fit.eta.std(ddof=1) / np.sqrt(np.diag(fit.omega))
    np.testing.assert_allclose(fit.shrinkage, expected, rtol=1e-10)


def test_modes_maximise_the_log_joint(theophylline_fit):
    fit = theophylline_fit
    eta = fit.effects.modes[:, None, None].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(fit.density.at().log_joint(eta).sum(), eta)
    assert gradient.abs().max() < 1e-4


def test_correlation_of_a_full_omega(line_fit):
    omega, correlation = line_fit.omega.to_numpy(), line_fit.correlation
    assert np.diag(correlation).tolist() == pytest.approx([1.0, 1.0])
    assert correlation.loc["eta_a", "eta_b"] == pytest.approx(omega[0, 1] / math.sqrt(omega[0, 0] * omega[1, 1]))
    assert correlation.columns.tolist() == ["eta_a", "eta_b"]


def test_the_trace_ends_at_the_estimates(line_fit):
    last = line_fit.trace.iloc[-1]
    for name, value in line_fit.parameters.estimate.items():
        assert last[name] == pytest.approx(value, rel=1e-12)


def test_other_subjects_are_individualised_at_the_estimates(theophylline_fit, theophylline):
    some = theophylline.subset(theophylline.subjects[3:6])
    table = theophylline_fit.individualise(some).predictions
    own = theophylline_fit.predictions
    own = own[own.id.isin(some.subjects)].reset_index(drop=True)
    np.testing.assert_allclose(table.IPRED, own.IPRED, rtol=1e-5, atol=1e-5)
    assert table.id.tolist() == own.id.tolist()


def test_default_method_is_saem():
    import inspect

    assert inspect.signature(nlme.fit).parameters["method"].default is None
    assert "``SAEM()`` if None" in nlme.fit.__doc__


@pytest.mark.gpu
def test_a_fit_on_a_gpu_agrees_with_the_cpu(lines):
    data = lines_data(lines[0])
    fit = quick(Line(full=True), data, device="cuda")
    assert fit.effects.modes.is_cuda
    cpu = quick(Line(full=True), data)
    np.testing.assert_allclose(fit.parameters.estimate, cpu.parameters.estimate, rtol=1e-6)
    np.testing.assert_allclose(fit.predictions.IPRED, cpu.predictions.IPRED, rtol=1e-6)


def test_low_precision_data_stay_double(lines):
    fit = quick(Line(), lines_data(lines[0].astype({"DV": "float32"})))
    assert all(value.dtype == DOUBLE for value in fit.model.parameters())
