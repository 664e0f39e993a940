"""Averages, moments and gains against their definitions: each differs from its neighbour by a factor near one."""

import numpy as np
import pytest
import torch
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import DOUBLE, Line

import nlme_torch as nlme
from nlme_torch.inference.effects.effect_estimates import estimate_effects
from nlme_torch.inference.effects.moves import PhiMoments
from nlme_torch.inference.likelihood.importance_sampling import WeightedDraws, summarise
from nlme_torch.inference.mcmc.kernels import RandomWalk, Tuning
from nlme_torch.inference.saem.step import SAEMAlgorithm
from nlme_torch.inference.uncertainty.standard_errors import error_table
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.model.parameters.transforms import Identity, Log, Logit


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def test_smoothing_iteration_k_has_weight_k_in_the_average():
    frame, _ = simulate_lines(subjects=4, seed=1)
    density = Density(Line(), lines_data(frame).batch(), nlme.Tsit5(compile=False))
    schedule = nlme.StepSchedule(burn_in=1, exploration=2, smoothing=5)
    algorithm = SAEMAlgorithm(
        density, schedule=schedule, chains=2, moves=nlme.Moves(), annealing=0.97, learning_rate=0.02, gradient_steps=1
    )
    generator = torch.Generator().manual_seed(0)
    state = algorithm.init(parameter_values(density.model), generator)
    for _ in range(3):
        state = algorithm.step(state, generator, smoothing=False)
        for name, value in state.values.items():
            assert torch.equal(state.average[name], value)
    passed = []
    for _ in range(5):
        state = algorithm.step(state, generator, smoothing=True)
        passed.append(state.values)
    share = np.arange(1, 6) / 15
    for name in state.values:
        expected = sum(weight * values[name] for weight, values in zip(share, passed, strict=True))
        torch.testing.assert_close(state.average[name], expected, rtol=1e-12, atol=1e-14)
    assert not torch.equal(passed[0]["a.typical"], passed[-1]["a.typical"])


@pytest.mark.parametrize("count, gain", [(0, 1.0), (31, 32**-0.6), (676, 677**-0.6), (678, 0.02), (10**6, 0.02)])
def test_the_gain_of_a_scale_falls_to_its_floor_and_no_further(count, gain):
    """A pure power law has forgotten how to follow a target that still moves; (1/0.02)^(5/3) is 678."""
    kernel = RandomWalk()
    before = draw(2, 3)
    probability = torch.tensor([[0.1, 0.4, 0.7], [0.2, 0.9, torch.nan]], dtype=DOUBLE)
    after = kernel._adapted(Tuning(before, count), probability)
    expected = before + gain * torch.nan_to_num((probability - 0.4) / 0.24, nan=0.0)
    torch.testing.assert_close(after.log_scale, expected, rtol=0.0, atol=1e-12)
    assert after.count == count + 1
    fixed = RandomWalk(gain_floor=0.0)._adapted(Tuning(before, 10**6), probability)
    assert (fixed.log_scale - before).abs().max() < 1e-3


@pytest.mark.parametrize("updates, gain", [(0, 0.1), (10, 0.05), (40, 0.02), (10**4, 0.02)])
def test_moments_of_chains_forget_at_their_gain(updates, gain):
    old = PhiMoments(draw(2, 1, 3), torch.eye(2, dtype=DOUBLE)[..., None, None].expand(2, 2, 1, 3).clone(), updates)
    draws = draw(2, 5, 1, 3, seed=1)
    new = old.update(draws)
    torch.testing.assert_close(new.mean, (1 - gain) * old.mean + gain * draws.mean(1))
    away = draws - new.mean[:, None]
    spread = sum(torch.einsum("isn,jsn->ijsn", away[:, c], away[:, c]) for c in range(5)) / 5
    torch.testing.assert_close(new.covariance, (1 - gain) * old.covariance + gain * spread)


def test_moments_of_weighted_draws_are_about_their_weighted_mean():
    effects, log_weights = draw(2, 50, 3), 2 * draw(50, 3, seed=1)
    mean, covariance = WeightedDraws(effects, log_weights).moments()
    for subject in range(3):
        weights = np.exp(log_weights[:, subject].numpy())
        points = effects[:, :, subject].numpy()
        centre = np.average(points, axis=1, weights=weights)
        np.testing.assert_allclose(mean[:, subject], centre, rtol=1e-12)
        expected = np.cov(points, aweights=weights, ddof=0)
        np.testing.assert_allclose(covariance[:, :, subject], expected, rtol=1e-12)
        about_plain = np.einsum("is,js,s->ij", *2 * (points - points.mean(1, keepdims=True),), weights / weights.sum())
        assert np.abs(about_plain - expected).max() > 1e-2, "the wrong centre must be told apart"


@pytest.mark.parametrize("samples", [3, 40])
def test_the_error_of_an_importance_estimate_divides_by_n_less_one(samples):
    log_weights = draw(samples, 2)
    found = summarise(WeightedDraws(draw(1, samples, 2), log_weights))
    weights = np.exp(log_weights.numpy())
    expected = weights.std(0, ddof=1) / weights.mean(0) / np.sqrt(samples)
    np.testing.assert_allclose(found.standard_error, expected, rtol=1e-12)
    np.testing.assert_allclose(found.effective_size, weights.sum(0) ** 2 / (weights**2).sum(0), rtol=1e-12)
    np.testing.assert_allclose(found.log_marginal, np.log(weights.mean(0)), rtol=1e-12)


def test_conditional_covariances_divide_by_the_draws_less_one():
    frame, _ = simulate_lines(subjects=3, seed=1)
    density = Density(Line(), lines_data(frame).batch(), nlme.Tsit5(compile=False))
    found = estimate_effects(density, draw(2, 2, 3), torch.Generator().manual_seed(0), iterations=2)
    assert found.draws.shape == (2, 4, 3)
    for subject in range(3):
        points = found.draws[:, :, subject].numpy()
        np.testing.assert_allclose(found.means[:, subject], points.mean(1), rtol=1e-12)
        np.testing.assert_allclose(found.covariances[:, :, subject], np.cov(points, ddof=1), rtol=1e-10)


@pytest.mark.parametrize("scale", [Log(), Logit(2.0, 5.0), Logit(-1.0, 0.5), Identity()], ids=str)
def test_confidence_limits_are_symmetric_where_the_parameter_is_unbounded(scale):
    """With se the standard error on the natural scale, that of the transformed parameter is se times its slope."""
    estimate, se = (
        {"Log": 0.3, "Identity": -0.7}.get(type(scale).__name__, 0.3 if not scale.contains(3.0) else 3.0),
        0.2,
    )
    table = error_table(
        ["p"], torch.tensor([estimate], dtype=DOUBLE), torch.tensor([[se**2]], dtype=DOUBLE), [scale], 0.9
    )
    step = 1e-6
    ends = [float(scale.inverse(torch.tensor(estimate + sign * step, dtype=DOUBLE))) for sign in (-1, 1)]
    centre, reach = float(scale.inverse(torch.tensor(estimate, dtype=DOUBLE))), 1.6448536 * se
    reach *= (ends[1] - ends[0]) / (2 * step)
    limits = [float(scale.forward(torch.tensor(centre + sign * reach, dtype=DOUBLE))) for sign in (-1, 1)]
    assert table.loc["p", ["lower", "upper"]].tolist() == pytest.approx(limits, rel=1e-6)
    assert table.loc["p", "se"] == pytest.approx(se) and scale.contains(float(table.loc["p", "lower"]))
