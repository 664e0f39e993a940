"""Simulated observations: their distribution, their place in the table, and what cannot be simulated."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from support.small_models import DOUBLE, Line

import nlme_torch as nlme
from nlme_torch.data import with_outcomes

TIMES = [0.0, 1.0, 3.0]


def design(subjects=4000):
    frame = pd.DataFrame({"ID": np.repeat(np.arange(subjects), 3), "TIME": np.tile(TIMES, subjects), "DV": 0.0})
    return nlme.Dataset.from_frame(frame.assign(x=np.repeat(np.linspace(-1, 1, subjects), 3)), covariates=["x"])


class PKPD(nlme.Model):
    states = ("central",)

    def __init__(self):
        super().__init__()
        self.k = nlme.LogNormal(0.3, omega=0.1)
        self.sigma = nlme.Positive(0.1)

    def dynamics(self, t, y, p):
        return (-p.k * y.central,)

    def observe(self, t, y, p):
        return {"PK": dist.Normal(y.central, p.sigma), "PD": dist.Poisson(1.0 + 20.0 * y.central)}


def test_simulated_lines_have_the_exact_marginal_distribution():
    data = nlme.simulate(Line(full=True), design(), seed=3)
    y = data.frame.DV.to_numpy().reshape(-1, 3)
    times = np.array(TIMES)
    covariance = 1.0 + np.outer(times, times) + np.eye(3)  # omega 1 and 1, uncorrelated; sigma 1
    distance = np.einsum("ni,ij,nj->n", y - 1.0, np.linalg.inv(covariance), y - 1.0)
    assert stats.kstest(distance, stats.chi2(3).cdf).pvalue > 1e-3
    assert data.frame.x.equals(design().frame.x)


def test_given_effects_are_used_and_the_seed_decides():
    model, eta = (
        Line(sigma=nlme.Fixed(1e-9)),
        torch.randn(2, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)),
    )
    found = nlme.simulate(model, design(5), seed=1, eta=eta).frame
    expected = 1.0 + eta.numpy()[0, found.ID] + eta.numpy()[1, found.ID] * found.TIME.to_numpy(copy=True)
    np.testing.assert_allclose(found.DV, expected, atol=1e-7)
    one, same, other = (nlme.simulate(Line(), design(5), seed=seed).frame.DV for seed in (1, 1, 2))
    assert one.equals(same) and not one.equals(other)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    nlme.simulate(Line(), design(3), seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_a_regimen_becomes_a_table_that_can_be_fitted():
    regimen = nlme.Regimen(10.0, every=12.0, additional=1)
    plan = nlme.Dataset.from_regimen(regimen, [1.0, 12.0, 20.0], subjects=3, outputs=["PK", "PD"])
    data = nlme.simulate(PKPD(), plan, seed=1)
    batch = data.batch()
    assert {name: outcome.n_observations for name, outcome in batch.outcomes.items()} == {"PK": 9, "PD": 9}
    frame = data.frame
    assert (frame[frame.EVID == 1][["PK", "PD"]].isna()).all(axis=None) and (frame.PD.dropna() % 1 == 0).all()
    individual = frame[(frame.ID == 1) & (frame.EVID == 0)].PK.to_numpy()
    assert individual[1] > individual[2] and individual[1] > 10, "the second dose came at 12 h, before the sample"
    fit = nlme.fit(PKPD(), data, nlme.Pooled(3), progress=False)
    assert len(fit.predictions) == 18


def test_outcomes_by_dvid_become_columns_and_unobserved_rows_stay_so():
    frame = pd.DataFrame(
        {
            "ID": [1, 1, 1, 2, 2], "TIME": [0.0, 1.0, 1.0, 0.5, 2.0], "DV": [0.0, 1.0, 2.0, 1.0, 3.0],
            "DVID": ["PK", "PK", "PD", "PD", "PK"], "MDV": [1, 0, 0, 0, 0],
        }
    )  # fmt: skip
    data = nlme.simulate(PKPD(), nlme.Dataset.from_frame(frame), seed=1)
    assert data.frame.PK.notna().tolist() == [False, True, False, False, True]
    assert data.frame.PD.notna().tolist() == [False, False, True, True, False]
    assert not {"DV", "DVID"} & set(data.frame)


def test_what_cannot_be_drawn_says_so():
    class Event(PKPD):
        def observe(self, t, y, p):
            return {"DV": nlme.observation.TimeToEvent(p.k + 0 * t, p.k * t)}

    with pytest.raises(nlme.ModelError, match="TimeToEvent cannot be drawn"):
        nlme.simulate(Event(), design(2), seed=1)
    with pytest.raises(nlme.DataError, match="outcome 'DV' has 3 values for the 6 rows"):
        with_outcomes(design(2), {"DV": np.zeros(3)})
    with pytest.raises(nlme.DataError, match="name of another column"):
        with_outcomes(design(2), {"x": np.zeros(6)})
