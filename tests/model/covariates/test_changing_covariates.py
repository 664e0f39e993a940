"""Covariates that change within subjects: what dynamics, networks and observations see, against scipy."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy.integrate import solve_ivp

import nlme_torch as nlme
from nlme_torch.model import Density

SOLVER = nlme.Tsit5(1e-10, 1e-12)
TIMES = np.array([0.0, 1.0, 1.0, 2.5, 4.0, 6.0, 7.0])
WEIGHT = np.array([[50.0, 60.0, 60.0, 45.0, 80.0, 80.0, 70.0], [70.0, 70.0, 30.0, 40.0, 55.0, 90.0, 60.0]])


def dataset(rule, doses=True):
    """Two subjects whose weight changes from row to row; a lagged dose, another one, and a reset with a dose."""
    rows = []
    for subject, weights in enumerate(WEIGHT):
        for record, (time, weight) in enumerate(zip(TIMES, weights, strict=True)):
            event = {0: 1, 3: 1, 5: 4}.get(record, 0) if doses else 0
            amount = 0.0 if event == 0 else 10.0 + subject
            rows.append(
                {
                    "ID": subject,
                    "TIME": time,
                    "EVID": event,
                    "AMT": amount,
                    "DV": np.nan if event else 1.0,
                    "WT": weight,
                }
            )
    frame = pd.DataFrame(rows)
    return nlme.Dataset.from_frame(frame if doses else frame.drop(columns=["EVID", "AMT"]), time_varying={"WT": rule})


def weight_at(rule, weights):
    """The weight as a function of time, from the rule's own definition."""

    def value(time):
        before = np.searchsorted(TIMES, time, side="right") - 1
        after = min(before + 1, len(TIMES) - 1)
        if rule == "linear":
            return np.interp(time, TIMES[[before, after]], weights[[before, after]])
        return weights[before if rule == "locf" else after]

    return value


class Weighted(nlme.Model):
    """Elimination that is proportional to weight, a lagged dose, and a baseline."""

    states = ("central", "effect")

    def __init__(self):
        super().__init__()
        self.k, self.lag = nlme.LogNormal(0.01), nlme.LogNormal(0.4)

    def individual(self, p, cov):
        return {"wt": cov.WT}

    def initial(self, p):
        return 3.0, p.wt / 10

    def dosing(self, p):
        return {"central": nlme.Dosing(lag=p.lag, bioavailability=p.wt / 50)}

    def dynamics(self, t, y, p):
        return -p.k * p.wt * y.central, p.wt / 50 - 0.3 * y.effect

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.central + y.effect + p.wt, 1.0)}


class Networked(Weighted):
    """The same with a network that is asked for the weight, and one that is asked for it in ``individual``."""

    def __init__(self):
        super().__init__()
        self.net = nlme.MLP(2, 3, 1, output="softplus")
        self.scale = nlme.MLP(1, 2, 1)

    def individual(self, p, cov):
        return {"wt": cov.WT, "scaled": p.scale(cov.WT / 50)}

    def dynamics(self, t, y, p):
        return -0.1 * p.net(p.wt / 50, y.central / 10) * y.central, p.scaled - 0.3 * y.effect


def by_scipy(weights, weight, k, lag, amount, decline, supply):
    """States at the rows: the written-out events of one subject, one after the other."""
    begin = np.array([3.0, weights[0] / 10])
    pieces = [(TIMES[record] + lag, weights[record]) for record in (0, 3, 5)] + [(6.0, "reset")]
    state, now = begin.copy(), 0.0
    stops = sorted({*TIMES, *(time for time, _ in pieces)})

    def advance(state, start, end):
        middle = 0.5 * (start + end)

        def slope(t, y):
            # right of the stop at the left end, left of the one at the right
            w = weight(np.clip(t, start + 1e-12 * (middle - start), end - 1e-9 * (end - middle)))
            return [-decline(w, y[0], k) * y[0], supply(w) - 0.3 * y[1]]

        return solve_ivp(slope, (start, end), state, method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1]

    at = {}
    for stop in stops:
        state = advance(state, now, stop) if stop > now else state
        now = stop
        for time, what in pieces:
            if time == stop and what == "reset":  # with the weight of its own record
                state = np.array([3.0, weights[5] / 10])
            elif time == stop:
                state = state + np.array([amount * what / 50, 0.0])
        at[stop] = state
    return np.array([at[time] for time in TIMES])


def states_of(model, data):
    density = Density(model, data.batch(), SOLVER)
    eta = torch.zeros(model.n_effects, 1, 1, 2, dtype=torch.float64)
    conditional = density.at()
    with torch.no_grad():
        states, _ = conditional.predict(conditional.individual(eta), eta)
        observed, _ = conditional.observe(eta)
    return torch.stack(states, 1)[:, :, 0, 0].numpy(), observed["DV"].mean[:, 0, 0].numpy()


