"""Quadrature shows its own error; values at given parameters by sampling; standard errors for outcomes of any kind."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.inference.likelihood.annealed_importance_sampling import Annealing
from nlme_torch.inference.marginal.enough_nodes import raised
from nlme_torch.inference.uncertainty.standard_errors import _suitable


class Logistic(nlme.Model):
    """Few binary records per subject and a wide random effect: far from normal."""

    def __init__(self, omega=8.0):
        super().__init__()
        self.a = nlme.Normal(0.3, omega=omega)
        self.b = nlme.Real(0.5)

    def predict(self, t, p, cov):
        return p.a + p.b * t

    def observe(self, t, f, p):
        return {"y": nlme.observation.Bernoulli(logit=f)}


TIMES = np.linspace(-1, 1, 5)


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(1)
    effect = rng.normal(size=(40, 1)) * math.sqrt(8.0)
    outcome = rng.uniform(size=(40, 5)) < 1 / (1 + np.exp(-(0.3 + effect + 0.5 * TIMES)))
    rows = [(i + 1, t + 1, int(y)) for i, ys in enumerate(outcome) for t, y in zip(TIMES, ys, strict=True)]
    return pd.DataFrame(rows, columns=["ID", "TIME", "y"])


@pytest.fixture(scope="module")
def data(table):
    return nlme.Dataset.from_frame(table, outputs="y")


def exact(table, a, b, omega):
    """-2 log-likelihood by the trapezoidal rule on a fine grid, which knows of no mode."""
    eta = np.linspace(-40, 40, 20_001)
    prior = -0.5 * eta**2 / omega - 0.5 * math.log(2 * math.pi * omega)
    total = 0.0
    for _, rows in table.groupby("ID"):
        logit = a + eta[:, None] + b * rows["TIME"].to_numpy()
        log_joint = prior - np.logaddexp(0, np.where(rows["y"] == 1, -logit, logit)).sum(1)
        total += math.log(np.trapezoid(np.exp(log_joint), eta))
    return -2 * total


def test_the_difference_to_the_next_rule_is_what_that_rule_gives(data, table):
    truth = exact(table, 0.3, 0.5, 8.0)
    values = {nodes: nlme.ofv(Logistic(), data, nlme.Quadrature(nodes=nodes)) for nodes in (3, 5, 7)}
    for nodes in (3, 5):
        assert values[nodes].next_rule == pytest.approx(values[nodes + 2].minus2ll, abs=1e-9)
        assert f"(next rule {values[nodes + 2].minus2ll - values[nodes].minus2ll:+.2g})" in str(values[nodes])
    assert abs(values[3].minus2ll - truth) > 0.5, "three nodes are far from enough here"
    auto = nlme.ofv(Logistic(), data, nlme.Quadrature(nodes="auto"))
    assert auto.minus2ll == pytest.approx(truth, abs=0.1) and auto.method != "Quadrature(nodes=auto)"
    assert abs(auto.next_rule - auto.minus2ll) <= 0.05


def test_a_fit_with_too_few_nodes_says_so_and_auto_raises_them(data, table, tmp_path):
    coarse = nlme.fit(Logistic(), data, nlme.Quadrature(nodes=3), progress=False)
    assert any("next rule moves -2LL" in message and 'nodes="auto"' in message for message in coarse.warnings)
    assert "next rule" in str(coarse)
    fit = nlme.fit(Logistic(), data, nlme.Quadrature(nodes="auto"), progress=False)
    assert fit.method == nlme.Quadrature(nodes="auto") and fit.converged
    assert abs(fit.log_likelihood.rule_difference) <= 0.05 and not any("rule" in message for message in fit.warnings)
    a, b = fit.parameters["estimate"][["a", "b"]]
    assert fit.minus2ll == pytest.approx(exact(table, a, b, fit.omega.iloc[0, 0]), abs=0.1)
    again = nlme.load(fit.save(tmp_path / "run"), Logistic(), data)
    assert again.log_likelihood.next_rule == fit.log_likelihood.next_rule and str(again) == str(fit)
    errors = fit.with_standard_errors(kind="R").uncertainty
    nodes = int(errors.method.removeprefix("Quadrature(nodes=").removesuffix(")"))
    assert nodes > 3
    few = nlme.standard_errors(fit, nlme.Quadrature(nodes=3), kind="R")
    truth = curvature_by_differences(table, a, b, fit.omega.iloc[0, 0])
    for found in (errors, few):
        assert found.table["se"][["a", "b"]].to_numpy() == pytest.approx(truth[:2], rel=0.03)
        assert found.table["se"]["omega_a"] == pytest.approx(truth[2], rel=0.05)


def curvature_by_differences(table, *point):
    """Standard errors from second differences of the exact -2LL."""
    point, step = np.array(point), np.array([0.02, 0.02, 0.2])
    units, half = np.diag(step), np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            ends = [
                sign * other * exact(table, *(point + sign * units[i] + other * units[j]))
                for sign in (1, -1)
                for other in (1, -1)
            ]
            half[i, j] = 0.5 * sum(ends) / (4 * step[i] * step[j])
    return np.sqrt(np.diag(np.linalg.inv(half)))


def test_the_rule_is_raised_until_the_next_one_agrees():
    seen = []

    def rule(nodes):
        seen.append(nodes)
        return torch.tensor([1.0, 0.5**nodes])

    nodes, value, following = raised(rule)
    assert nodes == 5 and seen == [3, 5, 7]
    assert float(value[1]) == 0.5**5 and float(following[1]) == 0.5**7
    assert raised(lambda nodes: torch.tensor([0.9**nodes]) if nodes < 8 else None)[::2] == (7, None)
    with pytest.raises(nlme.FitError, match="more than 20,000 nodes"):
        raised(lambda nodes: None)


@pytest.mark.parametrize("method", [nlme.ImportanceSampling(draws=4000), nlme.Quadrature(nodes="auto"), nlme.Laplace()])
def test_a_value_at_given_parameters_by_any_likelihood_method(data, table, method):
    parameters = {"a": 0.1, "b": 0.2, "omega_a": 5.0}
    truth = exact(table, 0.1, 0.2, 5.0)
    model = Logistic()
    value = nlme.ofv(model, data, method, parameters)
    assert value.minus2ll == value.ofv, "binary outcomes have no constant"
    assert value.minus2ll == pytest.approx(value.subjects["minus2ll"].sum(), abs=1e-9)
    if isinstance(method, nlme.ImportanceSampling):
        assert 0 < value.standard_error < 0.5 and abs(value.minus2ll - truth) < 4 * value.standard_error
        assert "Monte-Carlo SE" in str(value) and value.subjects["k_hat"].max() < 0.7
    elif isinstance(method, nlme.Quadrature):
        assert value.minus2ll == pytest.approx(truth, abs=0.1)
    else:
        assert abs(value.minus2ll - truth) > 1, "Laplace is wrong here"
    assert float(model.a.value) == 0.3


def test_annealing_at_given_parameters_with_its_error(data, table):
    few = data.subset(data.subjects[:8])
    annealing = Annealing(groups=4, chains=16, moves=1)
    method = nlme.AnnealedImportanceSampling(annealing=annealing, target_error=5.0, progress=False)
    value = nlme.ofv(Logistic(), few, method)
    truth = exact(table[table["ID"] <= 8], 0.3, 0.5, 8.0)
    assert value.standard_error > 0 and abs(value.minus2ll - truth) < 4 * value.standard_error


def test_standard_errors_after_saem_of_what_cannot_be_linearised(data):
    saem = nlme.SAEM(schedule=nlme.StepSchedule(burn_in=2, exploration=10, smoothing=5))
    fit = nlme.fit(Logistic(), data, saem, likelihood=nlme.Laplace(mode_starts=1), progress=False)
    assert _suitable(fit) == nlme.StochasticInformation(), "the estimates are no maximum of Laplace's approximation"
    exact = nlme.Quadrature(nodes=5)
    assert _suitable(dataclasses.replace(fit, log_likelihood=nlme.loglik(fit, exact))) == exact


def test_a_value_says_that_the_solver_is_inexact():
    class Decay(nlme.Model):
        """Amounts of a billionth, far below the solver's absolute tolerance."""

        states = ("x",)

        def __init__(self):
            super().__init__()
            self.k = nlme.LogNormal(1.0, omega=0.1)

        def initial(self, p):
            return (1e-9,)

        def dynamics(self, t, y, p):
            return (-p.k * y.x,)

        def observe(self, t, y, p):
            return {"y": torch.distributions.Normal(y.x, 2e-11)}

    times = np.arange(1, 6)
    frame = pd.DataFrame({"ID": 1, "TIME": times, "y": 1e-9 * np.exp(-1.1 * times)})
    data = nlme.Dataset.from_frame(frame, outputs="y")
    value = nlme.ofv(Decay(), data, nlme.Laplace(), solver=nlme.Tsit5(1e-6, 1e-8))
    assert any("solver's error moves -2 log-likelihood" in message for message in value.warnings)
    assert "the solver's error" in str(value) and "evaluate again" in str(value)
    tight = nlme.ofv(Decay(), data, nlme.Laplace(), solver=nlme.Tsit5(1e-9, 1e-18))
    assert tight.warnings == () and "warning" not in str(tight)
