"""Scaled complementary error functions and matrix exponentials of compiled programs, against SciPy and 30 digits."""

import numpy as np
import pytest
from scipy import special
from scipy.linalg import expm
from support.compiled_functions import erfcx, transitions
from support.linear_cases import exact_response, exact_transition

from nlme_torch.solve.kernel.build import compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")

ORAL = np.array([[-1.5, 0, 0, 0], [1.5, -0.9, 0.2, 0.05], [0, 0.4, -0.2, 0], [0, 0.3, 0, -0.05]])
STIFF = np.array([[-1e6, 0, 0, 0], [1e6, -0.9, 0.2, 0.05], [0, 0.4, -0.2, 0], [0, 0.3, 0, -0.05]])
ROTATING = np.array([[0.0, 40.0], [-40.0, -0.1]])
CLOSE = np.array([[-1.0, 0.0], [1.0, -1.0 - 1e-9]])


def test_scaled_complementary_error_function():
    x = np.concatenate([np.linspace(-20, 6, 2001), [1.9999999999, 2.0, 2.0000000001], np.geomspace(6, 1e6, 500)])
    found, expected = erfcx(x), special.erfcx(x)
    # exp(x^2) of a rounded x^2 is off by x^2 roundings
    np.testing.assert_array_less(np.abs(found / expected - 1), 4e-16 * (4 + np.where(x < 2, x * x, 0)))
    assert np.isposinf(erfcx([-30.0, -27.0])).all() and np.isnan(erfcx([np.nan])).all()


@pytest.mark.parametrize(
    ("matrix", "time", "rtol"),
    [
        (ORAL, 3.0, 1e-13), (ORAL, 1e-9, 1e-13), (ORAL, 400.0, 1e-12), (ROTATING, 2.5, 1e-12), (CLOSE, 2.0, 1e-13),
        (STIFF, 1.0, 1e-11), (STIFF, 1e3, 1e-11), (np.zeros((2, 2)), 5.0, 0.0),
    ],
    ids=["oral", "at once", "late", "rotating", "close", "stiff", "stiff and late", "nothing"],
)  # fmt: skip
def test_exponential_and_integral_with_thirty_digits(matrix, time, rtol):
    found, integral = transitions([matrix], [time], True)
    alone, _ = transitions([matrix], [time], False)
    exact, response = exact_transition(matrix, time), exact_response(matrix, time)
    for result, expected in ((found[0], exact), (alone[0], exact), (integral[0], response)):
        np.testing.assert_allclose(result, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


def test_decayed_amounts_keep_their_digits():
    """A concentration that has fallen to 1e-22 has a logarithm too."""
    matrix = np.array([[-1.0, 0.0], [0.3, -0.5]])
    found, _ = transitions([matrix], [50.0], False)
    exact = exact_transition(matrix, 50.0)
    assert exact[0, 0] < 1e-21
    np.testing.assert_allclose(found[0], exact, rtol=1e-12)


def test_random_matrices_are_those_of_scipy():
    rng = np.random.default_rng(0)
    for scale in (1e-3, 0.3, 3.0):
        matrices = list(scale * rng.normal(size=(4, 4, 4)))
        found, _ = transitions(matrices, [1.0] * 4, False)
        np.testing.assert_allclose(found, [expm(matrix) for matrix in matrices], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("neighbour", [STIFF, 1e40 * ORAL, np.full((4, 4), np.inf), np.full((4, 4), np.nan)], ids=str)
def test_a_lane_does_not_feel_its_neighbours(neighbour):
    alone = transitions([ORAL], [2.0], True)
    beside = transitions([ORAL, neighbour, ORAL], [2.0, 1.0, 2.0], True)
    for one, several in zip(alone, beside, strict=True):
        assert (several[0] == one[0]).all() and (several[2] == one[0]).all()


def test_lanes_that_are_not_asked_for_stay():
    found, integral = transitions([ORAL, ORAL], [1.0, -1.0], True)
    assert (found[1] == -7.0).all() and (integral[1] == -7.0).all() and (found[0] != -7.0).all()
