"""Prediction tables by the formula, row by row, in the user's order."""

import math

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from support.small_models import DOUBLE, number

import nlme_torch as nlme
from nlme_torch.inference.fitting.predictions import prediction_table
from nlme_torch.model.density.density import Density

ETA = number([[0.3, -0.2, 0.1], [-0.1, 0.4, 0.2]])


class Decay(nlme.Model):
    """Two outcomes with different errors: log-normal parameters, so that PRED, IPRED and IWRES are by hand."""

    def __init__(self):
        super().__init__()
        self.a, self.k = nlme.LogNormal(8.0), nlme.LogNormal(0.3)
        self.sigma, self.tau = nlme.Positive(0.25), nlme.Positive(0.5)

    def predict(self, t, p, cov):
        return p.a * torch.exp(-p.k * t)

    def observe(self, t, y, p):
        return {"pk": dist.Normal(y, p.sigma * y), "pd": dist.Normal(2 * y, p.tau)}


class DecayODE(Decay):
    states = ("x",)
    predict = nlme.Model.predict

    def initial(self, p):
        return (p.a,)

    def dynamics(self, t, y, p):
        return (-p.k * y.x,)

    def observe(self, t, y, p):
        return super().observe(t, y.x, p)


def table():
    """Subjects out of order, with text ids, several rows at a time, outcomes interleaved, rows without
    observation between."""
    rows = [
        ("zoe", 0.0, 1, 7.7),
        ("zoe", 0.0, 2, 16.1),
        ("zoe", 2.0, 2, 8.0),
        ("zoe", 3.0, 1, None),
        ("zoe", 5.0, 1, 2.0),
        ("10", 0.0, 1, 5.0),
        ("9", 0.0, 2, 11.0),
        ("9", 0.0, 1, 6.0),
        ("9", 4.0, 1, 2.5),
    ]
    frame = pd.DataFrame(rows, columns=["ID", "TIME", "DVID", "DV"])
    return frame.assign(MDV=frame.DV.isna().astype(int))


def dataset(frame):
    return nlme.Dataset.from_frame(frame, outputs={"pk": 1, "pd": 2})


def by_hand(frame, ids):
    frame = frame[frame.MDV == 0].copy()
    column = frame.ID.map({label: index for index, label in enumerate(ids)}).to_numpy()
    factor, sd = np.where(frame.DVID == 1, 1.0, 2.0), frame.DVID.map({1: 0.25, 2: 0.5}).to_numpy()
    pred = 8 * np.exp(-0.3 * frame.TIME)
    curve = 8 * np.exp(ETA[0].numpy()[column]) * np.exp(-0.3 * np.exp(ETA[1].numpy()[column]) * frame.TIME)
    sd = np.where(frame.DVID == 1, sd * curve, sd)
    result = pd.DataFrame(
        {
            "row": frame.index,
            "id": frame.ID,
            "time": frame.TIME,
            "outcome": frame.DVID.map({1: "pk", 2: "pd"}),
            "DV": frame.DV,
            "PRED": factor * pred,
            "IPRED": factor * curve,
        }
    )
    return result.assign(
        RES=result.DV - result.PRED, IRES=result.DV - result.IPRED, IWRES=(result.DV - result.IPRED) / sd
    ).reset_index(drop=True)


@pytest.mark.parametrize("model", [Decay, DecayODE])
def test_every_row_by_the_formula_in_the_users_order(model):
    data = dataset(table())
    solver = nlme.Tsit5(rtol=1e-11, atol=1e-12, compile=False)
    found = prediction_table(Density(model(), data.batch(), solver), data, ETA)
    pd.testing.assert_frame_equal(found, by_hand(table(), data.subjects), rtol=1e-8, check_dtype=False)
    assert found.row.tolist() == [0, 1, 2, 4, 5, 6, 7, 8], "the row without observation is left out"


