"""Conditional modes against exact posterior modes, scipy, and targets that are hard to climb."""

import numpy as np
import pytest
import torch
from scipy import optimize
from support.analytic import DOUBLE, GaussianMixture, LinearGaussian, Warped, network_target

from nlme_torch.inference.modes.conditional_modes import ModeStatus, best_mode, conditional_modes, distinct_modes
from nlme_torch.inference.modes.derivatives import derivatives
from nlme_torch.inference.modes.quasi_newton import quasi_newton


class Counted:
    """A log density that counts its calls and columns."""

    def __init__(self, function):
        self.function, self.sizes = function, []

    def __call__(self, effects):
        self.sizes.append(effects[0].numel())
        return self.function(effects)


def test_derivatives_agree_with_functional_autograd():
    target = Warped(torch.tensor([[1.0], [0.5], [2.0]], dtype=DOUBLE), torch.zeros(1, dtype=DOUBLE), funnel=0.4)
    points = torch.randn(3, 4, 2, 1, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    result = derivatives(target.log_joint, points, max_columns=5)
    for a in range(4):
        for b in range(2):

            def one(x):
                return target.log_joint(x[:, None])[0]

            x = points[:, a, b, 0]
            torch.testing.assert_close(result.value[a, b, 0], one(x))
            torch.testing.assert_close(result.gradient[:, a, b, 0], torch.autograd.functional.jacobian(one, x))
            torch.testing.assert_close(result.hessian[:, :, a, b, 0], torch.autograd.functional.hessian(one, x))


def test_hessian_of_a_linear_density_is_zero():
    result = derivatives(lambda e: e.sum(0), torch.ones(2, 1, 3, dtype=DOUBLE))
    assert (result.hessian == 0).all() and (result.gradient == 1).all()


@pytest.mark.parametrize("effect", [3, 28])
def test_linear_gaussian_modes_are_exact(effect):
    target = LinearGaussian.simulate(effect, 6, 5, seed=2)
    starts = 3 * torch.randn(effect, 4, 5, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    modes = conditional_modes(target.log_joint, starts)
    mean, covariance = target.posterior()
    assert (modes.status == ModeStatus.CONVERGED).all()
    torch.testing.assert_close(modes.effects, mean[:, None].expand_as(starts), atol=1e-7, rtol=0)
    precision = torch.linalg.inv(covariance.movedim(-1, 0)).movedim(0, -1)
    torch.testing.assert_close(modes.precision, precision[:, :, None].expand_as(modes.precision))
    torch.testing.assert_close(modes.value, target.log_joint(modes.effects))


def test_one_newton_step_suffices_for_a_gaussian_and_a_warm_start_costs_one_call():
    target = LinearGaussian.simulate(3, 6, 5, seed=2)
    counted = Counted(target.log_joint)
    modes = conditional_modes(counted, torch.ones(3, 1, 5, dtype=DOUBLE))
    assert len(counted.sizes) == 4  # evaluable, Hessian, ladder, Hessian
    counted.sizes.clear()
    conditional_modes(counted, modes.effects)
    assert len(counted.sizes) == 2


def test_curved_and_funnel_shaped_target():
    scales = torch.tensor([[1.0, 0.2, 5.0]] * 5, dtype=DOUBLE)
    target = Warped(scales, torch.tensor([0.0, 1.0, 2.0], dtype=DOUBLE), bend=2.0, funnel=0.5)
    starts = scales[:, None] * 2 * torch.randn(5, 10, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    modes = conditional_modes(target.log_joint, starts)
    assert modes.usable(1e-8).all()
    exact = target.forward(torch.zeros(5, 1, 3, dtype=DOUBLE))  # unit Jacobian: the mode is the image of zero
    torch.testing.assert_close(
        modes.effects / scales[:, None], (exact / scales[:, None]).expand_as(starts), atol=1e-4, rtol=0
    )


def mixture():
    means = torch.tensor([[-3.0, 0.0], [3.0, 1.0], [0.0, 6.0]], dtype=DOUBLE)
    covariances = torch.stack([torch.eye(2, dtype=DOUBLE) * s for s in (0.3, 0.5, 0.2)])
    return GaussianMixture(
        means, covariances, torch.tensor([0.5, 0.3, 0.2], dtype=DOUBLE), torch.zeros(4, dtype=DOUBLE)
    )


def test_distinct_modes_of_a_mixture_are_found_and_sorted():
    target = mixture()
    starts = 4 * torch.randn(2, 30, 4, generator=torch.Generator().manual_seed(1), dtype=DOUBLE) + 1
    starts[..., 3] = torch.tensor([-3.0, 0.2], dtype=DOUBLE)[:, None]  # the last subject only ever sees one mode
    modes = conditional_modes(target.log_joint, starts)
    distinct = distinct_modes(modes)
    assert distinct.effects.shape == (2, 3, 4)
    heights = torch.tensor([0.5 / 0.3, 0.3 / 0.5, 0.2 / 0.2])
    order = heights.argsort(descending=True)
    for subject in range(3):
        torch.testing.assert_close(distinct.effects[..., subject].mT, target.means[order], atol=1e-3, rtol=0)
    assert torch.isinf(distinct.value[1:, 3]).all() and (distinct.status[1:, 3] == ModeStatus.FAILED).all()
    best = best_mode(modes)
    torch.testing.assert_close(best.effects, distinct.effects[:, 0])
    assert best.value.shape == (4,) and best.precision.shape == (2, 2, 4)


def test_modes_far_below_the_best_are_dropped():
    target = mixture()
    starts = torch.tensor([[-3.0, 3.0, 0.0], [0.0, 1.0, 6.0]], dtype=DOUBLE)[..., None].expand(-1, -1, 4)
    modes = conditional_modes(target.log_joint, starts)
    assert distinct_modes(modes, below=0.6).effects.shape[1] == 2


def test_a_saddle_point_is_left_or_reported():
    means = torch.tensor([[-2.0, 0.0], [2.0, 0.0]], dtype=DOUBLE)
    target = GaussianMixture(
        means,
        torch.eye(2, dtype=DOUBLE).expand(2, -1, -1),
        torch.full((2,), 0.5, dtype=DOUBLE),
        torch.zeros(1, dtype=DOUBLE),
    )
    starts = torch.tensor([[0.0, 1e-3], [0.0, 0.5]], dtype=DOUBLE)[..., None]
    modes = conditional_modes(target.log_joint, starts)
    assert modes.status[0, 0] == ModeStatus.NOT_CONCAVE  # exactly on the saddle: no gradient to follow
    assert modes.status[1, 0] == ModeStatus.CONVERGED
    assert modes.effects[0, 1, 0] > 1.9
    assert not modes.usable()[0, 0]


@pytest.mark.parametrize("failure", [float("nan"), float("-inf")])
def test_a_column_that_cannot_be_evaluated_backs_off_alone(failure):
    target = LinearGaussian.simulate(3, 6, 5, seed=2)
    mean, _ = target.posterior()
    wall = mean[0].abs() + 0.3

    def walled(effects):
        return torch.where(effects[0].abs() > wall, failure, target.log_joint(effects))

    starts = torch.zeros(3, 3, 5, dtype=DOUBLE)
    starts[0, 1, 2] = 100.0  # cannot be evaluated at its start: pulled towards zero
    starts[1] = 50.0
    modes = conditional_modes(walled, starts)
    assert (modes.status == ModeStatus.CONVERGED).all()
    torch.testing.assert_close(modes.effects, mean[:, None].expand_as(starts), atol=1e-6, rtol=0)


def test_a_hopeless_subject_fails_and_leaves_the_others_alone():
    target = LinearGaussian.simulate(3, 6, 5, seed=2)

    def broken(effects):
        return target.log_joint(effects) / torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0], dtype=DOUBLE)

    starts = torch.ones(3, 2, 5, dtype=DOUBLE)
    for steps in (0, 20):
        modes = conditional_modes(broken, starts, quasi_newton_steps=steps)
        reference = conditional_modes(target.log_joint, starts, quasi_newton_steps=steps)
        assert (modes.status[:, 2] == ModeStatus.FAILED).all()
        others = [0, 1, 3, 4]
        assert torch.equal(modes.effects[..., others], reference.effects[..., others])
        assert (best_mode(modes).status == torch.tensor([0, 0, 4, 0, 0])).all()
        assert torch.isinf(distinct_modes(modes).value[:, 2]).all()


def test_network_modes_agree_with_scipy_from_the_same_starts():
    log_joint = network_target()
    starts = torch.randn(28, 3, 4, generator=torch.Generator().manual_seed(5), dtype=DOUBLE)
    modes = conditional_modes(log_joint, starts, newton_steps=100)
    assert (modes.status == ModeStatus.CONVERGED).all()
    assert (torch.linalg.eigvalsh(modes.precision.movedim((0, 1), (-2, -1))) > 0).all()
    for subject in range(4):

        def negative(x, subject=subject):
            full = torch.zeros(28, 4, dtype=DOUBLE)
            full[:, subject] = torch.from_numpy(x)
            full.requires_grad_()
            value = log_joint(full)[subject]
            (gradient,) = torch.autograd.grad(value, full)
            return -value.item(), -gradient[:, subject].numpy()

        for start in range(3):  # polish each answer with scipy: it must already be a minimum
            found = modes.effects[:, start, subject].numpy()
            polished = optimize.minimize(negative, found, jac=True, method="BFGS", options={"gtol": 1e-8})
            assert abs(polished.fun + modes.value[start, subject].item()) < 1e-7
            np.testing.assert_allclose(polished.x, found, atol=1e-3)
        scipy_best = max(
            -optimize.minimize(negative, starts[:, s, subject].numpy(), jac=True, method="BFGS").fun for s in range(3)
        )
        assert modes.value[:, subject].max() > scipy_best - 3.0  # as good a basin, if not the same one


def test_converged_starts_are_dropped_from_the_batch():
    target = Warped(torch.ones(3, 2, dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE), bend=2.0)
    starts = target.forward(torch.zeros(3, 20, 2, dtype=DOUBLE))
    starts[:, 7, 1] = torch.tensor([2.0, -3.0, 4.0], dtype=DOUBLE)
    counted = Counted(target.log_joint)
    modes = conditional_modes(counted, starts)
    assert (modes.status == ModeStatus.CONVERGED).all()
    assert counted.sizes[1] == 3 * 40 and max(counted.sizes[2:]) <= 27 * 2


def test_quasi_newton_never_falls_and_saves_second_derivatives():
    log_joint = network_target(subjects=3)
    starts = 2 * torch.randn(28, 6, 3, generator=torch.Generator().manual_seed(5), dtype=DOUBLE)
    improved = quasi_newton(log_joint, starts, steps=100)
    gain = log_joint(improved) - log_joint(starts)
    assert (gain > 0).all()
    counts = []
    for steps in (0, None):
        counted = Counted(log_joint)
        conditional_modes(counted, starts, quasi_newton_steps=steps)
        counts.append(sum(size for size in counted.sizes if size % 28 == 0))
    assert counts[1] < 0.9 * counts[0]


def test_too_few_steps_is_reported():
    target = Warped(torch.ones(3, 1, dtype=DOUBLE), torch.zeros(1, dtype=DOUBLE), bend=3.0)
    modes = conditional_modes(target.log_joint, torch.full((3, 1, 1), 4.0, dtype=DOUBLE), newton_steps=1)
    assert (modes.status == ModeStatus.MAX_STEPS).all()
    torch.testing.assert_close(modes.value, target.log_joint(modes.effects))
