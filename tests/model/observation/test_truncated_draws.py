"""Draws of a truncated outcome have its distribution."""

import pytest
import torch
from scipy import stats

import nlme_torch as nlme


@pytest.mark.parametrize("location", [1.0, -0.5, -9.0])
def test_draws_of_a_truncated_normal_follow_it(location):
    base = torch.distributions.Normal(torch.tensor(location, dtype=torch.float64), 0.8)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch.Generator().manual_seed(3).get_state())
        drawn = nlme.observation.Truncated(base).sample((2000,))
    law = stats.truncnorm((0 - location) / 0.8, float("inf"), location, 0.8)
    assert drawn.min() >= 0 and stats.kstest(drawn.numpy(), law.cdf).pvalue > 0.01


def test_draws_of_a_truncated_log_normal_follow_it():
    base = torch.distributions.LogNormal(torch.zeros((), dtype=torch.float64), 0.5)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch.Generator().manual_seed(3).get_state())
        drawn = nlme.observation.Truncated(base, 1.5).sample((2000,))
    law = stats.lognorm(0.5)

    def cdf(y):
        return (law.cdf(y) - law.cdf(1.5)) / law.sf(1.5)

    assert drawn.min() >= 1.5 and stats.kstest(drawn.numpy(), cdf).pvalue > 0.01
    with pytest.raises(NotImplementedError):
        nlme.observation.Truncated(torch.distributions.StudentT(4.0)).sample()
