"""Inverses of small information matrices in closed form, and at which sizes a direction is called missing."""

import math

import numpy as np
import pytest
import torch

from nlme_torch.inference.information.observed import Information, condition_number, invert, positive

NAMES = ["first", "second"]


def matrix(rows):
    return torch.tensor(rows, dtype=torch.float64)


def correlated(gap, scale=(1.0, 1.0)):
    """Eigenvalues ``gap`` and ``2 - gap`` after scaling: nearly flat along (1, -1) for a small gap."""
    return matrix([[1.0, 1.0 - gap], [1.0 - gap, 1.0]]) * torch.outer(matrix(scale), matrix(scale))


HESSIAN, SCORES = matrix([[4.0, 1.0], [1.0, 9.0]]), matrix([[5.0, -1.0], [-1.0, 8.0]])


def test_the_three_covariance_matrices():
    both = Information(HESSIAN, SCORES, subjects=3)
    bread, meat = np.linalg.inv(HESSIAN.numpy()), SCORES.numpy()
    expected = {"R": bread, "S": np.linalg.inv(meat), "sandwich": bread @ meat @ bread}
    for kind, covariance in expected.items():
        found = invert(both, kind, NAMES)
        np.testing.assert_allclose(found.covariance, covariance, rtol=1e-13)
        correlation = covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1])
        assert found.condition_number == pytest.approx((1 + abs(correlation)) / (1 - abs(correlation)), rel=1e-12)
        assert found.warnings == ()


def test_the_condition_number_is_of_the_correlation_matrix():
    assert condition_number(matrix([[4.0, 3.0], [3.0, 9.0]])) == pytest.approx(3.0, rel=1e-14)
    assert condition_number(matrix([[1e-8, 0.0], [0.0, 1e8]])) == pytest.approx(1.0)
    assert condition_number(matrix([[1.0, 1.5], [1.5, 1.0]])) == math.inf
    assert condition_number(matrix([[1.0, math.nan], [math.nan, 1.0]])) == math.inf


def test_as_few_subjects_as_parameters_leave_the_scores_without_full_rank():
    for subjects, count in ((2, 1), (3, 0)):
        messages = invert(Information(HESSIAN, SCORES, subjects), "S", NAMES).warnings
        assert len(messages) == count and all("cannot have full rank for 2 parameters" in m for m in messages)


@pytest.mark.parametrize("scale", [(1.0, 1.0), (1e3, 1e-2)])
def test_how_small_an_eigenvalue_has_to_be(scale):
    """Half the gap is the ratio of the eigenvalues, whatever the units: 1e-6 warns, 1e-9 (of S: 1e-12) is flat."""
    other = torch.diag(matrix(scale).square())

    def message(kind, ratio):
        near = correlated(2 * ratio, scale)
        both = Information(*((other, near) if kind == "S" else (near, other)), subjects=10)
        found = invert(both, kind, NAMES)
        assert bool(found.covariance.isnan().any()) == any("singular" in m or "no maximum" in m for m in found.warnings)
        return " ".join(found.warnings)

    for kind, flat in (("R", 1e-9), ("S", 1e-12)):
        assert message(kind, 1.3e-6) == "" and "hardly identify" in message(kind, 0.7e-6)
        assert "hardly identify" in message(kind, 1.6 * flat)
        assert f"{kind} is singular" in message(kind, 0.5 * flat)
    assert "R is singular" in message("R", -0.7e-6) and "no maximum" in message("R", -1.3e-6)


def test_scores_tell_a_flat_direction_from_one_that_is_nearly_flat():
    near = correlated(1e-6)
    for gap, words in ((2.6e-12, "hardly identify"), (1.4e-12, "R is singular")):
        found = invert(Information(near, correlated(gap), subjects=10), "R", NAMES)
        assert len(found.warnings) == 1 and words in found.warnings[0]


def test_how_small_a_score_has_to_be_for_a_sandwich():
    for gap, count in ((2.6e-12, 0), (1.4e-12, 1)):
        found = invert(Information(torch.eye(2).double(), correlated(gap, (1e3, 1e-2)), 10), "sandwich", NAMES)
        assert len(found.warnings) == count and bool(found.covariance.isnan().all()) == bool(count)
    # as many parameters as subjects: the scores say nothing
    few = invert(Information(torch.eye(2).double(), correlated(0.0), 2), "sandwich", NAMES)
    assert few.warnings == () and torch.equal(few.covariance, torch.ones(2, 2).double())


def test_derivatives_that_are_not_finite_are_said():
    for hessian, scores in ((HESSIAN, SCORES / 0), (HESSIAN / 0, SCORES)):
        for kind in ("R", "S"):
            found = invert(Information(hessian, scores, 10), kind, NAMES)
            assert found.covariance.isnan().all() and "not finite" in found.warnings[0]
            assert found.condition_number == math.inf


def test_small_components_of_a_direction_are_not_named():
    """Flat along (1, -0.06, 0.04) in the parameters' own units: the last is below a twentieth of the largest."""
    direction = matrix([1.0, -0.06, 0.04])
    flat = torch.eye(3).double() - torch.outer(direction, direction) / direction.square().sum()
    (message,) = invert(Information(flat, torch.eye(3).double(), 10), "R", ["a", "b", "c"]).warnings
    signs = ("direction +1 a -0.06 b (", "direction -1 a +0.06 b (")
    assert any(words in message for words in signs)


def test_eigenvalues_by_absolute_value():
    scale = torch.outer(matrix([3.0, 0.5]), matrix([3.0, 0.5]))
    torch.testing.assert_close(
        positive(matrix([[1.0, 2.0], [2.0, 1.0]]) * scale), matrix([[2.0, 1.0], [1.0, 2.0]]) * scale
    )
    tiny = 1e-6
    floored = matrix([[1 + tiny, 1 - tiny], [1 - tiny, 1 + tiny]]) * scale
    torch.testing.assert_close(positive(torch.ones(2, 2).double() * scale), floored, rtol=3e-9, atol=0)
