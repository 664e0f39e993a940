"""The one table: its rows, its columns, and what it says of outcomes that are not continuous."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy import special, stats
from support.fitted_models import made_fit, quick_fit, shared_fit
from support.phenobarbital_reference import nonmem_fit

import nlme_torch as nlme


def test_every_row_of_the_users_table_is_there_in_its_order_with_doses_and_covariates():
    fit = nonmem_fit()
    table, frame = fit.table(simulations=20), fit.data.frame
    assert list(table["row"]) == list(range(len(frame)))
    for column in ("ID", "TIME", "AMT", "EVID", "WT", "APGR"):
        np.testing.assert_array_equal(table[column], frame[column])
    seen = frame["MDV"] == 0
    np.testing.assert_array_equal(table["DV"], frame["DV"].where(seen))
    assert table.loc[~seen, ["RES", "CWRES", "NPDE", "CPRED"]].isna().all(axis=None)
    assert table["PRED"].notna().all() and table["IPRED"].notna().all()
    predicted = fit.predictions
    for column in ("PRED", "IPRED", "RES", "IRES", "IWRES"):
        np.testing.assert_allclose(table.loc[seen, column], predicted[column], rtol=1e-12)
    by_subject = table.groupby("ID")[["eta_cl", "eta_v", "cl", "v"]].first()
    np.testing.assert_array_equal(by_subject[["eta_cl", "eta_v"]], fit.eta)
    np.testing.assert_array_equal(by_subject[["cl", "v"]], fit.individual_parameters[["cl", "v"]])
    assert table.attrs["absent"] == {}


def test_several_outcomes_stand_below_each_other():
    fit = shared_fit()
    table = fit.table(simulations=30)
    assert len(table) == 3 * 132 and list(table["row"]) == list(np.repeat(np.arange(132), 3))
    assert list(table["OUTCOME"][:3]) == ["conc", "effect", "count"]
    assert set(table["sex"]) == {"female", "male"}
    count = table[table["OUTCOME"] == "count"]
    mean, y = count["IPRED"], count["DV"]
    np.testing.assert_allclose(count["PEARSON"], (y - mean) / np.sqrt(mean), rtol=1e-9)
    deviance = 2 * (special.xlogy(y, y / mean) - (y - mean))
    np.testing.assert_allclose(count["DEVIANCE"], np.sign(y - mean) * np.sqrt(deviance), rtol=1e-6)
    assert count["CWRES"].isna().all() and table[table["OUTCOME"] == "conc"]["PEARSON"].isna().all()
    assert "Pearson" in table.attrs["absent"]["CWRES"]["count"]


def test_times_that_start_again_and_rows_of_several_occasions():
    frame = pd.DataFrame(
        {
            "ID": [1] * 6,
            "TIME": [0.0, 1.0, 2.0, 0.0, 1.0, 2.0],
            "AMT": [10.0, 0.0, 0.0, 10.0, 0.0, 0.0],
            "EVID": [1, 0, 0, 4, 0, 0],
            "DV": [np.nan, 1.0, 0.8, np.nan, 1.2, 0.7],
            "OCC": [1, 1, 1, 2, 2, 2],
        }
    )

    class Bolus(nlme.Model):
        states = ("central",)

        def __init__(self):
            super().__init__()
            self.cl = nlme.LogNormal(3.0, omega=0.1, occasions=nlme.Occasions(2, omega=0.1))
            self.sigma = nlme.Positive(0.1)

        def dynamics(self, t, y, p):
            return (-p.cl / 10 * y.central,)

        def observe(self, t, y, p):
            return {"DV": dist.Normal(y.central / 10, p.sigma)}

    data = nlme.Dataset.from_frame(frame, occasion="OCC")
    table = made_fit(Bolus(), data).table(simulations=50)
    np.testing.assert_array_equal(table["TIME"], frame["TIME"])
    np.testing.assert_array_equal(table["EVID"], frame["EVID"])
    assert table["cl"].nunique() == 2 and table["CWRES"].notna().sum() == 4
    assert len(table.filter(like="eta_cl").columns) == 1 + 2


def test_times_of_events_have_martingale_residuals_that_sum_to_zero_at_the_maximum():
    class Constant(nlme.Model):
        states = ("hazard",)

        def __init__(self):
            super().__init__()
            self.rate = nlme.Positive(0.4)

        def initial(self, p):
            return (0.0,)

        def dynamics(self, t, y, p):
            return (p.rate + 0 * y.hazard,)

        def observe(self, t, y, p):
            return {"event": nlme.observation.TimeToEvent(p.rate + 0 * y.hazard, y.hazard)}

    numbers = np.random.default_rng(3)
    time = numbers.exponential(2.0, 30)
    event = (time < 3.0).astype(float)
    time = np.minimum(time, 3.0)
    frame = pd.DataFrame({"ID": np.arange(30), "TIME": time, "event": event})
    data = nlme.Dataset.from_frame(frame, outputs="event", start=0.0)
    rate = event.sum() / time.sum()
    table = made_fit(Constant().with_values({"rate": rate}), data).table()
    np.testing.assert_allclose(table["COX_SNELL"], rate * time, rtol=1e-6)
    np.testing.assert_allclose(table["MARTINGALE"], event - rate * time, atol=1e-6)
    assert abs(table["MARTINGALE"].sum()) < 1e-5
    expected = np.sign(event - rate * time) * np.sqrt(
        -2 * (event - rate * time + event * np.log(np.where(event > 0, rate * time, 1)))
    )
    np.testing.assert_allclose(table["DEVIANCE"], expected, atol=1e-5)
    assert "CWRES" not in table and "martingale" in table.attrs["absent"]["CWRES"]["event"]


@pytest.mark.parametrize("kind", ["bernoulli", "binomial", "score", "negative"])
def test_deviance_residuals_of_discrete_outcomes(kind):
    class Discrete(nlme.Model):
        def __init__(self):
            super().__init__()
            self.a = nlme.Normal(0.3, omega=0.5)

        def predict(self, t, p, cov):
            return p.a - 0.5 * t

        def observe(self, t, y, p):
            made = {
                "bernoulli": lambda: nlme.observation.Bernoulli(y),
                "binomial": lambda: nlme.observation.Binomial(6, y),
                "score": lambda: nlme.observation.OrderedCategorical(y, [y * 0 - 1.0, y * 0 + 1.0]),
                "negative": lambda: nlme.observation.NegativeBinomial(torch.exp(y), 0.5),
            }
            return {"DV": made[kind]()}

    frame = pd.DataFrame({"ID": [1, 1, 2, 2, 3, 3], "TIME": [0.0, 1.0] * 3, "DV": [0, 1, 1, 0, 1, 1]})
    table = made_fit(Discrete(), nlme.Dataset.from_frame(frame)).table(simulations=40)
    y, eta = table["DV"].to_numpy(), table["eta_a"].to_numpy()
    location = 0.3 + eta - 0.5 * table["TIME"].to_numpy()
    if kind == "bernoulli":
        law, best, mean = stats.bernoulli(special.expit(location)), 0.0, special.expit(location)
    elif kind == "binomial":
        law, best, mean = stats.binom(6, special.expit(location)), stats.binom(6, y / 6).logpmf(y), None
    elif kind == "negative":
        size, m = 2.0, np.exp(location)
        law, mean = stats.nbinom(size, size / (size + m)), m
        best = np.where(y > 0, stats.nbinom(size, size / (size + np.maximum(y, 1e-9))).logpmf(y), 0.0)
    else:
        low, high = special.expit(-1 - location), special.expit(1 - location)
        probability = np.stack([low, high - low, 1 - high])
        chosen = probability[y.astype(int), np.arange(6)]
        mean = probability[1] + 2 * probability[2]
        spread = probability[1] + 4 * probability[2] - mean**2
        np.testing.assert_allclose(table["DEVIANCE"], np.sign(y - mean) * np.sqrt(-2 * np.log(chosen)), rtol=1e-7)
        np.testing.assert_allclose(table["PEARSON"], (y - mean) / np.sqrt(spread), rtol=1e-7)
        return
    mean = law.mean() if mean is None else mean
    np.testing.assert_allclose(table["PEARSON"], (y - mean) / law.std(), rtol=1e-7)
    np.testing.assert_allclose(table["DEVIANCE"], np.sign(y - mean) * np.sqrt(2 * (best - law.logpmf(y))), rtol=1e-6)


def test_covariates_that_were_not_written_stand_in_the_table_as_the_model_has_them():
    """Filled by ``missing=``, or written in the first row of a subject alone; texts as texts."""
    frame = nlme.examples.theophylline().frame
    frame["sex"] = np.where(frame["Subject"] % 2, "female", "male")
    full = frame.copy()
    first = ~frame["Subject"].duplicated()
    frame.loc[(frame["Subject"] == 3) & ~first, "Wt"] = np.nan
    frame.loc[frame["Subject"] == 4, ["Wt", "sex"]] = [np.nan, None]
    data = nlme.Dataset.from_frame(
        frame, id="Subject", time="Time", outputs="conc", covariates=["Wt", "Dose", "sex"],
        missing={"Wt": 70.0, "sex": "female"},
    )  # fmt: skip
    table = made_fit(nlme.examples.TheophyllineClosedForm(), data).table(simulations=0)
    full.loc[full["Subject"] == 4, ["Wt", "sex"]] = [70.0, "female"]
    np.testing.assert_array_equal(table["Wt"], full["Wt"])
    assert list(table["sex"]) == list(full["sex"])


def test_a_covariate_with_the_name_of_a_parameter_is_not_lost():
    frame = nlme.examples.theophylline().frame.rename(columns={"Wt": "v"})

    class Other(nlme.examples.TheophyllineClosedForm):
        def individual(self, p, cov):
            return {"dose": cov.v * cov.Dose}

    data = nlme.Dataset.from_frame(frame, id="Subject", time="Time", outputs="conc", covariates=["v", "Dose"])
    table = made_fit(Other(), data).table(simulations=0)
    np.testing.assert_array_equal(table["covariate_v"], frame["v"])
    assert table["v"].between(10, 100).all()


def test_a_subject_whose_mode_is_not_known_has_no_conditional_residuals():
    from dataclasses import replace

    fit = quick_fit()
    modes = fit.effects.modes.clone()
    modes[:, 2] = torch.nan
    table = replace(fit, effects=replace(fit.effects, modes=modes)).table(simulations=30)
    lost = table["ID"] == fit.data.subjects[2]
    assert table.loc[lost, ["IPRED", "IWRES", "CWRES", "CPRED", "eta_ka"]].isna().all(axis=None)
    assert table.loc[lost, ["PRED", "WRES", "NPDE"]].notna().all(axis=None)
    assert table.loc[~lost, ["CWRES", "IWRES"]].notna().all(axis=None)
