"""What an examination says of points whose Hessian is known."""

import math

import pytest
import torch

from nlme_torch.inference.optimise.optimality import examine, expect


class Quadratic:
    """Half x' H x."""

    def __init__(self, hessian, known=True):
        self.hessian, self.known = torch.tensor(hessian, dtype=torch.float64), known
        self.calls = 0

    def differenced(self, vector, scale):
        self.calls += 1
        return scale.mT @ self.hessian @ scale * (1.0 if self.known else math.nan)


POINT = torch.tensor([0.3, -0.2], dtype=torch.float64)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_the_gain_does_not_depend_on_the_unit_of_the_search(unit):
    """The tolerance of a search that began where everything was a thousand times flatter would pass any gradient."""
    objective = Quadratic([[4e4, 1e2], [1e2, 3.0]])
    slope = objective.hessian @ POINT
    scale = unit * torch.diag(torch.tensor([5e-3, 0.6], dtype=torch.float64))
    found = examine(objective, POINT, slope, scale)
    if unit >= 1:  # below, directions count as flat, and the gain is a lower bound
        assert found.gain == pytest.approx(0.5 * float(POINT @ slope), rel=1e-9)
        assert torch.allclose(found.scale @ found.scale.mT, torch.linalg.inv(objective.hessian))
    assert not found.saddle


def test_a_saddle_is_seen_although_the_gradient_vanishes():
    objective = Quadratic([[1.0, 0.0], [0.0, -0.2]])
    found = examine(objective, POINT, torch.zeros_like(POINT), torch.eye(2, dtype=torch.float64))
    assert found.gain == 0 and found.saddle
    assert found.bend == pytest.approx(-0.2)
    assert float(found.downward @ objective.hessian @ found.downward) < 0


def test_a_flat_direction_is_no_saddle():
    objective = Quadratic([[1.0, 0.0], [0.0, -1e-4]])
    found = examine(objective, POINT, torch.zeros_like(POINT), torch.eye(2, dtype=torch.float64))
    assert not found.saddle and objective.calls == 2


def test_where_there_is_no_hessian_nothing_is_certified():
    found = examine(Quadratic([[1.0, 0.0], [0.0, 1.0]], known=False), POINT, POINT, torch.eye(2, dtype=torch.float64))
    assert found.gain == math.inf


def test_the_expected_information_gives_the_same_gain():
    information = torch.tensor([[4e4, 1e2], [1e2, 3.0]], dtype=torch.float64)
    slope = information @ POINT
    found = expect(information, slope)
    assert found.gain == pytest.approx(0.5 * float(POINT @ slope), rel=1e-9)
    assert torch.allclose(found.scale @ found.scale.mT, torch.linalg.inv(information))
    assert expect(-information, slope) is None
