"""What a search says of where it ended."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme


class Cliff(nlme.Model):
    """Lines above a level that must be positive; below, the model has no value."""

    def __init__(self, level):
        super().__init__()
        self.slope = nlme.LogNormal(1.0, omega=0.05)
        self.level = nlme.Real(level)
        self.sigma = nlme.Positive(0.3)

    def predict(self, t, p, cov):
        return p.slope * t + p.level + 0.0 * torch.log(p.level)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def lines(level):
    random = np.random.default_rng(1)
    slopes = np.repeat(np.exp(0.2 * random.normal(size=8)), 4)
    times = np.tile([1.0, 2.0, 3.0, 4.0], 8)
    values = level + slopes * times + 0.3 * random.normal(size=32)
    return nlme.Dataset.from_frame(pd.DataFrame({"ID": np.repeat(range(8), 4), "TIME": times, "DV": values}))


def test_a_search_that_ends_at_a_cliff_says_so():
    """The data want a level of -1, but the model has no value below zero."""
    fit = nlme.fit(Cliff(1.0), lines(-1.0), nlme.FOCEI(rescue=None), progress=False)
    assert not fit.converged and float(fit.parameters.estimate["level"]) == pytest.approx(0.0, abs=1e-3)
    assert "just beyond this value of level the model has no value" in fit.termination


def test_a_maximum_next_to_a_cliff_is_found():
    fit = nlme.fit(Cliff(1.0), lines(0.5), nlme.FOCEI(rescue=None), progress=False)
    assert fit.converged and "no value" not in fit.termination
