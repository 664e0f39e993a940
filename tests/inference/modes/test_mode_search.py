"""The best mode against dense grids, for densities of the kinds that have several."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nlme_torch.inference.modes.mode_search import best_modes

DOUBLE = torch.float64
SUBJECTS = 12


def column(times, effects):
    """Times along a new first axis."""
    return torch.as_tensor(times, dtype=DOUBLE).reshape(-1, *[1] * (effects.ndim - 1))


def emax(e):
    dose = column([0.0, 1.0, 3.0, 10.0, 30.0, 100.0], e)
    return 100 * torch.exp(e[0]) * dose / (10 * torch.exp(e[1]) + dose)


def logistic(e):
    time = column([0.0, 2.0, 4.0, 6.0, 8.0, 10.0], e)
    return 100 * torch.exp(0.3 * e[2]) * torch.sigmoid((time - 5 * torch.exp(e[0])) / torch.exp(e[1]))


def lag(e):
    elapsed = (column([0.25, 0.5, 1.0, 2.0, 4.0, 8.0], e) - 0.7 * torch.exp(e[0])).clamp(min=0.0)
    rate = 1.5 * torch.exp(e[1])
    return 10 * rate / (rate - 0.2) * (torch.exp(-0.2 * elapsed) - torch.exp(-rate * elapsed))


def two_compartments(e):
    time = column([0.2, 1.0, 4.0, 10.0, 40.0], e)
    k10, k12, k21 = torch.exp(e[0]), 0.4 * torch.exp(e[1]), 0.2 * torch.exp(e[1] - e[2])
    total = k10 + k12 + k21
    root = (total**2 - 4 * k10 * k21).sqrt()
    fast, slow = 0.5 * (total + root), 2 * k10 * k21 / (total + root)
    fall = (fast - k21) * torch.exp(-fast * time) + (k21 - slow) * torch.exp(-slow * time)
    return (20 * fall / (fast - slow)).clamp(min=1e-30).log()


def normal(predict, sigma):
    return lambda e, y: -0.5 * ((y - predict(e)) / sigma).square().sum(0)


def below_limit(e, y):
    mean = two_compartments(e)
    below = torch.special.log_ndtr((-1.0 - mean) / 0.25)
    return torch.where(y < -1.0, below, -0.5 * ((y - mean) / 0.25).square()).sum(0)


def hazard(e, y):
    """Weibull times of one event, of which those after 3 are censored."""
    shape, scale = torch.exp(0.5 * e[1]), 2 * torch.exp(e[0])
    time = y.abs().clamp(0.01, 3.0)
    log_hazard = shape.log() - scale.log() + (shape - 1) * (time / scale).log()
    return (torch.where(y.abs() < 3.0, log_hazard, 0.0) - (time / scale) ** shape).sum(0)


KINDS = {
    "emax": (2, normal(emax, 10.0), emax, 10.0),
    "logistic": (3, normal(logistic, 8.0), logistic, 8.0),
    "two compartments": (3, normal(two_compartments, 0.25), two_compartments, 0.25),
    "below a limit": (3, below_limit, two_compartments, 0.25),
    "hazard": (2, hazard, lambda e: 2 * torch.exp(e[:1]), 1.5),
}


def target(kind, seed, spread):
    """The log joint density of standardised effects of some subjects whose typical values are wrong."""
    effects, log_likelihood, predict, sigma = KINDS[kind]
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, generator=generator, dtype=DOUBLE)

    deviations = spread * torch.exp(0.7 * noise(effects))
    own = noise(effects, 1) + deviations[:, None] * noise(effects, SUBJECTS)
    observed = predict(own)
    observed = observed + sigma * noise(*observed.shape)

    def log_joint(z):
        e = deviations.reshape(-1, *[1] * (z.ndim - 1)) * z
        y = observed.reshape(len(observed), *[1] * (z.ndim - 2), SUBJECTS)
        return log_likelihood(e, y) - 0.5 * z.square().sum(0)

    return effects, log_joint


def best_of_grid(effects, log_joint):
    axis = torch.linspace(-7, 7, {2: 113, 3: 29}[effects], dtype=DOUBLE)
    grid = torch.cartesian_prod(*[axis] * effects).mT
    return log_joint(grid[:, :, None].expand(-1, -1, SUBJECTS)).amax(0)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), spread=st.floats(0.1, 1.5))
def test_no_point_of_a_grid_is_higher(kind, seed, spread):
    effects, log_joint = target(kind, seed, spread)
    found = best_modes(log_joint, torch.zeros(effects, 1, SUBJECTS, dtype=DOUBLE))
    assert found.modes.found().all()
    assert (best_of_grid(effects, log_joint) - found.modes.value).max() < 1e-6


def two_hills(separation, heights):
    """Normal hills of width 0.3 at +-separation in the first effect, one pair for each subject."""

    def log_joint(z):
        square = [((z[0] - side * separation) / 0.3) ** 2 + z[1:].square().sum(0) for side in (-1.0, 1.0)]
        return torch.logaddexp(-0.5 * square[0], heights - 0.5 * square[1])

    return log_joint


@pytest.mark.parametrize("separation", [1.0, 2.0, 4.0])
def test_the_next_mode_and_how_far_below_it_lies(separation):
    heights = torch.tensor([-2.0, -0.5, 0.5, 2.0], dtype=DOUBLE)
    found = best_modes(two_hills(separation, heights), torch.zeros(2, 1, 4, dtype=DOUBLE))
    side = separation * heights.sign()
    torch.testing.assert_close(found.modes.effects[0], side, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.gap, heights.abs(), atol=1e-2, rtol=0)


def test_one_hill_has_no_next():
    found = best_modes(lambda z: -0.5 * (z - 3.0).square().sum(0), torch.zeros(3, 1, 2, dtype=DOUBLE))
    torch.testing.assert_close(found.modes.effects, torch.full((3, 2), 3.0, dtype=DOUBLE))
    assert torch.isinf(found.gap).all()


def test_a_subject_does_not_depend_on_the_others():
    effects, log_joint = target("below a limit", 3, 0.5)
    zero = torch.zeros(effects, 1, SUBJECTS, dtype=DOUBLE)
    together = best_modes(log_joint, zero)

    def spoilt(z):
        return torch.where(torch.arange(SUBJECTS) == 5, torch.nan, log_joint(z))

    apart = best_modes(spoilt, zero)
    others = torch.arange(SUBJECTS) != 5
    assert torch.equal(apart.modes.effects[:, others], together.modes.effects[:, others])
    assert not apart.modes.found()[5]


def test_steps_are_kept_within_reach():
    """A flat shoulder promises steps of thousands; where they lead nothing can be evaluated."""
    furthest = []

    def log_joint(z):
        furthest.append(float(z.detach().abs().max()))
        return 20 * torch.sigmoid(z[0]) - 0.5 * z.square().sum(0) / 1e6

    found = best_modes(log_joint, torch.full((1, 1, 2), -25.0, dtype=DOUBLE))
    assert found.modes.found().all()
    assert max(furthest) < 60


def test_derivatives_that_are_missing_around_zero_are_walked_around():
    def log_joint(z):
        near = z[0].abs() < 0.5
        root = torch.where(near, 0.0 * z[0], 1.0).sqrt()  # where near: a value, and a derivative of infinity times zero
        return root - torch.where(near, 0.0, 1.0) - 0.5 * ((z[0] - 1.0) ** 2 + z[1] ** 2)

    found = best_modes(log_joint, torch.zeros(2, 1, 3, dtype=DOUBLE))
    torch.testing.assert_close(found.modes.effects[0], torch.ones(3, dtype=DOUBLE), atol=1e-6, rtol=0)


def test_the_best_point_of_a_ridge_along_a_kink():
    """Newton stops anywhere on the ridge: its step leads down on the other side."""

    def log_joint(z):
        return -(2 * (z[0] - 0.7)).clamp(min=0) * 5 + 2 * z[0] - 0.5 * ((z[1] - 1.0) / 0.4) ** 2 - 0.5 * z[0] ** 2

    found = best_modes(log_joint, torch.zeros(2, 1, 2, dtype=DOUBLE))
    expected = torch.tensor([0.7, 1.0], dtype=DOUBLE)[:, None].expand(2, 2)
    torch.testing.assert_close(found.modes.effects, expected, atol=1e-6, rtol=0)


def test_a_lag_time_between_observations():
    """The density has a hill between every two observations before which the drug may have appeared."""
    generator = torch.Generator().manual_seed(5)
    own = 0.6 * torch.randn(2, SUBJECTS, generator=generator, dtype=DOUBLE)
    observed = lag(own) + 0.8 * torch.randn(6, SUBJECTS, generator=generator, dtype=DOUBLE)

    def log_joint(z):
        y = observed.reshape(6, *[1] * (z.ndim - 2), SUBJECTS)
        return -0.5 * ((y - lag(0.6 * z)) / 0.8).square().sum(0) - 0.5 * z.square().sum(0)

    found = best_modes(log_joint, torch.zeros(2, 1, SUBJECTS, dtype=DOUBLE))
    assert (best_of_grid(2, log_joint) - found.modes.value).max() < 1e-6
    assert (found.gap < 2.5).any() and math.isfinite(float(found.gap.min()))
