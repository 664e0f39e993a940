"""Which of several starts is kept, where Laplace's approximation does not tell them apart."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from support.small_models import number

import nlme_torch as nlme
from nlme_torch.inference.modes.starts import laplace_of_starts
from nlme_torch.inference.saem.best_start import annealed_of_starts, best_start
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density

SUBJECTS, SIGMA = 8, 0.5


class Square(nlme.Model):
    """Nine effects; the square of the first is seen, so that its sign is not known where its mean is near zero."""

    def __init__(self):
        super().__init__()
        for name in "abcdefghi":
            setattr(self, name, nlme.Normal(0.0, omega=1.0))

    def predict(self, t, p, cov):
        idle = sum(getattr(p, name) for name in "bcdefghi")
        return p.a**2 + 0.0 * idle * t

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, SIGMA)}


@pytest.fixture(scope="module")
def several():
    observed = np.linspace(1.0, 4.0, SUBJECTS)
    frame = pd.DataFrame({"ID": range(SUBJECTS), "TIME": 1.0, "DV": observed})
    model = Square()
    density = Density(model, nlme.Dataset.from_frame(frame).batch(), nlme.Auto())
    values = {name: value.clone() for name, value in parameter_values(model, starts=2).items()}
    values["a.typical"] = number([0.3, 1.9])
    # the integral over the first effect by brute force; the others integrate to one
    grid = np.linspace(-12.0, 12.0, 200_001)
    step = grid[1] - grid[0]
    exact = []
    for mean in (0.3, 1.9):
        log_prior = -0.5 * grid**2 - 0.5 * np.log(2 * np.pi)
        z = (observed[:, None] - (mean + grid) ** 2) / SIGMA
        log_data = -0.5 * z**2 - np.log(SIGMA) - 0.5 * np.log(2 * np.pi)
        exact.append(np.log(np.exp(log_prior + log_data).sum(-1) * step).sum())
    conditional = density.at(values)
    phi = conditional.sample(4, torch.Generator().manual_seed(0)) + conditional.mean[:, None]
    return density, values, phi, exact


def test_annealing_knows_both_humps_of_every_start(several):
    density, values, phi, exact = several
    laplace = laplace_of_starts(density, values, phi)
    assert abs(float(laplace[0]) - exact[0]) > 2  # one hump of two
    found = annealed_of_starts(density, values, laplace, torch.Generator().manual_seed(1))
    assert found.tolist() == pytest.approx(exact, abs=0.3)


def test_with_many_effects_draws_choose(several):
    density, values, phi, exact = several
    best, words = best_start(density, values, phi, torch.Generator().manual_seed(1))
    assert best == int(np.argmax(exact))
    assert words.startswith("by annealed log-likelihood (")


def test_a_start_without_a_likelihood_comes_last(several):
    density, values, phi, _ = several
    values = {**values, "a.typical": number([1e200, 1.9])}
    best, _ = best_start(density, values, phi, torch.Generator().manual_seed(1))
    assert best == 1
