"""Where subjects begin: a hazard from time 0, a growth curve from where the data say."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.model.density.density import Density
from nlme_torch.solve import Auto


class Hazard(nlme.Model):
    """A Weibull hazard, integrated as a state."""

    states = ("cumulative",)

    def __init__(self):
        super().__init__()
        self.scale = nlme.LogNormal(20.0, omega=0.1)
        self.shape = nlme.Positive(1.5)

    def hazard(self, t, p):
        return p.shape / p.scale * ((t + 1e-12) / p.scale) ** (p.shape - 1)

    def dynamics(self, t, y, p):
        return (self.hazard(t, p),)

    def observe(self, t, y, p):
        return {"DV": nlme.observation.TimeToEvent(self.hazard(t, p), y.cumulative)}


class Intervals(Hazard):
    def observe(self, t, y, p):
        return {"DV": nlme.observation.IntervalCensoredEvent(y.cumulative)}


class Growth(nlme.Model):
    """Exponential growth from 1."""

    states = ("size",)

    def __init__(self):
        super().__init__()
        self.rate, self.sigma = nlme.LogNormal(0.2, omega=0.1), nlme.Positive(0.1)

    def initial(self, p):
        return (1.0,)

    def dynamics(self, t, y, p):
        return (p.rate * y.size,)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.size, p.sigma)}


ONE_ROW = pd.DataFrame({"ID": [1, 2, 3], "TIME": [5.0, 12.0, 30.0], "DV": [1, 0, 1]})


def log_likelihood(model, data):
    density = Density(model, data.batch(), Auto())
    return (
        density.at().log_likelihood(torch.zeros(1, 1, 1, data.n_subjects, dtype=torch.float64))[0, 0].detach().numpy()
    )


def weibull(time, event, entry=0.0):
    total = (time / 20) ** 1.5 - (entry / 20) ** 1.5
    return event * np.log(1.5 / 20 * (time / 20) ** 0.5) - total


def test_a_hazard_is_integrated_from_zero_in_a_table_of_one_row_for_each_subject():
    expected = weibull(ONE_ROW.TIME.to_numpy(), ONE_ROW.DV.to_numpy())
    for data in (nlme.Dataset.from_frame(ONE_ROW), nlme.Dataset.from_frame(ONE_ROW, start=0.0)):
        np.testing.assert_allclose(log_likelihood(Hazard(), data), expected, rtol=1e-6)
    late = nlme.Dataset.from_frame(ONE_ROW, start=4.0)
    np.testing.assert_allclose(
        log_likelihood(Hazard(), late), weibull(ONE_ROW.TIME.to_numpy(), ONE_ROW.DV.to_numpy(), 4.0), rtol=1e-6
    )


def test_the_same_with_rows_at_zero_and_for_intervals():
    begun = pd.concat([ONE_ROW, ONE_ROW.assign(TIME=0.0, DV=0)]).sort_values(["ID", "TIME"])
    np.testing.assert_allclose(
        log_likelihood(Hazard(), nlme.Dataset.from_frame(begun)),
        log_likelihood(Hazard(), nlme.Dataset.from_frame(ONE_ROW)),
        rtol=1e-6,
    )
    survived = np.exp(-((ONE_ROW.TIME / 20) ** 1.5))
    expected = np.log(np.where(ONE_ROW.DV == 1, 1 - survived, survived))
    np.testing.assert_allclose(log_likelihood(Intervals(), nlme.Dataset.from_frame(ONE_ROW)), expected, rtol=1e-5)


@pytest.mark.parametrize("model", [Hazard, Intervals])
def test_a_hazard_over_no_time_is_refused(model):
    frame = ONE_ROW.assign(TIME=[5.0, 0.0, 30.0], DV=1)
    for data in (nlme.Dataset.from_frame(frame), nlme.Dataset.from_frame(frame.assign(TIME=5.0), start=5.0)):
        with pytest.raises(nlme.ModelError, match=r"outcome 'DV' of subject . stands at time . *.*start=0.0"):
            log_likelihood(model(), data)


def test_fits_and_predictions_begin_there():
    rng = np.random.default_rng(1)
    times = 20 * rng.weibull(1.5, 40)
    frame = pd.DataFrame({"ID": np.arange(40), "TIME": np.minimum(times, 30.0), "DV": (times < 30) * 1.0})
    data = nlme.Dataset.from_frame(frame)
    fit = nlme.fit(Hazard(), data, nlme.Laplace(), progress=False)
    assert 12 < fit.parameters.loc["scale", "estimate"] < 30
    assert np.isfinite(nlme.held_out(fit, data, nlme.Laplace()).minus2ll)
    assert fit.predictions["row"].tolist() == list(range(40))


def test_growth_starts_where_the_data_say():
    frame = pd.DataFrame({"ID": [1, 1, 2], "TIME": [3.0, 6.0, 1.0], "DV": [1.8, 3.3, 1.2]})
    rate = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    expected = {None: [[0.0, 3.0], [0.0]], 0.0: [[3.0, 6.0], [1.0]], 2.0: [[1.0, 4.0], [0.0]]}
    for start, elapsed in expected.items():
        data = nlme.Dataset.from_frame(frame, start=start)
        density = Density(Growth(), data.batch(), Auto())
        observed, _ = density.at().observe(rate)
        mask = data.batch().outcomes["DV"].mask
        found = observed["DV"].mean[:, 0, 0].T[mask.T].detach().numpy()
        np.testing.assert_allclose(found, np.exp(0.2 * np.concatenate(elapsed)), rtol=1e-6)
    assert "subjects begin at 2" in str(Growth().summary(data))
    drawn = nlme.simulate(Growth(), data, seed=1)
    assert drawn.start == 2.0 and drawn.n_observations == 3
