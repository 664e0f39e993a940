"""Counter-based random numbers of compiled programs: published vectors, distributions, and who draws what."""

import numpy as np
import pytest
from scipy import stats
from support.compiled_functions import philox_words, random_numbers

from nlme_torch.solve.kernel.build import compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")

ONES = 0xFFFFFFFF
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
"""Philox4x32-10: Salmon, Moraes, Dror and Shaw (2011), known answers of Random123."""


@pytest.mark.parametrize(("counter", "key", "words"), VECTORS, ids=["zeros", "ones", "pi"])
def test_known_answers_in_every_lane(counter, key, words):
    found = philox_words(counter, key)
    assert (found == np.array(words, dtype=np.uint32)).all()


def draw(count=100_000, key=0x0123456789ABCDEF, step=3, number=5):
    index = np.arange(count)
    return random_numbers(key, index % 250, index // 250, step, number)


def test_uniform_numbers_are_uniform_and_normal_ones_normal():
    first, second, x, y = draw()
    for uniform in (first, second):
        assert (uniform > 0).all() and (uniform < 1).all() and len(np.unique(uniform)) == len(uniform)
        assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    for normal in (x, y):
        assert np.isfinite(normal).all() and stats.kstest(normal, "norm").pvalue > 1e-3
    # tails, where a Box-Muller transform with too few bits fails first
    assert stats.kstest(x**2 + y**2, "chi2", args=(2,)).pvalue > 1e-3
    assert np.abs(np.concatenate([x, y])).max() > 4.0


def test_numbers_of_a_pair_of_neighbours_and_of_others_are_uncorrelated():
    first, second, x, y = draw()
    others = [
        (first, second), (x, y), (x[:-1], x[1:]), (x, draw(step=4)[2]), (x, draw(number=6)[2]), (x, draw(key=7)[2])
    ]  # fmt: skip
    for one, other in others:
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(len(one))


def test_normal_numbers_are_those_of_the_uniform_ones():
    first, second, x, y = draw(1000)
    radius, angle = np.sqrt(-2 * np.log(first)), 2 * np.pi * second
    np.testing.assert_allclose(x, radius * np.cos(angle), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(y, radius * np.sin(angle), rtol=1e-12, atol=1e-12)


def test_a_number_depends_on_who_draws_it_and_not_on_the_neighbours():
    subjects, chains = np.array([7, 1, 3, 3, 9, ONES, 0]), np.array([0, 0, 1, 2, 0, ONES, 5])
    together = random_numbers(11, subjects, chains, 2, 1)
    for index in range(len(subjects)):
        alone = random_numbers(11, subjects[[index]], chains[[index]], 2, 1)
        assert (alone[:, 0] == together[:, index]).all()
    assert len(np.unique(together)) == together.size
