"""The bootstrap of a balanced linear model, whose distribution is known exactly; refits together and one by one."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.inference.estimates.estimation import UnrepeatableMethod
from nlme_torch.inference.marginal.objective import MarginalObjective
from nlme_torch.inference.uncertainty import bootstrap, sir
from nlme_torch.inference.uncertainty.resamples import CaseResamples


class Mean(nlme.Model):
    """y = a + e, a different in every subject: with equal numbers of records the estimate of a is the grand mean."""

    def __init__(self):
        super().__init__()
        self.a = nlme.Normal(1.0, omega=0.5)
        self.sigma = nlme.Positive(1.0)

    def predict(self, t, p, cov):
        return p.a + 0 * t

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


@pytest.fixture(scope="module")
def means():
    """A fit and the responses, (subject, record)."""
    rng = np.random.default_rng(4)
    values = 2 + rng.normal(size=(25, 1)) + 0.7 * rng.normal(size=(25, 4))
    rows = [{"ID": i + 1, "TIME": float(j), "DV": values[i, j]} for i in range(25) for j in range(4)]
    data = nlme.Dataset.from_frame(pd.DataFrame(rows))
    return nlme.fit(Mean(), data, nlme.FOCEI(), progress=False), values


def maximum(values):
    """Maximum likelihood in closed form: a, sigma, omega."""
    subjects, records = values.shape
    each = values.mean(1)
    within = ((values - each[:, None]) ** 2).sum() / (subjects * (records - 1))
    return each.mean(), np.sqrt(within), ((each - each.mean()) ** 2).mean() - within / records


def test_every_refit_is_the_maximum_of_its_own_data_set(means):
    fit, values = means
    found = nlme.case_bootstrap(fit, samples=50, seed=3, progress=False)
    picked = CaseResamples.draw(fit.density, 50, torch.Generator().manual_seed(3)).picked.numpy()
    expected = np.array([maximum(values[index]) for index in picked])
    assert found.estimates[["a", "sigma", "omega_a"]].to_numpy() == pytest.approx(expected, rel=2e-3)
    assert found.failed == 0


def test_standard_errors_are_the_analytic_ones(means):
    """Of the mean: SD of the subjects' means / sqrt(N), and sqrt((omega + sigma^2 / n) / N); Monte Carlo error 3 %."""
    fit, values = means
    samples = 500
    each = values.mean(1)
    a, sigma, omega = maximum(values)
    case = nlme.case_bootstrap(fit, samples=samples, progress=False)
    parametric = nlme.parametric_bootstrap(fit, samples=samples, progress=False)
    close = {"rel": 3 / np.sqrt(2 * samples)}
    assert case.table.loc["a", "se"] == pytest.approx(each.std() / 5, **close)
    assert parametric.table.loc["a", "se"] == pytest.approx(np.sqrt((omega + sigma**2 / 4) / 25), **close)
    assert parametric.table.loc["sigma", "se"] == pytest.approx(sigma / np.sqrt(2 * 75), **close)
    reach = 1.96 * parametric.table.loc["a", "se"]
    assert parametric.table.loc["a", ["lower", "upper"]].tolist() == pytest.approx([a - reach, a + reach], abs=0.07)
    assert case.correlation.loc["a", "a"] == pytest.approx(1.0) and "500 data sets, 0 refits failed" in str(case)


@pytest.fixture(scope="module")
def classical(theophylline):
    return nlme.fit(nlme.examples.TheophyllineClosedForm(), theophylline, nlme.FOCEI(), progress=False)


@pytest.mark.parametrize("bootstrap", [nlme.case_bootstrap, nlme.parametric_bootstrap])
def test_refits_together_agree_with_refits_one_by_one(classical, bootstrap):
    @dataclass(frozen=True)
    class Alone:
        """FOCEI that is not known to be one."""

        def estimate(self, density, generator, progress):
            return nlme.FOCEI().estimate(density, generator, progress)

    together = bootstrap(classical, samples=2, progress=False)
    alone = bootstrap(classical, Alone(), samples=2, progress=False)
    errors = nlme.standard_errors(classical, kind="R").table["se"]
    difference = (together.estimates - alone.estimates) / errors
    assert difference.to_numpy() == pytest.approx(np.zeros(difference.shape), abs=5e-3)
    assert together.estimates.std().min() > 0 and not together.estimates.equals(alone.estimates)


