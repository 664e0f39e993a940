"""Minimisations side by side: against known minima and SciPy, with walls and with starts that have no value."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, rosen, rosen_der

from nlme_torch.inference.marginal.several_starts import SeveralValues
from nlme_torch.inference.uncertainty.side_by_side import TRIALS, minimise_side_by_side

DOUBLE = torch.float64


def rosenbrock(vectors, centre, which):
    numbers = vectors.numpy()
    values = torch.tensor([rosen(x) for x in numbers], dtype=DOUBLE)
    return SeveralValues(values, torch.tensor(np.array([rosen_der(x) for x in numbers])), centre)


def centres(starts):
    return torch.zeros(1, starts, 2, dtype=DOUBLE)


def test_every_start_reaches_the_minimum_however_many_there_are():
    starts = torch.tensor([[-1.2, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]], dtype=DOUBLE)
    scale = 0.1 * torch.eye(3, dtype=DOUBLE)
    finished = []
    found = minimise_side_by_side(
        rosenbrock, starts, centres(3), scale, tolerance=1e-7, iterations=200, report=finished.append
    )
    assert found.converged.all() and sum(finished) == 3
    torch.testing.assert_close(found.vectors, torch.ones(3, 3, dtype=DOUBLE), rtol=1e-5, atol=1e-5)
    alone = minimise_side_by_side(rosenbrock, starts[:1], centres(1), scale, tolerance=1e-7, iterations=200)
    torch.testing.assert_close(alone.vectors[0], found.vectors[0], rtol=0, atol=0)
    assert alone.evaluations < 4 * minimize(rosen, starts[0].numpy(), jac=rosen_der, method="BFGS").nfev


def test_a_wall_shortens_the_step_and_a_start_behind_it_fails_alone():
    def walled(vectors, centre, which):
        inside = vectors[:, 0] > 0
        value = torch.where(inside, vectors[:, 0] - vectors[:, 0].abs().log() + vectors[:, 1] ** 2, torch.inf)
        slope = torch.stack([1 - 1 / vectors[:, 0], 2 * vectors[:, 1]], 1)
        return SeveralValues(value, torch.where(inside[:, None], slope, 0.0), centre)

    starts = torch.tensor([[8.0, 3.0], [-1.0, 0.0], [0.01, -2.0]], dtype=DOUBLE)
    found = minimise_side_by_side(walled, starts, centres(3), 5 * torch.eye(2, dtype=DOUBLE), tolerance=1e-6)
    assert found.converged.tolist() == [True, False, True] and found.values[1] == torch.inf
    for start in (0, 2):
        assert found.vectors[start].tolist() == pytest.approx([1.0, 0.0], abs=1e-6)


def test_an_objective_without_a_minimum_is_given_up():
    def falling(vectors, centre, which):
        return SeveralValues(-vectors[:, 0].exp(), -vectors.exp(), centre)

    start, scale = torch.zeros(1, 1, dtype=DOUBLE), torch.eye(1, dtype=DOUBLE)
    assert not minimise_side_by_side(falling, start, centres(1), scale, iterations=5).converged.any()


def test_calls_are_counted_and_a_start_without_a_value_is_asked_once():
    asked = []

    def bowl(vectors, centre, which):
        asked.append(which.tolist())
        value = torch.where(vectors[:, 0] > 50, torch.inf, (vectors**2).sum(1))
        return SeveralValues(value, 2 * vectors, centre)

    starts = torch.tensor([[100.0, 0.0], [3.0, -1.0]], dtype=DOUBLE)
    found = minimise_side_by_side(bowl, starts, centres(2), torch.eye(2, dtype=DOUBLE), tolerance=1e-8)
    assert found.evaluations == len(asked) and asked[0] == [0, 1]
    assert all(which == [1] for which in asked[1:]) and len(asked) < 10
    assert found.converged.tolist() == [False, True] and found.vectors[0].tolist() == [100.0, 0.0]
    assert found.values[1] == pytest.approx(0.0, abs=1e-12)


def test_a_line_search_that_finds_nothing_is_given_up():
    """The gradient points uphill: no step lowers the value, and the trials of one line search end it."""

    def wrong(vectors, centre, which):
        return SeveralValues((vectors**2).sum(1), -2 * vectors, centre)

    start = torch.tensor([[1.0]], dtype=DOUBLE)
    found = minimise_side_by_side(wrong, start, centres(1), torch.eye(1, dtype=DOUBLE))
    assert not found.converged.any() and found.vectors.tolist() == [[1.0]] and found.values.tolist() == [1.0]
    assert TRIALS < found.evaluations <= TRIALS + 2


@pytest.mark.parametrize(
    "weight, begin, lowest, expected",
    [
        (0.01, 0.0, 10.0, [0.0, 0.2, 0.4, 0.8, 1.6]),  # the slope must flatten by a tenth: lengths 1, 2, 4, 8
        (50.0, 1.0, 0.0, [1.0, -99.0, -49.0, -24.0, -11.5, -5.25, -2.125, -0.5625]),  # too long: halved
    ],
)
def test_a_bracket_is_doubled_and_halved(weight, begin, lowest, expected):
    asked = []

    def parabola(vectors, centre, which):
        asked.append(float(vectors[0, 0]))
        return SeveralValues(weight * ((vectors - lowest) ** 2).sum(1), 2 * weight * (vectors - lowest), centre)

    start = torch.tensor([[begin]], dtype=DOUBLE)
    found = minimise_side_by_side(parabola, start, centres(1), torch.eye(1, dtype=DOUBLE), tolerance=1e-9)
    assert asked[: len(expected)] == pytest.approx(expected, abs=1e-12)
    assert float(found.vectors[0, 0]) == pytest.approx(lowest, abs=1e-6)
