"""Laplace, quadrature and importance sampling against exact marginal likelihoods."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from support.analytic import DOUBLE, GaussianMixture, LinearGaussian, Warped
from support.integrals import by_quadrature

from nlme_torch.errors import FitError
from nlme_torch.inference.likelihood.importance_sampling import draw_weighted, importance_sampling, summarise
from nlme_torch.inference.likelihood.laplace_mixture import laplace_log_marginal, laplace_mixture
from nlme_torch.inference.likelihood.pareto_smoothing import fit_generalized_pareto, pareto_smooth
from nlme_torch.inference.mcmc.proposals import Mixture, factor_of_precision, normal, student
from nlme_torch.inference.modes.conditional_modes import best_mode, conditional_modes, distinct_modes


def modes_of(target, effect, subject, starts=1):
    points = torch.randn(effect, starts, subject, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    return conditional_modes(target.log_joint, points)


@pytest.mark.parametrize("effect", [1, 3, 28])
def test_laplace_is_exact_for_a_linear_gaussian_model(effect):
    target = LinearGaussian.simulate(effect, 6, 5, seed=3)
    torch.testing.assert_close(
        laplace_log_marginal(best_mode(modes_of(target, effect, 5))), target.log_marginal(), atol=1e-9, rtol=0
    )


def test_a_jittered_laplace_would_fail():
    """A nearly flat direction: jitter of 1e-4, harmless in a solver, moves the answer by far more than
    the tolerance."""
    target = LinearGaussian.simulate(3, 6, 5, seed=3)
    wide = LinearGaussian(target.design * 1e-3, target.data, 1e4 * target.omega, target.sigma)
    modes = best_mode(modes_of(wide, 3, 5))
    torch.testing.assert_close(laplace_log_marginal(modes), wide.log_marginal(), atol=1e-7, rtol=0)
    jitter = 1e-4 * torch.eye(3, dtype=DOUBLE)[..., None]
    biased = laplace_log_marginal(modes._replace(precision=modes.precision + jitter))
    assert (biased - wide.log_marginal()).abs().min() > 0.1


def test_laplace_refuses_a_point_that_is_no_maximum_and_names_the_subject():
    target = LinearGaussian.simulate(3, 6, 5, seed=3)
    modes = best_mode(modes_of(target, 3, 5))
    precision = modes.precision.clone()
    precision[0, 0, 2] = -1.0
    with pytest.raises(FitError, match=r"\[2\]"):
        laplace_log_marginal(modes._replace(precision=precision))
    flagged = laplace_log_marginal(modes._replace(precision=precision), strict=False)
    assert torch.isnan(flagged).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("effect", [1, 2, 3])
def test_quadrature_is_exact_for_a_linear_gaussian_model(effect):
    target = LinearGaussian.simulate(effect, 6, 5, seed=3)
    modes = best_mode(modes_of(target, effect, 5))
    factor = factor_of_precision(modes.precision)
    for nodes in (1, 4):
        value = by_quadrature(target.log_joint, modes.effects, factor, nodes, pieces=3)
        torch.testing.assert_close(value, target.log_marginal(), atol=1e-9, rtol=0)


def poisson_log_joint(counts):
    """y ~ Poisson(exp(1 + eta_1 + eta_2 x)), eta ~ N(0, diag(0.5, 0.2)): no closed form, but scipy can integrate it."""
    x = torch.linspace(-1, 1, len(counts), dtype=DOUBLE)

    def log_joint(effects):
        rate = 1 + effects[0] + effects[1] * x.reshape(-1, *(1,) * (effects.ndim - 1))
        y = counts.reshape(len(counts), *(1,) * (effects.ndim - 2), -1)
        likelihood = (y * rate - rate.exp() - torch.lgamma(y + 1)).sum(0)
        prior = -0.5 * (effects[0] ** 2 / 0.5 + effects[1] ** 2 / 0.2) - math.log(2 * math.pi) - 0.5 * math.log(0.1)
        return likelihood + prior

    return log_joint


def test_quadrature_and_importance_sampling_agree_with_scipy_on_a_poisson_model():
    counts = torch.tensor([[3.0, 0.0], [2.0, 1.0], [7.0, 0.0], [11.0, 2.0]], dtype=DOUBLE)
    log_joint = poisson_log_joint(counts)
    a, b = np.linspace(-6, 5, 601), np.linspace(-5, 5, 501)
    grid = torch.from_numpy(np.stack(np.meshgrid(a, b, indexing="ij"))).reshape(2, -1, 1).expand(-1, -1, 2)
    density = log_joint(grid).exp().reshape(601, 501, 2).numpy()
    exact = torch.from_numpy(np.log(integrate.simpson(integrate.simpson(density, x=b, axis=1), x=a, axis=0)))
    modes = best_mode(conditional_modes(log_joint, torch.zeros(2, 1, 2, dtype=DOUBLE)))
    factor = factor_of_precision(modes.precision)
    value = by_quadrature(log_joint, modes.effects, factor, nodes=25)
    torch.testing.assert_close(value, exact, atol=1e-7, rtol=0)
    assert (laplace_log_marginal(modes) - exact).abs().max() > 1e-3  # so the nodes did something
    result = importance_sampling(
        log_joint, student(modes.effects, factor), samples=40_000, generator=torch.Generator().manual_seed(0)
    )
    assert ((result.log_marginal - exact).abs() < 4 * result.standard_error).all()
    assert result.total_standard_error < 0.01


def test_proposal_densities_agree_with_scipy():
    generator = torch.Generator().manual_seed(2)
    factors = torch.tril(torch.randn(3, 3, 2, 4, generator=generator, dtype=DOUBLE).movedim((0, 1), (-2, -1)))
    factors.diagonal(dim1=-2, dim2=-1).abs_().add_(0.3)
    factors = factors.movedim((-2, -1), (0, 1))
    centres = torch.randn(3, 2, 4, generator=generator, dtype=DOUBLE)
    weights = torch.tensor([[0.3, 0.5, 1.0, 0.9], [0.7, 0.5, 0.0, 0.1]], dtype=DOUBLE)
    points = torch.randn(3, 5, 4, generator=generator, dtype=DOUBLE)
    for df in (5, math.inf):
        value = Mixture(centres, factors, weights.log(), df).log_density(points)
        for subject in range(4):
            density = 0.0
            for m in range(2):
                scale = (factors[..., m, subject] @ factors[..., m, subject].mT).numpy()
                law = stats.multivariate_t(centres[:, m, subject].numpy(), scale, df=df)
                density = density + weights[m, subject].item() * law.pdf(points[..., subject].mT.numpy())
            np.testing.assert_allclose(value[:, subject], np.log(density), rtol=1e-9)


@pytest.mark.parametrize("df", [7, math.inf])
def test_proposal_draws_follow_the_density(df):
    """The probability integral transform of a one-dimensional mixture is uniform."""
    centres = torch.tensor([[-2.0, 3.0]], dtype=DOUBLE)[..., None]
    factors = torch.tensor([[[0.5, 1.5]]], dtype=DOUBLE)[..., None]
    weights = torch.tensor([[0.3], [0.7]], dtype=DOUBLE)
    draws = Mixture(centres, factors, weights.log(), df).sample(5000, torch.Generator().manual_seed(1))[0, :, 0].numpy()
    law = stats.t(df) if math.isfinite(df) else stats.norm
    cdf = lambda x: 0.3 * law.cdf((x + 2) / 0.5) + 0.7 * law.cdf((x - 3) / 1.5)  # noqa: E731
    assert stats.kstest(draws, cdf).pvalue > 0.01


def test_a_proposal_component_without_weight_is_never_drawn():
    centres = torch.tensor([[0.0, 100.0], [0.0, 100.0]], dtype=DOUBLE)[..., None].repeat(1, 1, 3)
    factors = torch.eye(2, dtype=DOUBLE)[..., None, None].repeat(1, 1, 2, 3)
    log_weights = torch.tensor([[0.0, 0.5, -torch.inf], [-torch.inf, 0.5, 0.0]], dtype=DOUBLE)
    log_weights[:, 1] = math.log(0.5)
    far = (
        (Mixture(centres, factors, log_weights).sample(400, torch.Generator().manual_seed(0))[0] > 50).double().mean(0)
    )
    assert far[0] == 0 and far[2] == 1 and 0.4 < far[1] < 0.6


def test_fractional_degrees_of_freedom_are_refused():
    with pytest.raises(FitError, match="whole number"):
        student(torch.zeros(1, 1, dtype=DOUBLE), torch.ones(1, 1, 1, dtype=DOUBLE), df=2.5).sample(3, torch.Generator())


def test_factor_of_precision_is_the_factor_of_the_inverse():
    generator = torch.Generator().manual_seed(2)
    root = torch.randn(4, 6, 6, generator=generator, dtype=DOUBLE)
    precision = root @ root.mT + torch.eye(6, dtype=DOUBLE)
    precision[3, 0, 0] = -5.0
    factor = factor_of_precision(precision.movedim(0, -1)).movedim(-1, 0)
    torch.testing.assert_close(factor[:3] @ factor[:3].mT, torch.linalg.inv(precision[:3]))
    assert (factor[:3].triu(1) == 0).all() and torch.isnan(factor[3]).all()


def test_importance_sampling_of_a_linear_gaussian_model_and_its_standard_error():
    target = LinearGaussian.simulate(3, 6, 5, seed=3)
    modes = best_mode(modes_of(target, 3, 5))
    factor = factor_of_precision(modes.precision)
    proposal = student(modes.effects + 0.3 * factor.sum(1), 1.2 * factor)
    scores, errors = [], []
    for seed in range(40):
        result = importance_sampling(
            target.log_joint, proposal, samples=1000, generator=torch.Generator().manual_seed(seed), max_columns=999
        )
        assert (result.khat < 0.7).all()
        scores.append((result.total - target.log_marginal().sum().item()) / result.total_standard_error)
        errors.append(result.total_standard_error)
    assert abs(np.mean(scores)) < 0.6 and 0.75 < np.std(scores) < 1.25  # the standard error is what it says
    assert max(errors) < 0.2


def test_importance_sampling_over_several_modes():
    means = torch.tensor([[-5.0, 0.0], [5.0, 1.0]], dtype=DOUBLE)
    covariances = torch.stack([0.3 * torch.eye(2, dtype=DOUBLE), 0.9 * torch.eye(2, dtype=DOUBLE)])
    constant = torch.tensor([-3.0, 7.0], dtype=DOUBLE)
    target = GaussianMixture(means, covariances, torch.tensor([0.15, 0.85], dtype=DOUBLE), constant)
    starts = 4 * torch.randn(2, 20, 2, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    distinct = distinct_modes(conditional_modes(target.log_joint, starts))
    assert distinct.effects.shape[1] == 2
    generator = torch.Generator().manual_seed(0)
    result = importance_sampling(target.log_joint, laplace_mixture(distinct), samples=4000, generator=generator)
    assert ((result.log_marginal - constant).abs() < 4 * result.standard_error).all()
    assert result.total_standard_error < 0.05
    draws = draw_weighted(target.log_joint, laplace_mixture(distinct), samples=20_000, generator=generator)
    mean, covariance = draws.moments()
    exact_mean = 0.15 * means[0] + 0.85 * means[1]
    spread = (
        0.15 * covariances[0]
        + 0.85 * covariances[1]
        + 0.15 * 0.85 * torch.outer(means[1] - means[0], means[1] - means[0])
    )
    torch.testing.assert_close(mean, exact_mean[:, None].expand(-1, 2), atol=0.15, rtol=0)
    torch.testing.assert_close(covariance, spread[..., None].expand(-1, -1, 2), atol=0.5, rtol=0)


def test_a_bad_proposal_is_flagged_by_khat_and_effective_size():
    target = Warped(torch.ones(28, 3, dtype=DOUBLE), torch.zeros(3, dtype=DOUBLE), bend=0.7)
    proposal = normal(torch.zeros(28, 3, dtype=DOUBLE), 0.8 * torch.eye(28, dtype=DOUBLE)[..., None])
    result = importance_sampling(target.log_joint, proposal, generator=torch.Generator().manual_seed(0))
    assert (result.khat > 0.7).all() and (result.effective_size < 100).all()


def test_draws_that_cannot_be_evaluated_weigh_zero_and_a_hopeless_subject_is_named():
    def half(effects):  # a standard normal cut in half: half the mass
        value = -0.5 * effects[0].pow(2) - 0.5 * math.log(2 * math.pi)
        return torch.where(effects[0] < 0, torch.nan, value)

    proposal = normal(torch.zeros(1, 2, dtype=DOUBLE), torch.ones(1, 1, 1, dtype=DOUBLE))
    generator = torch.Generator().manual_seed(0)
    result = importance_sampling(half, proposal, samples=4000, generator=generator)
    assert ((result.log_marginal - math.log(0.5)).abs() < 4 * result.standard_error).all()
    draws = draw_weighted(half, proposal, samples=100, generator=generator)
    dead = draws._replace(log_weights=draws.log_weights.index_fill(1, torch.tensor([1]), -torch.inf))
    with pytest.raises(FitError, match=r"\[1\]"):
        summarise(dead)


@pytest.mark.parametrize("k", [-0.3, 0.2, 0.7, 1.2])
def test_generalized_pareto_fit_recovers_shape_and_scale(k):
    draws = np.sort(stats.genpareto(k, scale=3.0).rvs((4000, 2), random_state=0), 0)
    shape, scale = fit_generalized_pareto(torch.from_numpy(draws))
    for subject in range(2):
        ml_shape, _, ml_scale = stats.genpareto.fit(draws[:, subject], floc=0)
        assert abs(shape[subject] - ml_shape) < 0.02
        assert abs(scale[subject] / ml_scale - 1) < 0.03


def test_khat_of_weights_with_a_known_tail():
    """w = u^-k with u uniform has a Pareto tail of shape k."""
    uniform = torch.rand(20_000, 60, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    shapes = torch.tensor([0.2, 0.6, 1.1], dtype=DOUBLE)
    shifts = torch.tensor([0.0, 900.0, -900.0], dtype=DOUBLE)
    smoothed, khat = pareto_smooth(-shapes.repeat(20) * uniform.log() + shifts.repeat(20))
    torch.testing.assert_close(khat.unflatten(0, (20, 3)).mean(0), shapes, atol=0.05, rtol=0)
    assert torch.isfinite(smoothed).all()


def test_smoothing_agrees_with_arviz():
    """Shape, range and third largest of the smoothed log weights, as arviz.psislw 0.21.0 gives them."""
    index = torch.arange(1, 1001, dtype=DOUBLE)
    reference = {
        0.3: (0.31114982312266737, 2.2522776373162445, 1.891394479708497),
        0.9: (0.7823434745434524, 6.391506357914237, 5.226024205114904),
    }
    for shape, expected in reference.items():
        smoothed, khat = pareto_smooth((-shape * torch.log(index / 1001) + 0.1 * torch.sin(index))[:, None])
        ordered = smoothed[:, 0].sort().values
        found = torch.stack([khat[0], ordered[-1] - ordered[0], ordered[-3] - ordered[0]])
        torch.testing.assert_close(found, torch.tensor(expected, dtype=DOUBLE), atol=1e-10, rtol=0)


def test_smoothing_leaves_the_bulk_and_the_order_alone_and_reduces_the_error():
    generator = torch.Generator().manual_seed(0)
    raw, smooth = [], []
    for _ in range(60):
        log_weights = -0.6 * torch.rand(1000, 1, generator=generator, dtype=DOUBLE).log()  # mean 1 / 0.4
        smoothed, _ = pareto_smooth(log_weights)
        tail = log_weights[:, 0] >= log_weights[:, 0].sort().values[-95]
        assert torch.equal(smoothed[~tail], log_weights[~tail])
        assert (smoothed[log_weights[:, 0].argsort(), 0].diff() >= 0).all()
        assert smoothed.max() <= log_weights.max()
        raw.append(log_weights.exp().mean().item() - 2.5)
        smooth.append(smoothed.exp().mean().item() - 2.5)
    assert np.square(smooth).mean() < np.square(raw).mean()


def test_khat_of_degenerate_weights():
    log_weights = torch.zeros(100, 3, dtype=DOUBLE)
    log_weights[:, 1] = -torch.inf
    log_weights[0, 1] = 0.0
    log_weights[:, 2] = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    _, khat = pareto_smooth(log_weights)
    assert khat[0] == -torch.inf and khat[1] == torch.inf and khat[2] < 1
    assert (pareto_smooth(log_weights[:10])[1] == torch.inf).all()
