"""Weighted draws against the exact conditional distributions and likelihood of linear models."""

import numpy as np
import pytest
import torch
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.inference.effects.moves import Moves
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.likelihood.quasi_draws import Shape, moments, quasi_draws, quasi_normal
from nlme_torch.inference.saem.certificate import Certifier, Chains, corrected
from nlme_torch.inference.saem.judgement import judge
from nlme_torch.inference.saem.louis import louis_sums, prior_derivatives
from nlme_torch.inference.saem.step import SAEMAlgorithm
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density

SCALES = {"sigma": ("DV",)}


class Lines:
    """Random lines near the maximum of their likelihood, with the exact conditional distributions."""

    def __init__(self):
        frame, self.design = simulate_lines(subjects=20, seed=3, sigma=0.4)
        b, omega, sigma, self.best = self.design.maximum()
        self.b, self.omega, self.sigma = b + [0.1, 0.0, 0.0], np.diag(omega) * [1.2, 0.8], 1.05 * float(sigma)
        model = Line(
            a=nlme.Normal(self.b[0], omega=float(self.omega[0])),
            b=nlme.Normal(self.b[1], nlme.Shift("x", coefficient=float(self.b[2])), omega=float(self.omega[1])),
            sigma=nlme.Positive(self.sigma),
        )
        self.density = Density(model, lines_data(frame).batch(), nlme.Tsit5(compile=False))
        means, covariances = self.design.posterior(self.b, np.diag(self.omega), self.sigma)
        mean = torch.as_tensor(means) + self.density.at().mean[:, 0].detach()
        self.exact = Shape(mean, torch.as_tensor(covariances))
        self.size = self.exact.covariance.diagonal(dim1=0, dim2=1).mT.sqrt()

    def minus2ll(self, step):
        """At other parameters: b, log standard deviations of the effects, log sigma."""
        omega = np.diag(self.omega * np.exp(2 * step[3:5]))
        return self.design.minus2ll(self.b + step[:3], omega, self.sigma * np.exp(step[5]))


@pytest.fixture(scope="module")
def lines():
    return Lines()


def displaced(exact):
    return Shape(exact.mean + 0.1, 1.5 * exact.covariance)


def test_numbers_are_standard_normal_and_chi_square():
    numbers = quasi_normal(3, 512, 8, 2, torch.Generator().manual_seed(1)).flatten(1)
    assert torch.allclose(numbers[:3].mean(1), torch.zeros(3, dtype=torch.float64), atol=2e-3)
    assert torch.allclose(torch.cov(numbers[:3]), torch.eye(3).double(), atol=0.01)
    assert float(numbers[3].square().mean()) == pytest.approx(1.0, abs=0.01)
    assert float((6 * numbers[3].square()).var()) == pytest.approx(12.0, rel=0.05)


def test_weighted_moments_are_those_of_the_conditional_distribution(lines):
    exact, size = lines.exact, lines.size
    drawn = quasi_draws(lines.density.at(), displaced(exact), 256, 16, torch.Generator().manual_seed(2))
    assert drawn.trusted and torch.allclose(drawn.weights.mean((0, 1)), torch.ones(20).double())
    found = drawn.shape()
    assert float(((found.mean - exact.mean) / size).abs().max()) < 0.06
    assert torch.allclose(found.covariance / size / size[:, None], exact.covariance / size / size[:, None], atol=0.08)
    again = drawn.resampled(1000, torch.Generator().manual_seed(3))
    assert float(((again.mean(1) - found.mean) / size).abs().max()) < 0.06


def test_replicates_tell_the_likelihood_and_its_error(lines):
    """Against the closed form."""
    drawn = quasi_draws(lines.density.at(), lines.exact, 1024, 32, torch.Generator().manual_seed(4))
    assert drawn.log_marginal.shape == (32, 20)
    each = -2 * drawn.log_marginal.sum(1)
    error = float(each.std()) / 32**0.5
    assert error < 0.03 and float(each.mean()) == pytest.approx(lines.minus2ll(np.zeros(6)), abs=4 * error)


