"""The autocorrelation time of Markov chains, and how many chains SAEM lets branch from it."""

import pytest
import torch
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.inference.mcmc.autocorrelation import autocorrelation_time
from nlme_torch.inference.saem.step import SAEMAlgorithm
from nlme_torch.model.density.density import Density


def first_order(correlation, length=40, chains=10, subjects=50):
    """Stationary autoregressive draws, another mean and spread for every subject."""
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(length, 1, chains, 1, subjects, generator=generator, dtype=torch.float64)
    draws = [noise[0]]
    for fresh in noise[1:]:
        draws.append(correlation * draws[-1] + (1 - correlation**2) ** 0.5 * fresh)
    scale = torch.linspace(1, 1e3, subjects, dtype=torch.float64)
    return [scale * draw + 7 * scale for draw in draws]


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6])
def test_the_time_of_autoregressive_chains(correlation):
    expected = (1 + correlation) / (1 - correlation)
    assert autocorrelation_time(first_order(correlation)) == pytest.approx(expected, rel=0.1)


def test_the_slowest_effect_counts():
    both = [torch.cat([fast, slow]) for fast, slow in zip(first_order(0.0), first_order(0.6), strict=True)]
    assert autocorrelation_time(both) == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize(("asked", "most"), [(None, 200), (3, 3)])
def test_chains_branch_in_the_middle_of_the_exploration_unless_their_number_is_given(monkeypatch, asked, most):
    frame, _ = simulate_lines(subjects=30, seed=3, sigma=0.25)
    density = Density(Line(), lines_data(frame).batch(), nlme.Tsit5(compile=False))
    counts = []
    original = SAEMAlgorithm.step

    def step(self, state, *arguments, **options):
        counts.append(state.transformed.shape[1])
        return original(self, state, *arguments, **options)

    monkeypatch.setattr(SAEMAlgorithm, "step", step)
    schedule = nlme.StepSchedule(burn_in=2, exploration=20, smoothing=4)
    method = nlme.SAEM(chains=asked, schedule=schedule, certification=nlme.Certification(rounds=0))
    estimation = method.estimate(density, torch.Generator().manual_seed(1), progress=False)
    first = asked or 14
    assert counts[:12] == [first] * 12 and len(set(counts[12:])) == 1
    assert (asked or 800 / 30) <= counts[12] <= most
    assert estimation.draws.shape[1] == counts[12]
