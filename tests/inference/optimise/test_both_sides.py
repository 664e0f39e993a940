"""Kinks and lower neighbours of functions that are known."""

import pytest
import torch

from nlme_torch.inference.optimise.both_sides import both_sides, search_by_values

ORIGIN = torch.zeros(2, dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)


def smooth(points):
    return 0.5 * points.square().sum(1) + 0.05 * points[:, 0] ** 3


def kinked(points):
    return points[:, 0].abs() + 0.5 * points[:, 1] ** 2


def test_a_smooth_minimum_has_the_expected_second_differences():
    found = both_sides(smooth, ORIGIN, EYE)
    assert found.bends.tolist() == pytest.approx([1.0, 1.0], rel=1e-6) and not found.kinked and found.fall < 0


def test_a_kink_is_seen_from_the_point_where_it_is():
    found = both_sides(kinked, ORIGIN, EYE)
    assert found.kinked and found.bends[1] == pytest.approx(1.0)


def test_a_lower_neighbour_is_found():
    found = both_sides(smooth, torch.tensor([1.0, 0.0], dtype=torch.float64), EYE)
    assert found.fall > 0 and float(found.lowest[0]) < 1


def test_a_search_by_values_reaches_a_kink():
    vector, value = search_by_values(kinked, torch.tensor([0.7, -1.3], dtype=torch.float64), EYE)
    assert value < 2e-3 and float(vector.norm()) < 0.05