def test_even_filling_leaves_less_noise_than_independent_draws(lines):
    """Replicates scatter by less than the same number of independent draws would."""
    drawn = quasi_draws(lines.density.at(), lines.exact, 256, 64, torch.Generator().manual_seed(2))
    by_replicate = (drawn.weights * drawn.phi).mean(1) / drawn.weights.mean(0)
    assert float((by_replicate.var(1) / (lines.size.square() / 256)).mean()) < 0.5


def test_the_score_is_that_of_the_exact_likelihood(lines):
    scalars = FreeScalars(lines.density.model, parameter_values(lines.density.model))
    drawn = quasi_draws(lines.density.at(), displaced(lines.exact), 256, 16, torch.Generator().manual_seed(2))
    sums = corrected(louis_sums(lines.density, scalars, drawn.phi, SCALES, drawn.weights), drawn)
    score, each = sums.mean_scores().sum(0), sums.scores.sum(1) / sums.iterations
    errors = each.std(0) / len(each) ** 0.5
    order = {"a": 0, "b": 1, "b_x": 2, "omega_a": 3, "omega_b": 4, "sigma": 5}
    for label, value, error in zip(scalars.labels, score.tolist(), errors.tolist(), strict=True):
        step = np.zeros(6)
        step[order[label]] = 1e-4
        expected = -0.5 * (lines.minus2ll(step) - lines.minus2ll(-step)) / 2e-4
        assert error < 0.2 and value == pytest.approx(expected, abs=5 * error), label


def test_draws_that_miss_the_distribution_are_not_trusted(lines):
    far = Shape(lines.exact.mean + 30 * lines.size, 1e-2 * lines.exact.covariance)
    assert not quasi_draws(lines.density.at(), far, 64, 4, torch.Generator().manual_seed(2)).trusted


def chains(density):
    algorithm = SAEMAlgorithm(
        density,
        schedule=nlme.StepSchedule(burn_in=10**9),
        chains=4,
        moves=Moves.automatic(density.model),
        annealing=1.0,
        learning_rate=0.0,
        gradient_steps=0,
    )
    generator = torch.Generator().manual_seed(1)
    return Chains(algorithm, algorithm.init(parameter_values(density.model), generator), generator, lambda: None)


@pytest.mark.parametrize("even", [True, False])
def test_both_kinds_of_draws_find_the_gap(lines, even):
    gap = 0.5 * (lines.minus2ll(np.zeros(6)) - lines.best)
    scalars = FreeScalars(lines.density.model, parameter_values(lines.density.model))
    certifier = Certifier(chains(lines.density), scalars, nlme.Certification(rounds=1), 2000)
    certifier.even = even
    found = certifier._round(20)
    assert gap > 0.1 and found.left == pytest.approx(gap, abs=0.3 * gap + 4 * found.standard_error)
    assert (certifier.weighted > 0) is even


def test_the_noise_of_weighted_draws_is_that_of_repeated_ones(lines):
    scalars = FreeScalars(lines.density.model, parameter_values(lines.density.model))
    prior = prior_derivatives(lines.density, scalars)

    def sums(seed, draws):
        drawn = quasi_draws(lines.density.at(), lines.exact, draws, 16, torch.Generator().manual_seed(seed))
        return corrected(louis_sums(lines.density, scalars, drawn.phi, SCALES, drawn.weights), drawn)

    found = [judge(sums(seed, 32), *prior) for seed in range(40)]
    information = sums(99, 256).information().mean(0)
    steps = torch.stack([each.step for each in found])
    deviations = steps - steps.mean(0)
    seen = 0.5 * torch.einsum("ri,ij,rj->", deviations, information, deviations) / 39
    assert np.mean([each.noise for each in found]) == pytest.approx(float(seen), rel=0.4)


def test_moments_of_even_weights_are_plain():
    draws = torch.randn(2, 500, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = moments(draws, torch.ones(500, 3, dtype=torch.float64))
    assert torch.allclose(found.covariance[:, :, 1], torch.cov(draws[:, :, 1], correction=0))
