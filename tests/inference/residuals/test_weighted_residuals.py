"""Weighted residuals against NONMEM's table, and against their definition in numpy."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import linalg
from support.fitted_models import quick_fit
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
    with pytest.raises(nlme.FitError, match="simulations must be"):
        quick_fit().table(simulations=-1)
