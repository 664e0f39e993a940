"""Likelihood and effects from the same weighted draws, against the exact ones of linear models."""

import numpy as np
import pytest
import torch
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.inference.likelihood import even_draws as room
from nlme_torch.inference.likelihood.even_draws import effects_and_likelihood, even_draws
from nlme_torch.model.density.density import Density


class Lines:
    """Random lines with their exact likelihood and conditional distributions."""

    def __init__(self):
        frame, design = simulate_lines(subjects=20, seed=3, sigma=0.4)
        b, omega, sigma, best = design.maximum()
        omega = np.diag(omega)
        model = Line(
            a=nlme.Normal(b[0], omega=float(omega[0])),
            b=nlme.Normal(b[1], nlme.Shift("x", coefficient=float(b[2])), omega=float(omega[1])),
            sigma=nlme.Positive(float(sigma)),
        )
        self.density = Density(model, lines_data(frame).batch(), nlme.Tsit5(compile=False))
        means, covariances = design.posterior(b, np.diag(omega), float(sigma))
        self.means, self.covariances = torch.as_tensor(means), torch.as_tensor(covariances)
        self.loglik = -0.5 * best


@pytest.fixture(scope="module")
def lines():
    return Lines()


def test_the_error_is_what_repetitions_scatter_by(lines):
    found = [
        even_draws(lines.density, lines.means, lines.covariances, torch.Generator().manual_seed(seed)).estimate
        for seed in range(12)
    ]
    totals = np.array([each.total for each in found])
    error = np.sqrt(np.mean([each.total_standard_error**2 for each in found]))
    assert error < 0.02 and totals.std(ddof=1) < 1.6 * error
    assert abs(totals.mean() - lines.loglik) < 4 * error / np.sqrt(12) + 1e-4


def test_draws_are_added_until_the_error_is_small(lines, monkeypatch):
    monkeypatch.setattr(room, "DRAWS", (32, 32))
    few = even_draws(lines.density, lines.means, lines.covariances, torch.Generator().manual_seed(1)).estimate
    monkeypatch.setattr(room, "ERROR", 1e-4)
    more = even_draws(lines.density, lines.means, lines.covariances, torch.Generator().manual_seed(1)).estimate
    assert more.evaluations == room.MOST_DRAWS > few.evaluations
    assert more.total_standard_error < few.total_standard_error


def test_effects_are_those_of_the_conditional_distributions(lines):
    generator = torch.Generator().manual_seed(1)
    crude = lines.means[:, None] + 1.4 * torch.randn(2, 50, 20, generator=generator, dtype=torch.float64)
    effects, estimate = effects_and_likelihood(lines.density, crude, generator)
    deviations = lines.covariances.diagonal(dim1=0, dim2=1).mT.sqrt()
    assert ((effects.modes - lines.means).abs() < 1e-6 * deviations).all()
    assert ((effects.means - lines.means).abs() < 0.05 * deviations).all()
    assert ((effects.covariances - lines.covariances).abs() < 0.1 * deviations[:, None] * deviations[None]).all()
    scatter = (effects.draws.mean(1) - lines.means).abs() / deviations
    assert effects.draws.shape == (2, room.KEPT, 20) and (scatter < 0.2).all()
    assert abs(estimate.total - lines.loglik) < 4 * estimate.total_standard_error + 1e-4


def test_what_is_not_known_is_not_drawn_about(lines):
    assert even_draws(lines.density, lines.means * torch.nan, lines.covariances, torch.Generator()) is None


def test_a_fit_and_its_likelihood_method_agree():
    short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=40, smoothing=20))
    fit = nlme.fit(nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline(), short, seed=1, progress=False)
    again = nlme.loglik(fit)
    exact = nlme.loglik(fit, nlme.Quadrature(nodes=15)).value
    for value in (fit.log_likelihood, again):
        assert "ImportanceSampling(samples=None" in value.method
        assert value.standard_error < 0.03 and abs(value.value - exact) < 4 * value.standard_error