def test_failed_refits_are_counted_and_said(means):
    fit, _ = means

    @dataclass(frozen=True)
    class Fragile:
        """Fails for one data set, does not converge for another."""

        def estimate(self, density, generator, progress):
            seed = generator.initial_seed()
            if seed == 1:
                raise nlme.FitError("no luck")
            found = nlme.FOCEI().estimate(density, generator, progress)
            return (
                found
                if seed != 3
                else type(found)(
                    **{**vars(found), "status": nlme.Status.STALLED, "termination": "BFGS did not converge"}
                )
            )

    found = nlme.case_bootstrap(fit, Fragile(), samples=5, progress=False)
    assert found.failed == 2 and found.problems[1] == "no luck"
    assert found.estimates["a"].isna().tolist() == [False, True, False, True, False]
    assert found.table["se"].notna().all() and "2 refits failed and take no part" in str(found)


def test_two_refits_are_enough_and_one_is_not(means):
    fit, _ = means

    @dataclass(frozen=True)
    class Rare:
        """Succeeds for the first data sets alone."""

        most: int

        def estimate(self, density, generator, progress):
            if generator.initial_seed() >= self.most:
                raise nlme.FitError("no luck")
            return nlme.FOCEI().estimate(density, generator, progress)

    found = nlme.case_bootstrap(fit, Rare(2), samples=4, progress=False)
    assert found.failed == 2 and found.table["se"].notna().all() and found.level == 0.95
    with pytest.raises(nlme.FitError, match="3 of 4 refits of the case bootstrap failed; the first: no luck"):
        nlme.case_bootstrap(fit, Rare(1), samples=4, progress=False)


@pytest.mark.slow
def test_another_method_refits_one_by_one(means):
    fit, values = means
    saem = nlme.SAEM(schedule=nlme.StepSchedule(exploration=60, smoothing=40), chains=4)
    found = nlme.case_bootstrap(fit, saem, samples=2, seed=3, progress=False)
    picked = CaseResamples.draw(fit.density, 2, torch.Generator().manual_seed(3)).picked.numpy()
    expected = [maximum(values[index])[0] for index in picked]
    assert found.estimates["a"].tolist() == pytest.approx(expected, abs=0.05)


def test_what_cannot_be_repeated_is_refused(means):
    fit, _ = means
    with pytest.raises(nlme.FitError, match="give the method"):
        nlme.case_bootstrap(replace(fit, method=UnrepeatableMethod(str(nlme.SAEM()))))
    with pytest.raises(nlme.FitError, match="at least 2 samples"):
        nlme.case_bootstrap(fit, samples=1)


def test_refits_are_by_the_method_of_the_fit_with_its_settings(means, monkeypatch):
    fit, _ = means
    method = nlme.FOCEI(optimiser=nlme.LBFGS(iterations=7), mode_starts=3, starts=2)
    fit = replace(fit, method=method)
    used, searches = [], []

    def estimate(self, density, generator, progress):
        used.append(self)
        return estimate_as_before(self, density, generator, progress)

    def objective(approximation, values, number, *others, **named):
        searches.append(number)
        return MarginalObjective(approximation, values, number, *others, **named)

    estimate_as_before = nlme.FOCEI.estimate
    monkeypatch.setattr(nlme.FOCEI, "estimate", estimate)
    assert nlme.case_bootstrap(fit, samples=2, progress=False).failed == 0 and used == [method, method]
    assert nlme.parametric_bootstrap(fit, samples=2, progress=False).failed == 0 and used == 4 * [method]
    monkeypatch.setattr(bootstrap, "MarginalObjective", objective)
    monkeypatch.setattr(sir, "MarginalObjective", objective)
    together = replace(fit, method=nlme.FOCEI(mode_starts=3))
    assert nlme.case_bootstrap(together, samples=2, progress=False).failed == 0 and len(used) == 4
    nlme.sir(together, proposals=20, iterations=1, progress=False)
    assert searches == [3, 3]


def test_a_fit_by_saem_is_refitted_by_saem(means):
    """Within the noise of SAEM each refit is the maximum of its data set."""
    fit, values = means
    schedule = nlme.StepSchedule(burn_in=3, exploration=20, smoothing=30)
    method = nlme.SAEM(schedule=schedule, chains=8)
    found = nlme.case_bootstrap(replace(fit, method=method), samples=2, seed=3, progress=False)
    assert found.failed == 0 and found.method == str(method)
    picked = CaseResamples.draw(fit.density, 2, torch.Generator().manual_seed(3)).picked.numpy()
    expected = np.array([maximum(values[index]) for index in picked])
    assert found.estimates[["a", "sigma", "omega_a"]].to_numpy() == pytest.approx(expected, rel=0.05)