def test_shuffled_subjects_get_the_same_numbers():
    frame = table()
    shuffled = pd.concat([frame[label == frame.ID] for label in ("9", "zoe", "10")], ignore_index=True)
    one, two = dataset(frame), dataset(shuffled)
    order = [one.subjects.index(label) for label in two.subjects]
    first = prediction_table(Density(Decay(), one.batch(), nlme.Tsit5()), one, ETA)
    second = prediction_table(Density(Decay(), two.batch(), nlme.Tsit5()), two, ETA[:, order])
    keys = ["id", "time", "outcome"]
    left, right = (found.drop(columns="row").set_index(keys).sort_index() for found in (first, second))
    pd.testing.assert_frame_equal(left, right)
    assert second.id.tolist() == shuffled[shuffled.MDV == 0].ID.tolist()


def test_a_subject_that_cannot_be_solved_has_no_prediction():
    """Never a number that was not computed."""

    class Explosive(nlme.Model):
        states = ("x",)

        def __init__(self):
            super().__init__()
            self.g, self.sigma = nlme.LogNormal(0.1), nlme.Positive(0.5)

        def initial(self, p):
            return (1.0,)

        def dynamics(self, t, y, p):
            return (p.g * y.x**2,)

        def observe(self, t, y, p):
            return {"DV": dist.Normal(y.x, p.sigma)}

    data = nlme.Dataset.from_frame(pd.DataFrame({"ID": [1, 1, 2, 2], "TIME": [0.0, 2.0] * 2, "DV": [1.0] * 4}))
    density = Density(Explosive(), data.batch(), nlme.Tsit5(compile=False))
    found = prediction_table(density, data, number([[5.0, 0.0]]))
    assert found.IPRED.isna().tolist() == [True, True, False, False] and found.IWRES.isna().tolist() == [
        True,
        True,
        False,
        False,
    ]
    assert found.PRED.notna().all()


# ------------------------------------------------------------------ fit.predict


@pytest.fixture(scope="module")
def fit():
    method = nlme.SAEM(schedule=nlme.StepSchedule(exploration=8, smoothing=5))
    return nlme.fit(Decay(), dataset(table()), method, progress=False, likelihood=nlme.Laplace())


def curve(fit, label, times):
    eta, typical = fit.eta.loc[label], fit.parameters.estimate
    return typical.a * np.exp(eta.eta_a) * np.exp(-typical.k * np.exp(eta.eta_k) * np.asarray(times))


def test_new_times_for_all_subjects(fit):
    times = [0.0, 0.25, 2.0, 7.5]
    found = fit.predict([t for t in times if t >= 1.0])
    assert list(found.columns) == ["id", "time", "outcome", "PRED", "IPRED"]
    assert len(found) == 3 * 2 * 2
    for (label, outcome), part in found.groupby(["id", "outcome"]):
        factor = 1 if outcome == "pk" else 2
        np.testing.assert_allclose(part.IPRED, factor * curve(fit, label, part.time), rtol=1e-9)
        typical = factor * fit.parameters.estimate.a * np.exp(-fit.parameters.estimate.k * part.time)
        np.testing.assert_allclose(part.PRED, typical, rtol=1e-9)


def test_at_observed_times_prediction_equals_ipred(fit):
    observed = fit.predictions
    times = {label: sorted(set(part.time)) for label, part in observed.groupby("id")}
    found = fit.predict(times).set_index(["id", "time", "outcome"])
    for row in observed.itertuples():
        assert pytest.approx(row.IPRED, rel=1e-12) == found.loc[(row.id, row.time, row.outcome)].IPRED
        assert pytest.approx(row.PRED, rel=1e-12) == found.loc[(row.id, row.time, row.outcome)].PRED


def test_times_by_subject(fit):
    found = fit.predict({"zoe": [1.0, 9.0], "9": [6.0]})
    assert sorted(set(zip(found.id, found.time, strict=True))) == [("9", 6.0), ("zoe", 1.0), ("zoe", 9.0)]
    with pytest.raises(nlme.DataError, match="adam"):
        fit.predict({"adam": [1.0]})


def test_prediction_does_not_disturb_the_fit(fit):
    before = fit.predictions.copy()
    fit.predict([9.0])
    pd.testing.assert_frame_equal(fit.predictions, before)
    assert fit.data.n_rows == 9 and math.isclose(fit.predictions.DV.sum(), table().DV.sum())
    assert fit.predictions.DV.dtype == DOUBLE.__str__().removeprefix("torch.")