@pytest.mark.parametrize("rule", ["locf", "nocb", "linear"])
def test_dynamics_and_observations_see_the_current_value(rule):
    found, mean = states_of(Weighted(), dataset(rule))
    for subject, weights in enumerate(WEIGHT):
        expected = by_scipy(
            weights, weight_at(rule, weights), 0.01, 0.4, 10.0 + subject, lambda w, y, k: k * w, lambda w: w / 50
        )
        np.testing.assert_allclose(found[:, :, subject], expected, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(mean[:, subject], expected.sum(1) + weights, rtol=1e-7)


def mlp(network, *inputs):
    """A network of one hidden tanh layer, in numpy."""
    weights, n_in, n_hidden = network.weights.detach().numpy(), network.sizes[0], network.sizes[1]
    first = weights[: n_in * n_hidden].reshape(n_hidden, n_in)
    bias, out = weights[n_in * n_hidden :][:n_hidden], weights[(n_in + 1) * n_hidden :]
    value = out[:n_hidden] @ np.tanh(first @ np.array(inputs) + bias) + out[n_hidden]
    return np.log1p(np.exp(value)) if network.output == "softplus" else value


@pytest.mark.parametrize("rule", ["locf", "nocb"])
def test_a_network_sees_the_current_value(rule):
    model = Networked()
    found, _ = states_of(model, dataset(rule))
    for subject, weights in enumerate(WEIGHT):
        arguments = (
            0.0, 0.4, 10.0 + subject,
            lambda w, y, k: 0.1 * mlp(model.net, w / 50, y / 10), lambda w: mlp(model.scale, w / 50),
        )  # fmt: skip
        expected = by_scipy(weights, weight_at(rule, weights), *arguments)
        frozen = by_scipy(weights, lambda t, w=weights[0]: w, *arguments)
        np.testing.assert_allclose(found[:, :, subject], expected, rtol=1e-7, atol=1e-8)
        assert np.abs(expected - frozen).max() > 0.01, "a frozen covariate would not be noticed"


def test_a_closed_form_sees_the_value_at_every_record():
    class Line(nlme.Model):
        def __init__(self):
            super().__init__()
            self.a = nlme.LogNormal(2.0)

        def individual(self, p, cov):
            return {"slope": cov.WT / 10}

        def predict(self, t, p, cov):
            return p.a + p.slope * t + cov.WT

        def observe(self, t, y, p):
            return {"DV": dist.Normal(y, p.slope)}

    data = dataset("locf", doses=False)
    density = Density(Line(), data.batch(), SOLVER)
    eta = torch.tensor([[[[0.0, 0.3]]]], dtype=torch.float64)
    expected = np.zeros(2)
    for subject, weights in enumerate(WEIGHT):
        mean = 2.0 * np.exp(0.3 * subject) + weights / 10 * TIMES + weights
        sd = weights / 10
        expected[subject] = (-0.5 * ((1.0 - mean) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)).sum()
    np.testing.assert_allclose(density.at().log_likelihood(eta)[0, 0].numpy(), expected, rtol=1e-12)


def test_values_that_change_have_exact_gradients():
    density = Density(Networked(), dataset("linear").batch(), SOLVER)
    eta = torch.zeros(density.model.n_effects, 1, 1, 2, dtype=torch.float64)
    values = {name: value.detach().clone()[None] for name, value in density.model.named_parameters()}
    weights = values["net.weights"].requires_grad_()
    scale = values["scale.weights"].requires_grad_()
    found = torch.autograd.grad(density.at(values).log_likelihood(eta).sum(), (weights, scale))
    for tensor, gradient in zip((weights, scale), found, strict=True):
        for index in (0, 2):
            ends = []
            for step in (1e-5, -1e-5):
                moved = tensor.detach().clone()
                moved[0, index] += step
                name = "net.weights" if tensor is weights else "scale.weights"
                with torch.no_grad():
                    ends.append(density.at({**values, name: moved}).log_likelihood(eta).sum().item())
            assert abs(gradient[0, index].item() - (ends[0] - ends[1]) / 2e-5) < 1e-5 * (1 + abs(gradient[0, index]))


def test_subjects_and_starts_do_not_mix():
    model = Weighted()
    whole = Density(model, dataset("linear").batch(), SOLVER)
    eta = 0.3 * whole.at().sample(3, torch.Generator().manual_seed(1))
    together = whole.at().log_joint(eta)
    for subject in range(2):
        alone = Density(model, dataset("linear").batch().select([subject]), SOLVER)
        for chain in range(3):
            value = alone.at().log_joint(eta[:, chain : chain + 1, :, subject : subject + 1])
            torch.testing.assert_close(value[0, 0, 0], together[chain, 0, subject], rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("rule", ["locf", "nocb"])
def test_compartments_in_closed_form_agree_with_the_equation(rule):
    class Equation(Weighted):
        states = ("depot", "central")

        def initial(self, p):
            return 2.0, p.wt / 10

        def dosing(self, p):
            return {"depot": nlme.Dosing(lag=p.lag), "central": nlme.Dosing(bioavailability=p.wt / 50)}

        def dynamics(self, t, y, p):
            return -0.7 * y.depot, 0.7 * y.depot - p.k * p.wt * y.central

        def observe(self, t, y, p):
            return {"DV": dist.Normal(y.central + p.wt, 1.0)}

    class ClosedForm(Equation):
        dynamics = nlme.Model.dynamics

        def compartments(self, p):
            return nlme.compartments.OneCompartment(clearance=p.k * p.wt, volume=1.0, absorption=0.7)

    frame = dataset(rule).frame
    dosed = frame["EVID"] > 0
    frame = frame.assign(
        CMT=np.where(frame["TIME"] == 2.5, 2, 1), DUR=np.where(frame["TIME"] == 2.5, 2.0, 0.0),
        SS=np.where(dosed & (frame["TIME"] > 0), 2, 0), II=np.where(dosed & (frame["TIME"] > 0), 9.0, 0.0),
    )  # fmt: skip
    data = nlme.Dataset.from_frame(frame, time_varying={"WT": rule})
    np.testing.assert_allclose(states_of(ClosedForm(), data)[0], states_of(Equation(), data)[0], rtol=1e-6, atol=1e-8)
