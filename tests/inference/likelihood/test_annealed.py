"""Annealed importance sampling against exact marginal likelihoods, brute force and an independent method."""

import math

import numpy as np
import pytest
import torch
from support.analytic import DOUBLE, LinearGaussian, RotatedBlocks, network_target

from nlme_torch.errors import FitError
from nlme_torch.inference.likelihood.annealed_importance_sampling import Annealing, annealed_importance_sampling
from nlme_torch.inference.likelihood.importance_sampling import importance_sampling
from nlme_torch.inference.mcmc.proposals import normal


def prior(effect, subject, covariance=None):
    covariance = torch.eye(effect, dtype=DOUBLE) if covariance is None else covariance
    return normal(torch.zeros(effect, subject, dtype=DOUBLE), torch.linalg.cholesky(covariance)[..., None])


def run(log_joint, reference, seed=0, target_error=None, **annealing):
    generator = torch.Generator().manual_seed(seed)
    return annealed_importance_sampling(
        log_joint, reference, generator=generator, annealing=Annealing(**annealing), target_error=target_error
    )


def test_linear_gaussian_model_with_28_effects():
    target = LinearGaussian.simulate(28, 11, 1, seed=1)
    estimate = run(target.log_joint, prior(28, 1, target.omega), target_error=0.1).estimate
    exact = target.log_marginal()
    assert estimate.total_standard_error <= 0.1
    assert ((estimate.log_marginal - exact).abs() < 4 * estimate.standard_error).all()
    assert abs(estimate.total - exact.sum().item()) < min(0.2, 3 * estimate.total_standard_error)


@pytest.mark.parametrize("networks", [0, 3])
def test_bent_and_two_humped_conditionals_agree_with_brute_force(networks):
    target = RotatedBlocks.simulate(6, 3, networks, seed=3)
    exact = target.log_marginal(grid=161)
    # Many ancestors, one move each: with the default 16 ancestors and 4 moves every group can lose a hump, which their
    # spread does not show (seed 0, third subject: 5.4 standard errors low).
    estimate = run(target.log_joint, prior(6, 3), chains=64, moves=1).estimate
    assert estimate.total_standard_error < 0.35
    assert ((estimate.log_marginal - exact).abs() < 4 * estimate.standard_error).all()


def test_a_network_with_random_weights_agrees_with_plain_monte_carlo_from_the_prior():
    kernel = network_target(subjects=2, effects=7)
    log_joint = lambda e: kernel(e) - 3.5 * math.log(2 * math.pi)  # noqa: E731
    annealed = run(log_joint, prior(7, 2), target_error=0.15).estimate
    plain = importance_sampling(log_joint, prior(7, 2), samples=400_000, generator=torch.Generator().manual_seed(1))
    assert (plain.effective_size > 500).all()
    error = torch.sqrt(annealed.standard_error**2 + plain.standard_error**2)
    assert ((annealed.log_marginal - plain.log_marginal).abs() < 4 * error).all()


def test_the_standard_error_is_what_it_says():
    target = LinearGaussian.simulate(3, 4, 4, seed=2)
    exact = target.log_marginal().sum().item()
    scores = []
    for seed in range(25):
        settings = {"chains": 8, "moves": 1, "groups": 12, "leapfrogs": 4}
        estimate = run(target.log_joint, prior(3, 4, target.omega), seed, **settings).estimate
        scores.append((estimate.total - exact) / estimate.total_standard_error)
    assert abs(np.mean(scores)) < 0.7 and 0.7 < np.std(scores) < 1.4


def test_draws_follow_the_conditional_distribution():
    target = LinearGaussian.simulate(3, 4, 2, seed=2)
    draws = run(target.log_joint, prior(3, 2, target.omega), groups=16, chains=32, moves=8).draws
    mean, covariance = target.posterior()
    deviation = covariance.diagonal(dim1=0, dim2=1).mT.sqrt()
    assert ((draws.mean(1) - mean) / deviation).abs().max() < 0.15
    assert (draws.std(1) / deviation - 1).abs().max() < 0.15


def test_a_region_that_cannot_be_evaluated_has_no_mass():
    def half(effects):  # a standard normal cut in half
        value = -0.5 * effects.pow(2).sum(0) - math.log(2 * math.pi)
        return torch.where(effects[0] < 0, torch.nan, value)

    estimate = run(half, prior(2, 3), groups=16).estimate
    assert ((estimate.log_marginal - math.log(0.5)).abs() < 4 * estimate.standard_error + 1e-9).all()


def test_same_seed_same_answer_and_a_constant_passes_through():
    target = LinearGaussian.simulate(3, 4, 4, seed=2)
    first, second = (run(target.log_joint, prior(3, 4, target.omega), 5).estimate for _ in range(2))
    assert torch.equal(first.log_marginal, second.log_marginal)
    shift = torch.tensor([0.0, 700.0, -700.0, 0.0], dtype=DOUBLE)
    shifted = run(lambda e: target.log_joint(e) + shift, prior(3, 4, target.omega), 5).estimate
    torch.testing.assert_close(shifted.log_marginal - first.log_marginal, shift, atol=1e-6, rtol=0)


def test_a_ladder_that_is_too_long_is_an_error_that_says_what_to_do():
    target = LinearGaussian.simulate(3, 4, 2, seed=2, sigma=1e-3)
    with pytest.raises(FitError, match="temperature.*max_steps"):
        run(target.log_joint, prior(3, 2, target.omega), max_steps=3)
