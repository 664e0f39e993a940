"""Weighted residuals against NONMEM's table, and against their definition in numpy."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import linalg
from support.fitted_models import made_fit, quick_fit
from support.phenobarbital_reference import REFERENCE, concentrations, nonmem_fit

import nlme_torch as nlme


def test_cwres_and_predictions_of_phenobarbital_are_those_that_nonmem_printed():
    table = nonmem_fit().table(simulations=0)
    table = table[table["DV"].notna()].iloc[: len(REFERENCE["rows"]["ID"])]
    np.testing.assert_array_equal(table["ID"], REFERENCE["rows"]["ID"])
    np.testing.assert_array_equal(table["TIME"], REFERENCE["rows"]["TIME"])
    for name in ("PRED", "IPRED"):
        np.testing.assert_allclose(table[name], REFERENCE["rows"][name], rtol=6e-5)
    # the estimates are known to five digits
    np.testing.assert_allclose(table["CWRES"], REFERENCE["rows"]["CWRES"], atol=1.5e-4)


def definition(predict, y, eta, omega, spread):
    """CPRED and (G Omega G' + R)^(-1/2) (y - CPRED) by central differences and a matrix square root."""
    steps = 1e-5 * np.eye(len(eta))
    slope = np.stack([(predict(eta + step) - predict(eta - step)) / 2e-5 for step in steps], 1)
    expected = predict(eta) - slope @ eta
    covariance = slope @ omega @ slope.T + np.diag(spread(predict(eta)))
    return expected, np.linalg.solve(linalg.sqrtm(covariance).real, y - expected)


def test_wres_and_cwres_of_phenobarbital_follow_their_definition():
    fit, values = nonmem_fit(), REFERENCE["estimates"]
    table, frame = fit.table(simulations=0), fit.data.frame
    omega = np.diag([values["omega_cl"], values["omega_v"]])
    for subject in fit.data.subjects:
        own = frame[frame["ID"] == subject]
        seen = table[(table["ID"] == subject) & table["DV"].notna()]

        def predict(eta, own=own):
            return concentrations(own, eta, values)

        def spread(f):
            return values["sigma_variance"] * f**2

        y = seen["DV"].to_numpy()
        expected, cwres = definition(predict, y, fit.eta.loc[subject].to_numpy(), omega, spread)
        np.testing.assert_allclose(seen["CPRED"], expected, rtol=1e-7)
        np.testing.assert_allclose(seen["CWRES"], cwres, atol=1e-7)
        _, wres = definition(predict, y, np.zeros(2), omega, spread)
        np.testing.assert_allclose(seen["WRES"], wres, atol=1e-7)


def test_residuals_of_a_closed_form_are_what_scipy_says():
    fit = quick_fit()
    table, estimates = fit.table(simulations=0), fit.parameters["estimate"]
    omega, frame = fit.omega.to_numpy(), fit.data.frame
    for subject in fit.data.subjects:
        own, seen = frame[frame["Subject"] == subject], table[table["ID"] == subject]
        dose, t = (own["Wt"] * own["Dose"]).iloc[0], own["Time"].to_numpy()

        def predict(eta, dose=dose, t=t):
            ka, cl, v = estimates[["ka", "cl", "v"]].to_numpy() * np.exp(eta)
            return dose * ka / (v * (ka - cl / v)) * (np.exp(-cl / v * t) - np.exp(-ka * t))

        def spread(f):
            return np.full(len(f), estimates["sigma"] ** 2)

        y, eta = own["conc"].to_numpy(), fit.eta.loc[subject].to_numpy()
        np.testing.assert_allclose(seen["PRED"], predict(np.zeros(3)), atol=1e-9)
        np.testing.assert_allclose(seen["RES"], y - predict(np.zeros(3)), atol=1e-9)
        np.testing.assert_allclose(seen["IRES"], y - predict(eta), atol=1e-9)
        np.testing.assert_allclose(seen["IWRES"], (y - predict(eta)) / estimates["sigma"], atol=1e-9)
        expected, cwres = definition(predict, y, eta, omega, spread)
        np.testing.assert_allclose(seen["CPRED"], expected, atol=1e-6)
        np.testing.assert_allclose(seen["CWRES"], cwres, atol=1e-6)
        np.testing.assert_allclose(seen["WRES"], definition(predict, y, np.zeros(3), omega, spread)[1], atol=1e-6)


class LogLine(nlme.Model):
    """log y = a + b t + e."""

    def __init__(self):
        super().__init__()
        self.a = nlme.Normal(1.0, omega=0.3)
        self.sigma = nlme.Positive(0.2)

    def predict(self, t, p, cov):
        return p.a - 0.3 * t

    def observe(self, t, y, p):
        return {"DV": nlme.observation.LogNormal(torch.exp(y), p.sigma)}


def test_a_log_normal_outcome_has_the_residuals_of_its_logarithm():
    frame = pd.DataFrame({"ID": np.repeat(np.arange(6), 4), "TIME": np.tile([0.5, 1.0, 2.0, 4.0], 6), "DV": 1.0})
    data = nlme.simulate(LogLine(), nlme.Dataset.from_frame(frame), seed=4)
    fit = nlme.fit(LogLine(), data, nlme.FOCEI(), progress=False)
    table = fit.table(simulations=0)
    assert table.attrs["log_scale"] == ["DV"]
    table = table[table["DV"].notna()]
    sigma, variance = fit.parameters.loc["sigma", "estimate"], fit.omega.iloc[0, 0]
    for subject, own in table.groupby("ID"):
        line = fit.parameters.loc["a", "estimate"] - 0.3 * own["TIME"].to_numpy()
        covariance = variance * np.ones((4, 4)) + sigma**2 * np.eye(4)
        error = np.log(own["DV"]) - line
        expected = np.linalg.solve(linalg.sqrtm(covariance).real, error)
        np.testing.assert_allclose(own["CWRES"], expected, atol=1e-7)
        np.testing.assert_allclose(own["WRES"], expected, atol=1e-7)
        iwres = (error - fit.eta.loc[subject].iloc[0]) / sigma
        np.testing.assert_allclose(own["IWRES"], iwres, atol=1e-7)
        known = fit.predictions[fit.predictions["id"] == subject]["IWRES"].dropna()
        np.testing.assert_allclose(known, iwres, atol=1e-7)


def test_the_number_of_simulations_is_checked():
    with pytest.raises(nlme.FitError, match="simulations must be 0 or more"):
        quick_fit().table(simulations=-1)


class TwoLines(nlme.Model):
    """Two outcomes of one level whose errors at one time are correlated."""

    def __init__(self):
        super().__init__()
        self.a = nlme.Normal(1.0, omega=0.5)

    def predict(self, t, p, cov):
        return p.a - 0.1 * t

    def observe(self, t, y, p):
        one, two = torch.distributions.Normal(y, 0.3), torch.distributions.Normal(2 * y, 0.5)
        return nlme.observation.MultivariateNormal({"one": one, "two": two}, correlation=0.7)


def test_correlated_errors_are_decorrelated_too():
    numbers = np.random.default_rng(0)
    frame = pd.DataFrame({"ID": np.repeat([1, 2, 3], 3), "TIME": np.tile([0.0, 1.0, 2.0], 3)})
    frame["one"], frame["two"] = numbers.normal(1, 0.8, 9), numbers.normal(2, 1.5, 9)
    frame.loc[4, "two"] = np.nan
    fit = made_fit(TwoLines(), nlme.Dataset.from_frame(frame, outputs=["one", "two"]))
    table = fit.table(simulations=400)
    for subject, own in table.groupby("ID"):
        t = own["TIME"].to_numpy()
        factor = np.where(own["OUTCOME"] == "one", 1.0, 2.0)
        sd = np.where(own["OUTCOME"] == "one", 0.3, 0.5)
        same = (t[:, None] == t) & (factor[:, None] != factor)
        covariance = 0.5 * np.outer(factor, factor) + np.outer(sd, sd) * (np.eye(len(t)) + 0.7 * same)
        error = own["DV"].to_numpy() - factor * (1 - 0.1 * t)
        expected = np.linalg.solve(linalg.sqrtm(covariance).real, error)
        np.testing.assert_allclose(own["CWRES"], expected, atol=1e-7)
        eta = fit.eta.loc[subject].iloc[0]
        np.testing.assert_allclose(own["IWRES"], (error - factor * eta) / sd, atol=1e-9)
    assert table["NPDE"].notna().all()
    from nlme_torch.model.density.replicates import draw_replicates

    drawn = draw_replicates(fit.density, 4000, ["one", "two"], seed=1).values
    found = np.cov(np.stack([drawn[name][1, :, 0].numpy() for name in ("one", "two")]))
    np.testing.assert_allclose(found, [[0.59, 1.105], [1.105, 2.25]], rtol=0.08)
