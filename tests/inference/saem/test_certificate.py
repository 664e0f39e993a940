"""What SAEM says is left to be had, against the exact likelihood of linear models."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line, number

import nlme_torch as nlme
from nlme_torch.inference.estimates.certificate import Certificate
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.saem.certificate import Certifier, rise
from nlme_torch.inference.saem.course import short_of_maximum
from nlme_torch.inference.saem.judgement import Judgement, judge
from nlme_torch.inference.saem.louis import louis_sums, prior_derivatives
from nlme_torch.inference.saem.step import SAEMAlgorithm
from nlme_torch.model.declare.scalars import all_scalars
from nlme_torch.model.declare.values import assign, parameter_values
from nlme_torch.model.density.density import Density

SCALES = {"sigma": ("DV",)}
SOLVER = nlme.Tsit5(compile=False)


@pytest.fixture(scope="module")
def lines():
    return simulate_lines(subjects=30, seed=3, sigma=0.25)


def exact(design, density, values):
    found = {name: value.item() for name, value in all_scalars(density.model, values).items()}
    b = np.array([found["a"], found["b"], found["b_x"]])
    return design.minus2ll(b, np.diag([found["omega_a"], found["omega_b"]]), found["sigma"])


def exact_draws(design, model, chains, iterations, seed=0):
    """Draws of phi from the conditional distributions of a linear model, ``(effect, iteration, chain, subject)``."""
    scalars = {name: value.item() for name, value in all_scalars(model, parameter_values(model)).items()}
    b = np.array([scalars["a"], scalars["b"], scalars["b_x"]])
    means, covariances = design.posterior(b, np.diag([scalars["omega_a"], scalars["omega_b"]]), scalars["sigma"])
    factor = torch.linalg.cholesky(torch.as_tensor(covariances).permute(2, 0, 1))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, iterations, chains, 30, generator=generator, dtype=torch.float64)
    eta = torch.as_tensor(means)[:, None, None] + torch.einsum("nij,jtcn->itcn", factor, noise)
    return eta


def displaced(lines):
    """A model near the maximum of its likelihood, with the gap known."""
    frame, design = lines
    b, omega, sigma, best = design.maximum()
    b, omega, sigma = b.tolist(), np.diag(omega).tolist(), float(sigma)
    model = Line(
        a=nlme.Normal(b[0] + 0.1, omega=omega[0] * 1.2),
        b=nlme.Normal(b[1], nlme.Shift("x", coefficient=b[2]), omega=omega[1] * 0.8),
        sigma=nlme.Positive(sigma * 1.05),
    )
    density = Density(model, lines_data(frame).batch(), SOLVER)
    return design, density, best


def test_the_gain_is_half_the_gap_to_the_exact_maximum_and_the_step_leads_there(lines):
    design, density, best = displaced(lines)
    scalars = FreeScalars(density.model, parameter_values(density.model))
    draws = exact_draws(design, density.model, 20, 100) + density.at().mean[:, None].detach()
    found = judge(louis_sums(density, scalars, draws, SCALES), *prior_derivatives(density, scalars))
    gap = 0.5 * (exact(design, density, scalars.values) - best)
    assert gap > 0.5 and found.left == pytest.approx(gap, abs=0.25 * gap + 4 * found.standard_error)
    there = scalars.at((scalars.vector + found.step)[None])
    assert 0.5 * (exact(design, density, there) - best) < 0.1 * gap


def test_the_rise_of_the_likelihood_by_reweighting_is_exact(lines):
    design, density, _ = displaced(lines)
    scalars = FreeScalars(density.model, parameter_values(density.model))
    draws = exact_draws(design, density.model, 100, 100) + density.at().mean[:, None].detach()
    other = scalars.vector + 0.05
    difference = 0.5 * (exact(design, density, scalars.values) - exact(design, density, scalars.at(other[None])))
    found = rise(density, scalars, torch.stack([scalars.vector, other]), draws.flatten(1, 2))
    assert found == pytest.approx(difference, abs=0.02)


def test_the_noise_is_that_of_repeated_measurements(lines):
    """At fixed parameters the score of other draws scatters as the noise says."""
    design, density, _ = displaced(lines)
    scalars = FreeScalars(density.model, parameter_values(density.model))
    mean = density.at().mean[:, None].detach()
    found = [
        judge(
            louis_sums(density, scalars, exact_draws(design, density.model, 20, 3, seed) + mean, SCALES),
            *prior_derivatives(density, scalars),
        )
        for seed in range(30)
    ]
    steps = torch.stack([each.step for each in found])
    information = (
        louis_sums(density, scalars, exact_draws(design, density.model, 20, 100) + mean, SCALES).information().mean(0)
    )
    deviations = steps - steps.mean(0)
    seen = 0.5 * torch.einsum("ri,ij,rj->", deviations, information, deviations) / 29
    assert np.mean([each.noise for each in found]) == pytest.approx(float(seen), rel=0.35)


def test_a_fit_that_stops_short_is_brought_to_the_maximum():
    """Noisy data leave most of the information on the variances missing, so that EM crawls towards them."""
    frame, design = simulate_lines(subjects=30, seed=3, sigma=1.5)

    def fitted(rounds):
        model = Line(a=nlme.Normal(1.0, omega=9.0), b=nlme.Normal(0.0, nlme.Shift("x"), omega=9.0))
        density = Density(model, lines_data(frame).batch(), SOLVER)
        schedule = nlme.StepSchedule(exploration=8, smoothing=60, power=1.0)
        method = nlme.SAEM(
            schedule=schedule, annealing=0.99, certification=nlme.Certification(rounds=rounds, effort=10.0)
        )
        estimation = method.estimate(density, torch.Generator().manual_seed(2), progress=False)
        return estimation, exact(design, density, estimation.values) - design.maximum()[3]

    without, before = fitted(0)
    estimation, after = fitted(8)
    assert before > 0.3 and without.certificate is None and without.status is Status.ITERATIONS_USED
    assert after < 0.1 and estimation.status is Status.CONVERGED and estimation.warnings == ()
    assert "of log-likelihood still to be had" in estimation.termination


def test_what_is_left_is_said_where_means_are_used_up(lines):
    frame, _ = lines
    density = Density(Line(a=nlme.Normal(9.0, omega=1.0)), lines_data(frame).batch(), SOLVER)
    method = nlme.SAEM(
        schedule=nlme.StepSchedule(exploration=2, smoothing=2), certification=nlme.Certification(rounds=1)
    )
    estimation = method.estimate(density, torch.Generator().manual_seed(1), progress=False)
    (message,) = estimation.warnings
    assert "short of the maximum" in message and "begin again" in message and "chains" in message
    assert estimation.status is Status.ITERATIONS_USED and estimation.certificate.gain > 0.05


def test_noise_is_not_called_a_shortfall():
    noisy = Certificate(gain=0.01, standard_error=0.13, converged=False, rounds=1, iterations=9, chains=2)
    assert "not known exactly enough: 0.02 +- 0.26 of -2LL may" in short_of_maximum(noisy)
    assert "short of the maximum: about 2 +- 0.26" in short_of_maximum(noisy._replace(gain=1.0))


def test_a_variance_on_a_plateau_is_not_called_the_maximum(lines):
    """Far below its estimate the likelihood does not depend on a log variance: score and information vanish there."""
    frame, design = lines
    b, omega, sigma, best = design.maximum()
    b, omega, sigma = b.tolist(), np.diag(omega).tolist(), float(sigma)
    model = Line(
        a=nlme.Normal(b[0], omega=omega[0]),
        b=nlme.Normal(b[1], nlme.Shift("x", coefficient=b[2]), omega=1e-6 * omega[1]),
        sigma=nlme.Positive(sigma),
    )
    density = Density(model, lines_data(frame).batch(), SOLVER)
    scalars = FreeScalars(density.model, parameter_values(density.model))
    draws = exact_draws(design, density.model, 20, 100) + density.at().mean[:, None].detach()
    assert exact(design, density, scalars.values) - best > 5
    found = judge(louis_sums(density, scalars, draws, SCALES), *prior_derivatives(density, scalars))
    assert found.flat and not found.doubtful and scalars.labels[found.flattest] == "omega_b"
    near = displaced(lines)[1]
    scalars = FreeScalars(near.model, parameter_values(near.model))
    draws = exact_draws(design, near.model, 20, 100) + near.at().mean[:, None].detach()
    assert not judge(louis_sums(near, scalars, draws, SCALES), *prior_derivatives(near, scalars)).flat


def test_a_fit_that_ends_on_a_plateau_names_the_parameter():
    """Lines without any spread of slopes: the maximum lies at a variance of zero, which EM approaches slowly."""
    frame, _ = simulate_lines(subjects=30, seed=3, sigma=0.25, omega=((0.3, 0.0), (0.0, 0.0)))
    density = Density(Line(), lines_data(frame).batch(), SOLVER)
    schedule = nlme.StepSchedule(exploration=400, smoothing=40)
    method = nlme.SAEM(schedule=schedule, certification=nlme.Certification(rounds=1))
    estimation = method.estimate(density, torch.Generator().manual_seed(1), progress=False)
    assert estimation.status is Status.ITERATIONS_USED and estimation.certificate.flat == "omega_b"
    assert any("the likelihood is flat along omega_b" in message for message in estimation.warnings)


def test_the_best_point_that_was_measured_stays(monkeypatch):
    """Steps along noise lead from 0.3 to 0.9 and 0.7 below the maximum."""
    judgements = iter(
        Judgement(
            left, 0.0, 0.01, torch.ones(2), torch.ones(2), fraction=0.5, fraction_error=0.0, flattest=0, reach=0.1
        )
        for left in (0.3, 0.9, 0.7)
    )
    monkeypatch.setattr(Certifier, "_round", lambda self, settle: next(judgements))

    def step(self, found):
        self.vector = self.vector + found.step
        return True

    monkeypatch.setattr(Certifier, "_step", step)
    certifier = object.__new__(Certifier)
    certifier.settings, certifier.budget = nlme.Certification(rounds=3), 1000
    certifier.vector, certifier.draws = torch.zeros(2), torch.zeros(2, 1, 4, 3)
    certifier.chains = SimpleNamespace(iterations=60, count=4)
    certifier.run()
    assert torch.equal(certifier.vector, torch.zeros(2))
    assert certifier.certificate == Certificate(0.3, 0.01, False, 3, 60, 4)


@pytest.mark.parametrize("failures", [1, 2])
def test_an_end_that_was_judged_after_all_is_not_said_to_be_unknown(lines, monkeypatch, failures):
    """The first judgement fails, and the second, after the rest of the smoothing, does or does not."""
    run, calls = Certifier.run, []

    def fails_at_first(self):
        calls.append(self)
        if len(calls) <= failures:
            raise ArithmeticError("no number")
        run(self)

    monkeypatch.setattr(Certifier, "run", fails_at_first)
    method = nlme.SAEM(schedule=nlme.StepSchedule(exploration=60, smoothing=60))
    fit = nlme.fit(Line(), lines_data(lines[0]), method, seed=1, progress=False)
    said = [warning for warning in fit.warnings if "could not be measured" in warning]
    assert len(calls) == 2 and len(said) == failures - 1


def test_settings_are_checked():
    with pytest.raises(nlme.FitError, match="tolerance must be finite and above 0"):
        nlme.Certification(tolerance=0.0)


# ------------------------------------------------------------------ interruption, and what nothing depends on


@pytest.mark.parametrize("after", [0, 3, 12, 30])
def test_an_interrupted_fit_keeps_what_stands(lines, monkeypatch, after):
    """Ctrl-C during the start (0), exploration, smoothing and the certificate."""
    frame, _ = lines
    model, calls = Line(), []
    original = SAEMAlgorithm.step

    def step(self, *arguments, **options):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    monkeypatch.setattr(SAEMAlgorithm, "step", step)
    method = nlme.SAEM(schedule=nlme.StepSchedule(burn_in=2, exploration=8, smoothing=10))
    density = Density(model, lines_data(frame).batch(), SOLVER)
    estimation = method.estimate(density, torch.Generator().manual_seed(1), progress=False)
    assert estimation.status is Status.INTERRUPTED
    assert any("interrupted after" in message for message in estimation.warnings)
    assert len(estimation.trace) == min(after, 20)
    assert all(torch.isfinite(value).all() for value in estimation.values.values())
    moved = not torch.equal(estimation.values["a.typical"], parameter_values(model)["a.typical"])
    assert moved is (after > 2)
    assign(model, estimation.values)


def test_an_interrupted_warm_up_returns_the_initial_values(lines, monkeypatch):
    frame, _ = lines

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(nlme.Pooled, "maximise", stop)
    density = Density(Line(), lines_data(frame).batch(), SOLVER)
    estimation = nlme.SAEM(warm_up=nlme.Pooled(5)).estimate(density, torch.Generator().manual_seed(1), progress=False)
    assert estimation.status is Status.INTERRUPTED and estimation.draws is None and len(estimation.trace) == 0
    assert torch.equal(estimation.values["a.typical"], number([1.0]))


def test_a_parameter_that_nothing_depends_on_is_named(lines):
    class Idle(Line):
        def __init__(self):
            super().__init__()
            self.idle = nlme.Positive(2.0)

    frame, _ = lines
    method = nlme.SAEM(schedule=nlme.StepSchedule(exploration=4, smoothing=4))
    density = Density(Idle(), lines_data(frame).batch(), SOLVER)
    estimation = method.estimate(density, torch.Generator().manual_seed(1), progress=False)
    assert any("objective does not depend on idle at the initial values" in text for text in estimation.warnings)
    assert estimation.status is not Status.CONVERGED
    assert estimation.certificate is not None
    assert estimation.values["idle.unconstrained"].item() == pytest.approx(math.log(2.0))


class WithoutEffect(nlme.Model):
    """A slope whose mean has no effect of its own: phi holds it to nearly nothing."""

    def __init__(self):
        super().__init__()
        self.a, self.z = nlme.Normal(1.5, omega=0.2), nlme.Latent(1)
        self.width, self.mean, self.sigma = nlme.Real(0.3), nlme.Real(-0.5), nlme.Positive(0.4)

    def predict(self, t, p, cov):
        return p.a + (p.width * p.z + p.mean) * t

    def observe(self, t, y, p):
        return {"DV": nlme.observation.Additive(y, p.sigma)}


def test_a_mean_of_effects_that_is_known_well_is_not_called_flat():
    """The data carry half a per cent of what would be known with phi, and tell it well all the same."""
    frame, _ = simulate_lines(subjects=12, seed=3, sigma=0.25)
    fit = nlme.fit(WithoutEffect(), lines_data(frame), nlme.SAEM(), seed=1, progress=False)
    best = nlme.fit(WithoutEffect(), lines_data(frame), nlme.Quadrature(nodes=9), progress=False)
    assert fit.converged and not any("flat" in message for message in fit.warnings)
    assert nlme.loglik(fit, nlme.Quadrature(nodes=9)).minus2ll < best.minus2ll + 0.1
