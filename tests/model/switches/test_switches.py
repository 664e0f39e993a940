"""Equations that switch in time are stopped where they switch: values, gradients to the switch times, likelihoods."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy.integrate import solve_ivp

import nlme_torch as nlme
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.moving_doses import dose_times_move
from nlme_torch.solve import Auto, Rodas5P, Tsit5

RATE, WIDTH, K = 100.0, 0.1, 0.3
SOLVERS = {
    "compiled": Auto(rtol=1e-9, atol=1e-11),
    "plain": Auto(rtol=1e-9, atol=1e-11, compile=False),
    "stiff": Rodas5P(rtol=1e-9, atol=1e-11),
    "explicit": Tsit5(rtol=1e-9, atol=1e-11, compile=False),
}


class Input(nlme.Model):
    """dy/dt = input(t, p) - k y from 0."""

    states = ("amount",)

    def __init__(self, inflow, tsw=5.05, individual=None):
        super().__init__()
        self.k, self.tsw, self.s = nlme.LogNormal(K), nlme.LogNormal(tsw), nlme.Positive(0.1)
        self.inflow = inflow
        if individual is not None:
            self.individual = individual

    def initial(self, p):
        return (0.0,)

    def dynamics(self, t, y, p):
        return (self.inflow(t, p) - p.k * y.amount,)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.amount, p.s)}


def table(times=(0.0, 5.0, 10.0), subjects=2, **columns):
    rows = [{"ID": i, "TIME": t, "DV": 1.0} for i in range(subjects) for t in times]
    return nlme.Dataset.from_frame(pd.DataFrame(rows).assign(**columns), time_varying=list(columns))


def solved(model, data, solver="compiled", eta=None, of=(-1, 0), twice=False):
    """States ``(record, state, subject)``, and of one of them first and, if wanted, second derivatives by effects."""
    density = Density(model, data.batch(), SOLVERS[solver])
    subjects = density.batch.n_subjects
    eta = torch.zeros(model.n_effects, 1, 1, subjects).double() if eta is None else eta[:, None, None]
    eta = eta.clone().requires_grad_()
    conditional = density.at()
    solution = conditional.solution(conditional.individual(eta), eta)
    assert bool((solution.status == 0).all())
    states = solution.states[:, :, 0, 0]
    first = torch.autograd.grad(states[of].sum(), eta, create_graph=twice)[0]
    if not twice:
        return states.detach(), first[:, 0, 0], None
    second = torch.stack([torch.autograd.grad(row.sum(), eta, retain_graph=True)[0] for row in first])
    return states.detach(), first[:, 0, 0].detach(), second[:, :, 0, 0]


def after_pulses(k, pulses, when):
    """dy/dt = RATE within the pulses, - k y, at a time: the closed form."""
    total = torch.zeros((), dtype=torch.float64)
    for begin, end in pulses:
        begin, end = (torch.as_tensor(time, dtype=torch.float64).clamp(0.0, when) for time in (begin, end))
        total = total + RATE / k * (torch.exp(-k * (when - end)) - torch.exp(-k * (when - begin)))
    return total


def expected(pulses, tsw, when=10.0):
    """Value, gradient and Hessian with respect to log k and log tsw, by the closed form."""

    def value(logs):
        return after_pulses(logs[0].exp(), pulses(logs[1].exp()), when)

    at = torch.tensor([K, tsw], dtype=torch.float64).log()
    return value(at), torch.func.grad(value)(at), torch.func.hessian(value)(at)


PULSES = {
    "mask": (lambda t, p: RATE * ((t >= p.tsw) & (t < p.tsw + WIDTH)), lambda s: [(s, s + WIDTH)]),
    "where": (lambda t, p: torch.where((t < p.tsw) | (p.tsw + WIDTH <= t), 0.0, RATE), lambda s: [(s, s + WIDTH)]),
    "difference": (
        lambda t, p: RATE * ((p.tsw - t <= 0).double() - torch.gt(t - WIDTH, p.tsw).to(t.dtype)),
        lambda s: [(s, s + WIDTH)],
    ),
    "scaled": (lambda t, p: RATE * (~((t / p.tsw < 1) | (3 * (p.tsw + WIDTH - t) < 0))), lambda s: [(s, s + WIDTH)]),
    "sign": (lambda t, p: RATE / 2 * (1 - torch.sign((t - p.tsw) * (2 + p.tsw))), lambda s: [(0.0, s)]),
    "twice": (
        lambda t, p: RATE * (t < p.tsw) * (t >= p.tsw - WIDTH) + RATE * ((t > 7.01) & (t < 7.03)),
        lambda s: [(s - WIDTH, s), (7.01, 7.03)],
    ),
    "unsorted": (
        lambda t, p: torch.where(t < p.tsw, torch.where(t < p.tsw / 2, RATE, 0.0), torch.where(t > 9, RATE, RATE)),
        lambda s: [(0.0, s / 2), (s, 10.0)],
    ),
    "square wave": (
        lambda t, p: RATE * (torch.remainder(t, p.tsw / 5) < WIDTH),
        lambda s: [(n * s / 5, n * s / 5 + WIDTH) for n in range(10)],
    ),
    "shifted wave": (
        lambda t, p: RATE * ((t - p.tsw) % 4.0 >= 3.9),
        lambda s: [(s + n * 4 - WIDTH, s + n * 4) for n in (-1, 0, 1)],
    ),
    "fmod": (lambda t, p: RATE * (torch.fmod(t + p.tsw, 6.0) < 0.5), lambda s: [(6 - s, 6.5 - s), (12 - s, 12.5 - s)]),
    "floor": (lambda t, p: RATE * (torch.floor(t / p.tsw) == 1), lambda s: [(s, 2 * s)]),
    "unit step": (
        lambda t, p: RATE * torch.heaviside(p.tsw - t, torch.zeros((), dtype=t.dtype)),
        lambda s: [(0.0, s)],
    ),
    "integer": (lambda t, p: RATE * ((t / p.tsw).long() == 1), lambda s: [(s, 2 * s)]),
    "kind": (lambda t, p: RATE * ((t / p.tsw).to(torch.int64) < 1), lambda s: [(0.0, s)]),
    "whole part": (lambda t, p: RATE * ((t + p.tsw) // 9 > 0) * (torch.ceil(t) < 9), lambda s: [(9 - s, 8.0)]),
    "sine": (
        lambda t, p: RATE * (torch.sin(2 * torch.pi * (t - p.tsw) / 4) > 0.5),
        lambda s: [(s + 4 * n + 1 / 3, s + 4 * n + 5 / 3) for n in (-2, -1, 0, 1)],
    ),
    "cosine": (
        lambda t, p: RATE * (3 * torch.cos(2 * torch.pi * t / p.tsw) - 1.5 >= 0.0),
        lambda s: [(n * s - s / 6, n * s + s / 6) for n in (0, 1, 2)],
    ),
    "distance": (lambda t, p: RATE * ((t - p.tsw).abs() < WIDTH), lambda s: [(s - WIDTH, s + WIDTH)]),
    "square": (lambda t, p: RATE * (1 - (t - p.tsw) ** 2 > 1 - p.tsw**2 / 1e4), lambda s: [(0.99 * s, 1.01 * s)]),
    "decay": (lambda t, p: RATE * (torch.exp(-t / p.tsw) > 0.5), lambda s: [(0.0, s * np.log(2))]),
    "phase": (
        lambda t, p: RATE * (torch.log((t % 2.5 + 1) / p.tsw) < -1.0),
        lambda s: [(n * 2.5, n * 2.5 + s / np.e - 1) for n in range(4)],
    ),
    "half a period": (
        lambda t, p: RATE * torch.sign(torch.sin(torch.pi * t / p.tsw)).clamp(min=0.0),
        lambda s: [(0.0, s)],
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "solver"),
    [(name, "plain") for name in PULSES] + [(name, "compiled") for name in ("mask", "unsorted", "square wave", "sine")],
)
def test_switches_are_followed_with_their_derivatives(name, solver):
    inflow, pulses = PULSES[name]
    states, first, second = solved(Input(inflow), table(), solver, twice=True)
    value, gradient, hessian = expected(pulses, 5.05)
    torch.testing.assert_close(states[-1, 0], value.expand(2), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(states[1, 0], expected(pulses, 5.05, 5.0)[0].expand(2), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(first, gradient[:, None].expand(2, 2), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(second, hessian[:, :, None].expand(2, 2, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", ["stiff", "explicit"])
def test_every_solver_stops_there(solver):
    inflow, pulses = PULSES["mask"]
    states, first, _ = solved(Input(inflow), table(), solver)
    value, gradient, _ = expected(pulses, 5.05)
    torch.testing.assert_close(states[-1, 0], value.expand(2), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(first, gradient[:, None].expand(2, 2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("solver", ["compiled", "plain"])
def test_a_switch_at_a_record_keeps_its_gradient(solver):
    inflow, pulses = PULSES["mask"]
    states, first, _ = solved(Input(inflow, tsw=5.0), table(), solver)
    value, gradient, _ = expected(pulses, 5.0)
    torch.testing.assert_close(states[-1, 0], value.expand(2), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(first, gradient[:, None].expand(2, 2), rtol=1e-6, atol=1e-6)


def test_two_switches_at_one_time_keep_both_gradients():
    def inflow(t, p):
        return RATE * (t < p.tsw) + RATE * (t > 5 * p.k / K)

    _, first, _ = solved(Input(inflow, tsw=5.0), table())

    def value(logs):
        k, tsw = logs.exp()
        return after_pulses(k, [(0.0, tsw), (5 * k / K, 10.0)], 10.0)

    gradient = torch.func.grad(value)(torch.tensor([K, 5.0], dtype=torch.float64).log())
    torch.testing.assert_close(first, gradient[:, None].expand(2, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tsw", [1e-5, 9.95, 10.5, 1e9])
def test_switches_outside_the_records_do_nothing(tsw):
    model = Input(lambda t, p: RATE * ((t >= p.tsw - WIDTH) & (t < p.tsw + WIDTH)), tsw=tsw)
    states, first, _ = solved(model, table())
    value, gradient, _ = expected(lambda s: [(s - WIDTH, s + WIDTH)], tsw)
    torch.testing.assert_close(states[-1, 0], value.expand(2), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(first, gradient[:, None].expand(2, 2), rtol=1e-6, atol=1e-6)


def test_each_subject_switches_at_its_own_time():
    inflow, pulses = PULSES["mask"]
    eta = torch.tensor([[0.1, -0.2, 0.0], [0.3, -0.4, -8.0]]).double()
    states, first, _ = solved(Input(inflow), table(subjects=3), eta=eta)
    for subject in range(3):
        logs = torch.tensor([K, 5.05]).double().log() + eta[:, subject]

        def value(logs):
            return after_pulses(logs[0].exp(), pulses(logs[1].exp()), 10.0)

        torch.testing.assert_close(states[-1, 0, subject], value(logs), rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(first[:, subject], torch.func.grad(value)(logs), rtol=1e-6, atol=1e-6)


def test_a_covariate_that_changes_may_hold_the_switch_time():
    def individual(p, cov):
        return {**vars(p), "last": cov.LAST}

    times = (0.0, 2.0, 4.0, 10.0)
    data = table(times, subjects=1, LAST=[0.0, 2.0, 4.0, 4.0])
    model = Input(lambda t, p: RATE * (t - p.last < p.tsw), tsw=0.7, individual=individual)
    states, first, _ = solved(model, data)
    value, gradient, _ = expected(lambda s: [(0.0, s), (2.0, 2.0 + s), (4.0, 4.0 + s)], 0.7)
    torch.testing.assert_close(states[-1, 0, 0], value, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(first[:, 0], gradient, rtol=1e-6, atol=1e-6)


class Dosed(nlme.Model):
    """Saturable elimination that is induced by a factor between two moments."""

    states = ("depot", "central")

    def __init__(self):
        super().__init__()
        self.tsw, self.vmax, self.s = nlme.LogNormal(14.2), nlme.LogNormal(8.0), nlme.Positive(0.2)

    def initial(self, p):
        return 0.0, 3.0

    def dosing(self, p):
        return {"depot": nlme.Dosing(lag=0.4)}

    def dynamics(self, t, y, p):
        vmax = p.vmax * torch.where((t >= p.tsw) & (t < 20.0), 2.5, 1.0)
        return -0.8 * y.depot, 0.8 * y.depot - vmax * y.central / (5.0 + y.central)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.central, p.s)}


def dosed_rows():
    events = [
        (0, 1, 100),
        (2, 0, 0),
        (12, 1, 100),
        (14.2, 0, 0),
        (15, 4, 60),
        (16, 0, 0),
        (20, 3, 0),
        (20, 1, 50),
        (23, 0, 0),
    ]
    return [
        {"ID": 1, "TIME": t, "EVID": code, "AMT": amount, "CMT": 1, "DV": 1.0 if code == 0 else np.nan}
        for t, code, amount in events
    ]  # fmt: skip


def by_hand(tsw, vmax):
    """States after each row, by intervals between all that happens."""
    happens = [(row["TIME"] + (0.4 if row["AMT"] else 0.0), "dose", row["AMT"]) for row in dosed_rows() if row["AMT"]]
    happens += [(row["TIME"], "reset", 0.0) for row in dosed_rows() if row["EVID"] in (3, 4)]
    happens += [(time, "switch", 0.0) for time in (tsw, 20.0)]
    happens += [(row["TIME"], "row", index) for index, row in enumerate(dosed_rows())]
    state, now, found = np.array([0.0, 3.0]), 0.0, {}
    for time, kind, value in sorted(
        happens, key=lambda one: (one[0], ["dose", "reset", "switch", "row"].index(one[1]))
    ):
        if time > now:
            rate = vmax * (2.5 if tsw <= (now + time) / 2 < 20.0 else 1.0)

            def slope(_, y, rate=rate):
                return [-0.8 * y[0], 0.8 * y[0] - rate * y[1] / (5.0 + y[1])]

            state, now = solve_ivp(slope, (now, time), state, rtol=1e-12, atol=1e-13).y[:, -1], time
        if kind == "dose":
            state = state + np.array([value, 0.0])
        elif kind == "reset":
            state = np.array([0.0, 3.0])
        elif kind == "row":
            found[value] = state
    return np.array([found[index] for index in range(len(found))])


@pytest.mark.parametrize(
    ("tsw", "solver"), [(t, "compiled") for t in (14.2, 15.4, 15.0, 12.4, 17.3)] + [(15.4, "plain")]
)
def test_switches_among_doses_lags_and_resets(tsw, solver):
    model, data = Dosed(), nlme.Dataset.from_frame(pd.DataFrame(dosed_rows()))
    eta = torch.tensor([[np.log(tsw / 14.2)], [0.0]]).double()
    row = 6 if tsw > 16 else 5  # the last one that a switch at this time reaches
    states, first, _ = solved(model, data, solver, eta=eta, of=(row, 1))
    np.testing.assert_allclose(states[:, :, 0], by_hand(tsw, 8.0), rtol=2e-6, atol=2e-6)
    # a switch at the time of a dose or a reset acts just after it: one-sided differences
    step = 1e-5
    for effect, name in enumerate(("tsw", "vmax")):
        at = {"tsw": tsw, "vmax": 8.0}
        now, later, last = (by_hand(**at | {name: at[name] * np.exp(n * step)})[row, 1] for n in range(3))
        assert first[effect, 0] == pytest.approx((4 * later - 3 * now - last) / (2 * step), rel=1e-5, abs=1e-5)


def test_what_does_not_switch_is_left_alone():
    def field_of(inflow):
        density = Density(Input(inflow), table().batch(), SOLVERS["compiled"])
        conditional = density.at()
        eta = torch.zeros(2, 1, 1, 2).double()
        return conditional.trajectory(conditional.individual(eta), eta).system.switched

    assert field_of(lambda t, p: torch.exp(-t) + torch.relu(t - p.tsw)) is None
    assert field_of(lambda t, p: torch.where(p.k > p.tsw, 1.0, t)) is None
    assert field_of(lambda t, p: 1.0 * (t < p.tsw)) is not None


@pytest.mark.parametrize(
    ("inflow", "moves"),
    [(lambda t, p: 1.0 * (t < p.tsw), True), (lambda t, p: 1.0 * (t < 3.0), False), (lambda t, p: p.tsw, False)],
)
def test_whether_switch_times_move_with_parameters(inflow, moves):
    assert dose_times_move(Density(Input(inflow), table().batch(), SOLVERS["compiled"])) is moves


class ClosedForm(nlme.Model):
    """The model of a step at a switch time, solved."""

    def __init__(self, tsw):
        super().__init__()
        self.k, self.tsw, self.s = nlme.LogNormal(K), nlme.LogNormal(tsw), nlme.Positive(0.1)

    def predict(self, t, p, cov):
        late = (t - p.tsw).clamp(min=0.0)
        return 10.0 / p.k * (1 - torch.exp(-p.k * t)) + 30.0 / p.k * (1 - torch.exp(-p.k * late))

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.s)}


def stepped(tsw):
    return Input(lambda t, p: torch.where(t < p.tsw, 10.0, 40.0), tsw=tsw)


def simulated(subjects=20):
    frame = table((0.0, 1.0, 3.0, 4.5, 7.0, 8.0, 10.0), subjects)
    return nlme.simulate(ClosedForm(5.2), frame, seed=3)


def test_likelihood_and_fit_are_those_of_the_closed_form():
    data = simulated()
    found, right = (nlme.ofv(model, data, nlme.FOCEI()).minus2ll for model in (stepped(5.0), ClosedForm(5.0)))
    assert found == pytest.approx(right, abs=2e-3)
    fit, exact = (nlme.fit(model, data, nlme.FOCEI(), seed=1) for model in (stepped(4.0), ClosedForm(4.0)))
    assert fit.converged
    assert fit.warnings == ()
    assert fit.minus2ll == pytest.approx(exact.minus2ll, abs=2e-3)
    assert fit.parameters.estimate["tsw"] == pytest.approx(exact.parameters.estimate["tsw"], rel=1e-3)


def test_subjects_with_few_records_switch_as_often_as_they_are_observed():
    rows = [(1, 0.0), (1, 3.0), (1, 9.0), (1, 20.0), (2, 0.0), (2, 30.0), (3, 5.0)]
    data = nlme.Dataset.from_frame(pd.DataFrame([{"ID": i, "TIME": t, "DV": 1.0} for i, t in rows]))
    model = Input(lambda t, p: RATE * (((t % 24.0) < 12.0) & (t >= p.tsw)), tsw=6.0)
    states, first, _ = solved(model, data)
    k = torch.tensor(K, dtype=torch.float64)
    for record, subject, pulses, when in (
        (2, 0, [(6.0, 12.0)], 9.0),
        (3, 0, [(6.0, 12.0)], 20.0),
        (1, 1, [(6.0, 12.0), (24.0, 36.0)], 30.0),
        (3, 2, [], 5.0),
    ):
        assert float(states[record, 0, subject]) == pytest.approx(float(after_pulses(k, pulses, when)), rel=1e-7)
    assert float(first[1, 1]) == pytest.approx(-6.0 * RATE * np.exp(-K * 24.0), rel=1e-6)


@pytest.mark.parametrize("solver", ["compiled", "plain"])
def test_a_covariate_in_straight_lines_switches_where_it_passes(solver):
    def individual(p, cov):
        return {**vars(p), "weight": cov.W}

    frame = pd.DataFrame([{"ID": 1, "TIME": t, "DV": 1.0, "W": w} for t, w in ((0.0, 0.0), (4.0, 8.0), (10.0, 2.0))])
    data = nlme.Dataset.from_frame(frame, time_varying={"W": "linear"})
    model = Input(lambda t, p: RATE * (p.weight > p.tsw), tsw=5.0, individual=individual)
    states, first, _ = solved(model, data, solver)
    value, gradient, _ = expected(lambda s: [(s / 2, 12.0 - s)], 5.0)
    torch.testing.assert_close(states[-1, 0, 0], value, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(first[:, 0], gradient, rtol=1e-6, atol=1e-6)


class Circadian(nlme.Model):
    """Elimination twice as fast in the first ten hours of the day."""

    states = ("amount",)

    def __init__(self):
        super().__init__()
        self.k, self.s = nlme.LogNormal(0.2), nlme.Positive(0.1)

    def initial(self, p):
        return (0.0,)

    def dynamics(self, t, y, p):
        return (-p.k * torch.where(torch.remainder(t, 24.0) < 10.0, 2.0, 1.0) * y.amount,)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.amount, p.s)}


def test_a_steady_state_knows_of_switches_that_repeat_with_it():
    rows = [{"ID": 1, "TIME": 24.0, "AMT": 10.0, "SS": 1, "II": 24.0, "EVID": 1, "DV": np.nan}]
    rows += [{"ID": 1, "TIME": t, "AMT": 0.0, "SS": 0, "II": 0.0, "EVID": 0, "DV": 1.0} for t in (30.0, 36.0, 50.0)]
    states, first, _ = solved(Circadian(), nlme.Dataset.from_frame(pd.DataFrame(rows)))

    def exact(log_k):
        passed = torch.tensor([0.0, 12.0, 22.0, 38.0], dtype=torch.float64)  # hours, those of fast elimination twice
        return 10.0 * torch.exp(-log_k.exp() * passed) / (1 - torch.exp(-34.0 * log_k.exp()))

    log_k = torch.tensor(0.2, dtype=torch.float64).log()
    torch.testing.assert_close(states[:, 0, 0], exact(log_k), rtol=1e-7, atol=1e-9)
    gradient = torch.func.jacfwd(exact)(log_k)[-1]
    torch.testing.assert_close(first[0, 0], gradient, rtol=1e-6, atol=1e-8)


def test_a_subject_that_switches_without_end_is_not_solved():
    density = Density(Input(PULSES["square wave"][0], tsw=1e-4), table().batch(), SOLVERS["compiled"])
    conditional = density.at()
    eta = torch.zeros(2, 1, 1, 2).double()
    eta[1, 0, 0, 1] = np.log(5e4)
    solution = conditional.solution(conditional.individual(eta), eta)
    assert (solution.status == 0)[0, 0].tolist() == [False, True]


def test_dynamics_that_compare_differently_from_call_to_call_are_refused():
    calls = []

    def inflow(t, p):
        calls.append(t)
        return RATE * (t < p.tsw) * ((t > 1.0) if len(calls) < 3 else 1.0)

    with pytest.raises(nlme.ModelError, match="the same in every call"):
        solved(Input(inflow), table(), "plain")
