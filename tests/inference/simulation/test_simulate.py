"""Populations simulated from fits: exact moments with and without uncertainty, designs, events, what is refused."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import nlme_torch as nlme
from nlme_torch.inference.information.observed import Information, invert
from nlme_torch.inference.simulation.population import population
from nlme_torch.model.declare.values import parameter_values

OMEGA, SIGMA, SUBJECTS, RECORDS = 0.3, 0.4, 40, 4


class Mean(nlme.Model):
    """y = mu + eta + epsilon, the same at every time."""

    def __init__(self):
        super().__init__()
        self.mu = nlme.Normal(2.0, omega=OMEGA**2)
        self.sigma = nlme.Positive(SIGMA)

    def predict(self, t, p, cov):
        return p.mu

    def observe(self, t, y, p):
        return {"y": dist.Normal(y, p.sigma)}


def table(subjects=SUBJECTS, records=RECORDS):
    frame = pd.DataFrame({"ID": np.repeat(np.arange(subjects), records), "TIME": np.tile(np.arange(records), subjects)})
    return nlme.Dataset.from_frame(frame.assign(y=0.0), outputs="y")


@pytest.fixture(scope="module")
def fit():
    data = nlme.simulate(Mean(), table(), seed=1)
    return nlme.fit(Mean(), data, nlme.FOCEI(), progress=False)


def values(fit):
    """Estimates of mu, and of the two standard deviations."""
    estimate = fit.parameters["estimate"]
    return estimate["mu"], np.sqrt(estimate["omega_mu"]), estimate["sigma"]


def test_every_record_has_a_residual_of_its_own_though_the_prediction_is_the_same_at_all():
    y = nlme.simulate(Mean(), table(2000), seed=3).frame.y.to_numpy().reshape(-1, RECORDS)
    covariance = OMEGA**2 + SIGMA**2 * np.eye(RECORDS)
    distance = np.einsum("ni,ij,nj->n", y - 2.0, np.linalg.inv(covariance), y - 2.0)
    assert stats.kstest(distance, stats.chi2(RECORDS).cdf).pvalue > 1e-3


def test_replicates_at_the_estimates_have_the_exact_marginal_distribution(fit):
    mu, omega, sigma = values(fit)
    found = nlme.simulate(fit, fit.data, seed=2, replicates=50)
    y = found.observations["y"].reshape(-1, RECORDS)
    covariance = omega**2 + sigma**2 * np.eye(RECORDS)
    distance = np.einsum("ni,ij,nj->n", y - mu, np.linalg.inv(covariance), y - mu)
    assert stats.kstest(distance, stats.chi2(RECORDS).cdf).pvalue > 1e-3
    spread = found.predictions["y"].reshape(-1, RECORDS)
    np.testing.assert_allclose(spread, spread[:, :1].repeat(RECORDS, 1))
    np.testing.assert_allclose(spread.std(), omega, rtol=0.05)


def test_means_of_replicates_vary_by_the_error_of_the_estimate_and_of_the_sample(fit):
    _, omega, sigma = values(fit)
    errors = nlme.standard_errors(fit, kind="R")
    found = nlme.simulate(fit, fit.data, seed=4, replicates=2000, uncertainty=errors)
    sampling = omega**2 / SUBJECTS + sigma**2 / (SUBJECTS * RECORDS)
    np.testing.assert_allclose(
        found.observations["y"].mean(1).var(), sampling + errors.table.loc["mu", "se"] ** 2, rtol=0.1
    )
    held = nlme.simulate(fit, fit.data, seed=4, replicates=2000)
    np.testing.assert_allclose(held.observations["y"].mean(1).var(), sampling, rtol=0.1)
    # what was drawn is what the replicate was simulated with
    np.testing.assert_allclose(
        found.observations["y"].mean(1) - found.parameters["mu"], 0.0, atol=5 * np.sqrt(sampling)
    )


def test_draws_are_normal_on_the_estimation_scale(fit):
    errors = nlme.standard_errors(fit, kind="R")
    draws = fit.draw_parameters(4000, seed=1, uncertainty=errors)
    assert list(draws) == list(errors.table.index)
    covariance = invert(Information(errors.hessian, errors.scores, SUBJECTS), "R", list(draws)).covariance.numpy()
    raw = np.column_stack([draws["mu"], 0.5 * np.log(draws["omega_mu"]), np.log(draws["sigma"])])
    centre = np.array([values(fit)[0], np.log(values(fit)[1]), np.log(values(fit)[2])])
    whitened = (raw - centre) @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T))).T
    assert all(stats.kstest(column, "norm").pvalue > 1e-3 for column in whitened.T)
    np.testing.assert_allclose(sorted(np.diag(np.cov(raw.T))), sorted(np.diag(covariance)), rtol=0.1)


class Correlated(nlme.Model):
    def __init__(self):
        super().__init__()
        self.a, self.b = nlme.Normal(1.0), nlme.Normal(1.0)
        self.block = nlme.Omega("a", "b", structure="full")
        self.sigma = nlme.Positive(0.5)

    def predict(self, t, p, cov):
        return p.a + p.b * t

    def observe(self, t, y, p):
        return {"y": dist.Normal(y, p.sigma)}


def test_with_few_subjects_no_draw_has_a_negative_variance_or_a_correlation_beyond_one():
    truth = Correlated().with_values({"omega_a": 0.5, "omega_b": 0.3, "omega_a,b": 0.1, "sigma": 0.3})
    data = nlme.simulate(truth, table(10, 6), seed=2)
    fit = nlme.fit(truth, data, nlme.FOCEI(), progress=False)
    draws = fit.draw_parameters(500, seed=2, uncertainty=nlme.standard_errors(fit, kind="R"))
    assert (draws[["omega_a", "omega_b", "sigma"]] > 0).all().all()
    assert (draws["omega_a,b"].abs() < np.sqrt(draws["omega_a"] * draws["omega_b"])).all()
    assert draws["omega_a"].std() > 0.5 * draws["omega_a"].median()  # where the natural scale would go below 0
    one = nlme.simulate(fit, data, seed=3, uncertainty=draws)
    assert one.replicates == 500 and np.isfinite(one.observations["y"]).all()


def test_a_variance_that_the_data_do_not_tell_from_zero_cannot_be_drawn():
    data = nlme.simulate(Correlated().with_values({"omega_b": 1e-8, "omega_a,b": 0.0}), table(8), seed=1)
    fit = nlme.fit(Correlated().with_values({"omega_b": 0.01}), data, nlme.FOCEI(), progress=False)
    with pytest.raises(nlme.FitError, match="no parameters can be drawn"):
        fit.draw_parameters(10, seed=1, uncertainty=nlme.standard_errors(fit, kind="R"))


def test_vectors_of_a_sample_are_taken_as_they_are(fit):
    vectors = nlme.sir(fit, proposals=100, iterations=1, progress=False)
    found = nlme.simulate(fit, fit.data, seed=1, uncertainty=vectors, residual=False)
    assert found.replicates == len(vectors.draws) == 20
    pd.testing.assert_frame_equal(found.parameters, vectors.draws.drop(columns="difference"))
    np.testing.assert_array_equal(found.observations["y"], found.predictions["y"])
    again = nlme.simulate(fit, fit.data, seed=1, uncertainty=vectors, replicates=50)
    assert again.replicates == 50 and set(again.parameters["mu"]) <= set(vectors.draws["mu"])
    boot = nlme.Bootstrap("case", "FOCEI()", pd.DataFrame(), vectors.draws.drop(columns="difference"), {}, 0.95)
    assert nlme.simulate(fit, fit.data, seed=1, uncertainty=boot).replicates == 20


class Oral(nlme.Model):
    states = ("depot", "central")

    def __init__(self):
        super().__init__()
        self.ka, self.v = nlme.LogNormal(1.0), nlme.LogNormal(10.0)
        self.cl = nlme.LogNormal(1.0, nlme.Power("WT", ref=70), nlme.Shift("SEX"))
        self.sigma = nlme.Positive(0.1)

    def compartments(self, p):
        return nlme.compartments.OneCompartment(p.cl, p.v, absorption=p.ka)

    def observe(self, t, y, p):
        return {"conc": dist.Normal(y.central / p.v, p.sigma)}


def test_new_subjects_have_the_covariates_of_whole_lines_of_a_table():
    lines = pd.DataFrame({"WT": [50.0, 90.0], "SEX": ["f", "m"]}, index=["first", "second"])
    dose = nlme.Regimen(100.0)
    design = nlme.Dataset.from_regimen(dose, [1.0, 8.0], subjects=["first", "second"], covariates=lines, outputs="conc")
    data = nlme.simulate(Oral(), design, seed=1)
    fit = nlme.fit(Oral(), data, nlme.Pooled(), progress=False)
    for covariates in (lines, data):
        many = nlme.simulate(fit, dose, times=[2.0], subjects=200, covariates=covariates, seed=1)
        first = many.frame.groupby("ID").first()
        assert many.n_subjects == 200 and set(zip(first.WT, first.SEX, strict=True)) == {(50.0, "f"), (90.0, "m")}
        assert 60 < (first.SEX == "f").sum() < 140
    drawn = {"WT": dist.LogNormal(4.2, 0.2), "SEX": "f"}
    found = nlme.simulate(fit, dose, times=[2.0], subjects=300, covariates=drawn, seed=1, replicates=2)
    weights = found.data.covariates["WT"]
    np.testing.assert_allclose([np.log(weights).mean(), np.log(weights).std()], [4.2, 0.2], atol=0.03)
    again = nlme.simulate(fit, data, subjects=30, seed=1)
    assert again.n_subjects == 30 and set(again.covariates["WT"]) == {50.0, 90.0}
    assert again.frame.groupby("ID").size().eq(3).all()


class Death(nlme.Model):
    states = ("hazard",)

    def __init__(self):
        super().__init__()
        self.rate = nlme.LogNormal(0.2, omega=0.1)

    def dynamics(self, t, y, p):
        return (p.rate + 0.0 * y.hazard,)

    def observe(self, t, y, p):
        return {"death": nlme.observation.TimeToEvent(p.rate, y.hazard)}


def test_replicates_of_events_have_rows_of_their_own():
    frame = pd.DataFrame({"ID": np.repeat(np.arange(60), 2), "TIME": np.tile([0.0, 10.0], 60)})
    frame["death"], frame["MDV"] = np.tile([np.nan, 0.0], 60), np.tile([1, 0], 60)
    data = nlme.Dataset.from_frame(frame, outputs="death")
    found = nlme.simulate(Death(), data, seed=1, replicates=3)
    assert found.replicates == 3 and len({found.dataset(k).n_rows for k in range(3)}) > 1
    deaths = found.table.query("value == 1")
    assert set(deaths["replicate"]) == {0, 1, 2} and deaths["time"].between(0, 10).all()


def test_a_replicate_is_a_data_set_and_the_table_holds_its_values(fit):
    found = nlme.simulate(fit, fit.data, seed=5, replicates=3)
    lines = found.table.query("replicate == 1")
    assert list(lines["id"]) == list(fit.data.frame["ID"]) and list(lines["time"]) == list(fit.data.frame["TIME"])
    np.testing.assert_array_equal(lines["value"], found.dataset(1).frame["y"])
    quantiles = found.quantiles([0.5])
    np.testing.assert_allclose(
        quantiles.query("time == 2")["median"].item(),
        found.table.query("time == 2").groupby("replicate")["value"].median().median(),
    )
    same, other = (nlme.simulate(fit, fit.data, seed=seed, replicates=3) for seed in (5, 6))
    np.testing.assert_array_equal(found.observations["y"], same.observations["y"])
    assert not np.array_equal(found.observations["y"], other.observations["y"])
    assert "3 replicates" in str(found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"uncertainty": "asymptotic"}, "say how many"),
        ({"replicates": 0}, "whole number of 1 or more"),
        ({"subjects": 0}, "whole number of 1 or more"),
        ({"times": [1.0]}, "a data set has its own"),
        ({"uncertainty": pd.DataFrame({"muu": [1.0]})}, "Did you mean 'mu'"),
        ({"uncertainty": pd.DataFrame({"mu": [1.0, np.nan]})}, "no number in some rows"),
        ({"eta": torch.zeros(2, 3), "replicates": 2}, "eta has the shape"),
    ],
)
def test_what_does_not_fit_together_is_told(fit, arguments, said):
    with pytest.raises(nlme.NLMEError, match=said):
        nlme.simulate(fit, fit.data, **{"seed": 1, **arguments})


def test_what_a_model_or_a_regimen_lacks_is_told(fit):
    with pytest.raises(nlme.FitError, match="pass the fit"):
        nlme.simulate(Mean(), fit.data, seed=1, replicates=2, uncertainty="asymptotic")
    with pytest.raises(nlme.DataError, match="when to look"):
        nlme.simulate(fit, nlme.Regimen(1.0), seed=1)
    with pytest.raises(nlme.DataError, match="give a fit"):
        nlme.simulate(Mean(), nlme.Regimen(1.0), times=[1.0], seed=1)
    generator = torch.Generator()
    with pytest.raises(nlme.DataError, match="a data set or a regimen"):
        population(fit.data.frame, None, None, None, None, generator)
    assert parameter_values(fit.model)["mu.typical"].item() == fit.parameters.loc["mu", "estimate"]
