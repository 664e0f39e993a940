"""Batched Newton: each subject on its own, and nothing computed for those that have converged."""

import pytest
import torch

from nlme_torch.inference.modes.conditional_modes import ModeStatus
from nlme_torch.inference.modes.newton import inner_modes

DOUBLE = torch.float64
CENTRES = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.0, 1.0, 2.0, -1.0]], dtype=DOUBLE)  # (effect, subject)


def quartic(subjects=None):
    """g = sum (z - c)^2 + (z - c)^4, minimum at c."""
    centres = CENTRES if subjects is None else CENTRES[:, subjects]

    def g(effects):
        distance = effects - centres[:, None, None]
        return (distance**2 + distance**4).sum(0)

    return g


def test_minima_of_all_subjects():
    found = inner_modes(quartic(), torch.zeros(2, 1, 4, dtype=DOUBLE))
    torch.testing.assert_close(found.effects[:, 0], CENTRES, rtol=0, atol=1e-10)
    assert (found.status == ModeStatus.CONVERGED).all() and found.usable.all()


def test_a_subject_that_cannot_be_evaluated_backs_off_alone():
    """Subject 3's full first step from -4 leaps into a region without a value; the others must not notice."""
    seen = []

    def g(effects):
        distance = effects[0] - CENTRES[0]
        value = torch.log(1 + distance**2)
        seen.append(effects.detach()[0, 0, 0].clone())
        return torch.where((torch.arange(4) == 3) & (effects[0] > 5.0), torch.inf, value)

    start = torch.tensor([[[0.6, -1.7, 0.3, 3.57]]], dtype=DOUBLE)
    found = inner_modes(g, start)
    assert found.usable.all()
    torch.testing.assert_close(found.effects[0, 0], CENTRES[0], rtol=0, atol=1e-8)
    alone = inner_modes(lambda e: torch.log(1 + (e[0] - CENTRES[0, :1]) ** 2), start[..., :1])
    path = torch.stack(seen)[: alone.evaluations, 0]
    assert path[-1] == pytest.approx(float(alone.effects[0, 0, 0]), abs=1e-3)


def test_a_start_without_a_value_has_failed_and_harms_nobody():
    def g(effects):
        return torch.where(torch.arange(4) == 1, torch.nan, quartic()(effects))

    found = inner_modes(g, torch.zeros(2, 1, 4, dtype=DOUBLE))
    assert found.status[0].tolist() == [0, ModeStatus.FAILED, 0, 0]
    torch.testing.assert_close(found.effects[:, 0, [0, 2, 3]], CENTRES[:, [0, 2, 3]], rtol=0, atol=1e-10)


def test_it_climbs_out_of_a_region_that_is_not_convex():
    def g(effects):
        return (0.25 * effects**4 - 0.5 * effects**2).sum(0)  # a double well

    found = inner_modes(g, torch.full((1, 1, 3), 0.1, dtype=DOUBLE))
    # a decrement of 1e-8 is a distance of 7e-5, whose square is left after the last step
    torch.testing.assert_close(found.effects, torch.ones(1, 1, 3, dtype=DOUBLE), rtol=0, atol=1e-8)


def test_converged_subjects_are_not_evaluated_again():
    asked = []

    def narrow(subjects):
        asked.append(subjects.tolist())
        return quartic(subjects)

    start = CENTRES[:, None].clone()
    start[:, :, 2] += 40.0
    found = inner_modes(quartic(), start, narrow=narrow)
    torch.testing.assert_close(found.effects[:, 0], CENTRES, rtol=0, atol=1e-10)
    assert asked == [[2, 3]]  # never a batch of one
    whole = inner_modes(quartic(), start)
    assert whole.evaluations == found.evaluations
    torch.testing.assert_close(whole.effects, found.effects, rtol=0, atol=0)


def test_noise_ends_the_search_without_a_failure():
    """A gradient that is off by a step-size change of the solver: close to the minimum, never at it."""
    generator = torch.Generator().manual_seed(0)

    def g(effects):
        slope = 1e-3 * torch.randn(1, generator=generator, dtype=DOUBLE)
        return ((effects - 1.0) ** 2 + slope * effects).sum(0)

    found = inner_modes(g, torch.zeros(1, 1, 2, dtype=DOUBLE))
    assert found.usable.all() and found.evaluations < 30
    torch.testing.assert_close(found.effects, torch.ones(1, 1, 2, dtype=DOUBLE), rtol=0, atol=0.05)


def test_a_mode_that_is_very_far_away_is_reached():
    # one value in another unit: the mode lies a million standard deviations out
    found = inner_modes(lambda z: 0.5 * (z - 1e6).square().sum(0), torch.zeros(2, 1, 3, dtype=torch.float64))
    torch.testing.assert_close(found.effects, torch.full((2, 1, 3), 1e6, dtype=torch.float64))
    assert (found.status == ModeStatus.CONVERGED).all() and found.evaluations < 30


def test_it_does_not_crawl_where_it_bends_down_by_next_to_nothing():
    """Next to a fold slope and curvature nearly vanish: the minimum lies 250,000 of the first steps away."""

    def g(effects):
        along, across = effects
        return 1e-5 * along - 0.0025 * along**2 + 0.0002 * along**4 + 20 * across**2

    found = inner_modes(g, torch.zeros(2, 1, 3, dtype=DOUBLE))
    minimum = -1.5 * 2.0**0.5  # of a quartic whose linear term is small
    for _ in range(20):
        minimum -= (1e-5 - 0.005 * minimum + 0.0008 * minimum**3) / (-0.005 + 0.0024 * minimum**2)
    assert (found.status == ModeStatus.CONVERGED).all()
    torch.testing.assert_close(found.effects[0], torch.full((1, 3), minimum, dtype=DOUBLE), rtol=0, atol=1e-6)
    assert found.evaluations < 40
