"""Noise of known size, added to a smooth function."""

import pytest
import torch

from nlme_torch.inference.optimise.noise import noise


class Noisy:
    """Half the square of x, plus noise."""

    def __init__(self, value, slope):
        self.generator, self.value, self.slope = torch.Generator().manual_seed(2), value, slope

    def more(self, shape):
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def several(self, vectors):
        return 700 + 0.5 * vectors.square().sum(1) + self.value * self.more(len(vectors))

    def slopes(self, vectors):
        return vectors + self.slope * self.more(vectors.shape)


@pytest.mark.parametrize("size", [1e-7, 1e-3])
def test_the_noise_of_values_and_gradients_is_measured(size):
    point, scale = torch.full((5,), 0.4, dtype=torch.float64), torch.eye(5, dtype=torch.float64)
    found = noise(Noisy(size, 3 * size), point, scale)
    assert found.value == pytest.approx(size, rel=0.7)
    assert found.gain == pytest.approx(0.5 * 5 * (3 * size) ** 2, rel=0.7)


def test_a_smooth_function_has_only_rounding():
    point, scale = torch.full((5,), 0.4, dtype=torch.float64), torch.eye(5, dtype=torch.float64)
    found = noise(Noisy(0.0, 0.0), point, scale)
    assert found.value < 1e-11 and found.gain < 1e-25
