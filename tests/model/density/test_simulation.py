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
    class Bounded(PKPD):
        def observe(self, t, y, p):
            return {"DV": nlme.observation.Truncated(dist.StudentT(4.0, p.k * t, 1.0), lower=-1.0)}

    with pytest.raises(nlme.ModelError, match="Truncated cannot be drawn"):
        nlme.simulate(Bounded(), design(2), seed=1)
    with pytest.raises(nlme.DataError, match="outcome 'DV' has 3 values for the 6 rows"):
        with_outcomes(design(2), {"DV": np.zeros(3)})
    with pytest.raises(nlme.DataError, match="name of another column"):
        with_outcomes(design(2), {"x": np.zeros(6)})


class Weibull(nlme.Model):
    """Hazard k/l (t/l)^(k-1), integrated as a state; a marker is measured beside it."""

    states = ("hazard",)

    def __init__(self, shape, kind, marker=False, omega=None):
        super().__init__()
        self.scale = nlme.LogNormal(4.0, omega=omega) if omega else nlme.Positive(4.0)
        self.shape, self.kind, self.marker = shape, kind, marker

    def initial(self, p):
        return (0.0,)

    def rate(self, t, p):
        return self.shape / p.scale * (t.clamp(min=1e-30) / p.scale) ** (self.shape - 1)

    def dynamics(self, t, y, p):
        return (self.rate(t, p),)

    def observe(self, t, y, p):
        event = nlme.observation.TimeToEvent(self.rate(t, p), y.hazard) if self.kind == "exact" else None
        found = {"event": event or nlme.observation.IntervalCensoredEvent(y.hazard)}
        return {**found, "marker": dist.Normal(y.hazard, 1e-9)} if self.marker else found


def followed(subjects, times, **columns):
    frame = pd.DataFrame({"ID": np.repeat(np.arange(subjects), len(times)), "TIME": np.tile(times, subjects)})
    return nlme.Dataset.from_frame(frame.assign(event=0.0, **columns), outputs=["event", *columns])


@pytest.mark.parametrize(("shape", "times"), [(1.0, [8.0]), (2.5, [2.0, 5.0, 8.0])])
def test_simulated_events_have_the_distribution_of_the_hazard(shape, times):
    data = nlme.simulate(Weibull(shape, "exact"), followed(2000, times), seed=1)
    frame = data.frame.dropna(subset="event")
    last = frame.groupby("ID").tail(1)
    law = stats.weibull_min(shape, scale=4.0)
    happened = last[last.event == 1].TIME
    assert (last[last.event == 0].TIME == 8.0).all() and (frame.drop(last.index).event == 0).all()
    assert stats.binomtest(len(happened), 2000, law.cdf(8.0)).pvalue > 1e-3
    assert stats.kstest(happened, lambda t: law.cdf(t) / law.cdf(8.0)).pvalue > 1e-3
    assert set(frame.drop(last.index).TIME) <= set(times)
    assert len(frame.TIME.unique()) > 1000


def test_events_of_intervals_happen_in_the_interval_and_end_it():
    data = nlme.simulate(Weibull(2.0, "interval"), followed(3000, [2.0, 3.0, 6.0]), seed=2)
    seen = data.frame.event.to_numpy().reshape(-1, 3)
    rise = np.diff((np.array([0.0, 2.0, 3.0, 6.0]) / 4.0) ** 2)
    expected = 3000 * np.array([*(np.exp(-np.cumsum([0, *rise[:-1]])) * -np.expm1(-rise)), np.exp(-rise.sum())])
    counts = [np.sum(seen[:, k] == 1) for k in range(3)] + [np.sum((seen == 0).all(1))]
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    after = np.cumsum(np.nan_to_num(seen), 1) - np.nan_to_num(seen) > 0
    assert (np.isnan(seen) == after).all()


def test_a_marker_is_drawn_in_its_own_rows_beside_events():
    design = followed(50, [2.0, 5.0, 8.0], marker=1.0)
    data = nlme.simulate(Weibull(1.0, "exact", marker=True, omega=0.1), design, seed=3)
    frame = data.frame
    assert frame.marker.notna().sum() == 150 and set(frame.TIME[frame.marker.notna()]) == {2.0, 5.0, 8.0}
    ratio = frame.marker / frame.TIME  # the hazard of each subject, constant
    np.testing.assert_allclose(ratio.groupby(frame.ID).transform("max"), ratio.groupby(frame.ID).transform("min"), 1e-4)
    assert frame.event[frame.marker.isna()].eq(1).all()


def test_events_that_begin_anew_are_not_drawn():
    frame = pd.DataFrame({"ID": 1, "TIME": [1.0, 2.0, 3.0], "EVID": [0, 3, 0], "event": [0.0, np.nan, 0.0]})
    with pytest.raises(nlme.ModelError, match="begin anew"):
        nlme.simulate(Weibull(1.0, "exact"), nlme.Dataset.from_frame(frame, outputs=["event"]), seed=1)
