"""Simulated viral dynamics, and the networks' equations written out again for scipy."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import nlme_torch as nlme
from nlme_torch.model.density.density import Density

RK4 = nlme.RK4(steps=120)  # compiles nothing


def layers(network, *sizes):
    """The network in numpy, from its flat weights."""
    weights, place, pairs = network.weights.detach().numpy(), 0, []
    for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
        matrix = weights[place : place + n_in * n_out].reshape(n_out, n_in)
        place += n_in * n_out
        pairs.append((matrix, weights[place : place + n_out]))
        place += n_out

    def call(*inputs):
        hidden = np.array(inputs)
        for index, (matrix, bias) in enumerate(pairs):
            hidden = matrix @ hidden + bias
            hidden = np.tanh(hidden) if index < len(pairs) - 1 else hidden
        return float(hidden[0])

    return call


def by_scipy(slopes, start, covariates):
    """log10 virus on the sampling days; the depot is filled at a constant rate first."""
    ka, cl, vc = covariates.iKa, covariates.iCL, covariates.iVc
    q, vp, duration = covariates.iQ, covariates.iVp, covariates.iDur

    def full(rate):
        def all_slopes(t, y):
            drug = [
                rate - ka * y[0],
                ka * y[0] + q / vp * y[2] - (cl + q) / vc * y[1],
                q / vc * y[1] - q / vp * y[2],
            ]
            return [*drug, *slopes(1000 * y[1] / vc, y[3:])]

        return all_slopes

    options = {"method": "LSODA", "rtol": 1e-9, "atol": 1e-12}
    infused = solve_ivp(full(500 / duration), (0, duration), [0, 0, 0, *start], **options).y[:, -1]
    days = nlme.examples.viral_design(1, 0).frame.query("AMT == 0").TIME.to_numpy()
    later = solve_ivp(full(0.0), (duration, 28), infused, t_eval=days[days > duration], **options).y
    return np.concatenate([np.array([*[0] * 3, *start])[:, None], later], 1)


def solved(model, data, eta):
    conditional = Density(model, data.batch(), RK4).at()
    with torch.no_grad():
        observed, ok = conditional.observe(eta[:, None, None])
    assert bool(ok.all())
    seen = data.batch().outcomes["Virus"].mask[:, 0] | (data.batch().doses.kind[:, 0] == 0)
    return observed["Virus"].mean[seen, 0, 0, 0].numpy()


@pytest.fixture(scope="module")
def one():
    data = nlme.examples.viral_design(1, seed=3)
    return data, data.covariates.iloc[0]


def test_the_truth_is_what_scipy_integrates(one):
    data, covariates = one
    lam, ec50 = 205.4 * np.exp(0.2), 114.4 * np.exp(-0.5)
    d, beta, a, gamma, omega = 0.143, 3.694e-6, 0.6427, 4098.0, 10.16

    def slopes(c, y):
        infection = ec50 / (ec50 + c) * beta * y[0] * y[2]
        return [lam - d * y[0] - infection, infection - a * y[1], gamma * y[1] - omega * y[2]]

    r0 = lam * beta * gamma / (d * a * omega)
    infected = lam / a * (1 - 1 / r0)
    expected = by_scipy(slopes, [lam / d / r0, infected, gamma * infected / omega], covariates)[5]
    found = solved(nlme.examples.ViralTruth(), data, torch.tensor([[0.2], [-0.5]], dtype=torch.float64))
    np.testing.assert_allclose(found, np.log10(expected), atol=2e-4)
    assert expected.min() < 0.05 * expected[0], "the drug works"


def test_the_growth_network_is_its_equation(one):
    data, covariates = one
    model = nlme.examples.ViralGrowthNetwork()
    network = layers(model.growth, 4, 6, 1)

    def slopes(c, y):
        return [network(0.7, -1.2, (y[0] - 4) / 2, 0.5 * np.log1p(c / 100)) / np.log(10)]

    expected = by_scipy(slopes, [5.0 + 0.1 * 0.7], covariates)[3]
    found = solved(model, data, torch.tensor([[0.7], [-1.2]], dtype=torch.float64))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_infection_network_is_its_equation_in_units_of_the_state_at_rest(one):
    data, covariates = one
    model = nlme.examples.ViralInfectionNetwork()
    network = layers(model.infection, 3, 5, 1)
    rest = np.exp(network(0.0, 0.0, -1.2))
    target, death, infected_death, infected, clearance = 1e3, 0.2, 0.8, 50.0, 8.0  # arbitrary sizes at rest
    virus = 1e5 * np.exp(0.1)
    produced = clearance * virus / infected
    supply = death * target * 3.0  # R0 = 3
    # at rest supply = death T + infection, infection = a I: the sizes must agree
    infected = (supply - death * target) / infected_death
    produced = clearance * virus / infected

    def slopes(c, y):
        relative = np.exp(network(np.log10(y[2] / virus), c / (200 + c), -1.2)) / rest
        infection = infected_death * infected / (target * virus) * relative * y[0] * y[2]
        return [
            supply - death * y[0] - infection,
            infection - infected_death * y[1],
            produced * y[1] - clearance * y[2],
        ]

    expected = by_scipy(slopes, [target, infected, virus], covariates)[5]
    assert np.ptp(np.log10(expected)) > 0.05, "something happens"
    order = {"z": -1.2, "v0": 0.1}
    eta = torch.tensor([[order["z" if "z" in label else "v0"]] for label in model.effect_labels], dtype=torch.float64)
    np.testing.assert_allclose(solved(model, data, eta), np.log10(expected), atol=2e-4)


def test_the_design_has_its_distributions_and_begins_alike_for_any_number_of_subjects():
    covariates = nlme.examples.viral_design(2000, seed=1).covariates
    stated = {"iKa": (0.476, 0.047), "iCL": (40.0, 0.4), "iVc": (67.0, 0.25), "iDur": (0.487, 0.006)}
    for name, (median, spread) in stated.items():
        logs = np.log(covariates[name])
        assert logs.mean() == pytest.approx(np.log(median), abs=4 * spread / np.sqrt(2000)), name
        assert logs.std() == pytest.approx(spread, rel=4 / np.sqrt(4000)), name
    few = nlme.examples.viral_design(3, seed=1).covariates
    np.testing.assert_array_equal(few, covariates[few.columns].iloc[:3])


@pytest.mark.parametrize("name", ["ViralGrowthNetwork", "ViralInfectionNetwork"])
def test_the_networks_have_finite_gradients(name):
    data = nlme.examples.viral_data(3, seed=2)
    density = Density(getattr(nlme.examples, name)(), data.batch(), nlme.RK4(steps=60))
    conditional = density.at()
    eta = conditional.sample(2, torch.Generator().manual_seed(0)).detach().requires_grad_()
    joint = conditional.log_joint(eta)
    (gradient,) = torch.autograd.grad(joint.sum(), eta)
    assert bool(torch.isfinite(joint).all()) and bool(torch.isfinite(gradient).all())
    assert bool((gradient != 0).flatten(1).any(1).all())
