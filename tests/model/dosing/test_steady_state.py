"""Steady states that are hard to reach: overlapping infusions, long lags, slow and saturable elimination, areas."""

import math

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

import nlme_torch as nlme
from nlme_torch.model import Density
from nlme_torch.model.density.probe import why_not_finite
from nlme_torch.model.dosing.steady_state import Cycle, _inside, _keeps, _kept, _newton, one_cycle

V = 10.0


class Intravenous(nlme.Model):
    """One compartment, with a lag and a modelled duration."""

    states = ("central",)

    def __init__(self, k=0.1, lag=0.0, length=1.0):
        super().__init__()
        self.k, self.sigma = nlme.LogNormal(k), nlme.Positive(1.0)
        self.lag, self.length = nlme.Real(lag), nlme.Real(length)

    def dosing(self, p):
        return {"central": nlme.Dosing(lag=p.lag, duration=p.length)}

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.central / V, p.sigma)}


class Equation(Intravenous):
    def dynamics(self, t, y, p):
        return (-p.k * y.central,)


class ClosedForm(Intravenous):
    def compartments(self, p):
        return nlme.compartments.OneCompartment(p.k * V, V)


def looks(model, dose, times, solver=None):
    """Every state at times after (in the file) one dose, at zero effects; the density and the trajectory's effects."""
    rows = [{"ID": 1, "TIME": 0.0, "EVID": 1, "DV": np.nan} | dose]
    rows += [{"ID": 1, "TIME": time, "EVID": 0, "DV": 1.0} for time in times]
    fill = {name: 0 for name in ("AMT", "RATE", "DUR", "II", "ADDL", "SS")}
    frame = pd.DataFrame(rows, columns=["ID", "TIME", "EVID", "DV", *fill]).fillna(fill)
    density = Density(model, nlme.Dataset.from_frame(frame).batch(), solver or nlme.Auto())
    conditional = density.at()
    eta = torch.zeros(model.n_effects, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    solution = conditional.solution(conditional.individual(eta), eta)
    seen = density.batch.outcomes["DV"].mask[:, 0]
    return solution.states[seen][..., 0, 0, 0], solution, (conditional, eta)


def infused(times, k, rate, starts, length):
    """Amounts by superposition of infusions that begin at ``starts``."""
    age = np.asarray(times)[:, None] - np.asarray(starts)
    running = np.clip(age, 0, length)
    return (rate / k * (1 - np.exp(-k * running)) * np.exp(-k * np.clip(age - length, 0, None))).sum(1)


TIMES = [0.0, 0.7, 2.9, 3.1, 4.9, 6.0, 11.0, 14.0, 30.0]


@pytest.mark.parametrize("model", [ClosedForm, Equation])
@pytest.mark.parametrize("lag", [0.0, 3.0])
@pytest.mark.parametrize("length", [4.0, 5.0, 5.5, 13.0])
@pytest.mark.parametrize("modelled", [False, True])
def test_infusions_at_steady_state_that_outlast_their_interval(model, lag, length, modelled):
    """By adding up all infusions of the past; 4.0 does not outlast it, but laps over the row where it lags."""
    dose = {"AMT": 20.0, "II": 5.0, "SS": 1, "ADDL": 2, **({"RATE": -2} if modelled else {"DUR": length})}
    states, *_ = looks(model(lag=lag, length=length), dose, TIMES)
    starts = lag + 5.0 * np.arange(-400, 3)
    np.testing.assert_allclose(
        states[:, 0].detach().numpy(), infused(TIMES, 0.1, 20.0 / length, starts, length), rtol=2e-6, atol=1e-8
    )


@pytest.mark.parametrize("model", [ClosedForm, Equation])
def test_repeated_infusions_overlap(model):
    states, *_ = looks(model(), {"AMT": 20.0, "II": 2.0, "ADDL": 3, "DUR": 5.0}, TIMES)
    starts = 2.0 * np.arange(4)
    np.testing.assert_allclose(
        states[:, 0].detach().numpy(), infused(TIMES, 0.1, 4.0, starts, 5.0), rtol=2e-6, atol=1e-8
    )


@pytest.mark.parametrize("model", [ClosedForm, Equation])
def test_a_lag_of_more_than_the_interval_is_read_as_nonmem_reads_it(model):
    """The row has the state just after a dose (an infusion's: at its begin, to end at D + lag - II); nothing is due."""
    k, times = 0.1, np.array([0.0, 2.0, 6.9, 7.0, 9.0])
    states, *_ = looks(model(lag=7.0), {"AMT": 20.0, "II": 5.0, "SS": 1}, times)
    peak = 20.0 / (1 - math.exp(-5 * k))
    expected = peak * np.exp(-k * times) + 20.0 * np.where(times >= 7, np.exp(-k * (times - 7.0)), 0.0)
    np.testing.assert_allclose(states[:, 0].detach().numpy(), expected, rtol=2e-6)
    states, *_ = looks(model(lag=7.0), {"AMT": 20.0, "II": 5.0, "SS": 1, "DUR": 1.0}, times)
    trough = infused([0.0], k, 20.0, 5.0 * np.arange(-400, 0), 1.0)
    expected = trough * np.exp(-k * times) + infused(times, k, 20.0, [0.0], 3.0) + infused(times, k, 20.0, [7.0], 1.0)
    np.testing.assert_allclose(states[:, 0].detach().numpy(), expected, rtol=2e-6)


@pytest.mark.parametrize("rate", [1e-3, 1e-5])
def test_slow_accumulation(rate):
    """k II = 0.005 and 0.00005: the trough is D / (exp(k II) - 1), its derivative in log k follows."""
    states, _, (_, eta) = looks(Equation(k=rate), {"AMT": 20.0, "II": 5.0, "SS": 1}, [0.0, 5.0])
    trough = 20.0 / math.expm1(5 * rate)
    assert states[0, 0].item() == pytest.approx(trough + 20.0, rel=1e-6)
    (slope,) = torch.autograd.grad(states[0, 0], eta)
    assert slope.item() == pytest.approx(-5 * rate * math.exp(5 * rate) * trough**2 / 20.0, rel=1e-5)


class Saturable(nlme.Model):
    """Michaelis-Menten elimination, and the area under the curve."""

    states = ("central", "area")

    def __init__(self):
        super().__init__()
        self.top, self.sigma = nlme.LogNormal(6.0), nlme.Positive(1.0)

    def dynamics(self, t, y, p):
        return -p.top * y.central / (15.0 + y.central), 1.0 * y.central

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.central, p.sigma)}


def saturable_peak(top, amount, every):
    """The amount just after a dose at steady state, by the equation's implicit solution."""
    return brentq(lambda peak: amount + 15.0 * math.log(peak / (peak - amount)) - top * every, amount + 1e-9, 1e7)


@pytest.mark.parametrize(("amount", "every"), [(20.0, 5.0), (29.0, 5.0), (5.0, 5.0)])
def test_saturable_elimination_and_its_derivatives(amount, every):
    """29 of at most 30 that can be eliminated in an interval: 290 doses would be needed."""
    dose = {"AMT": amount, "II": every, "SS": 1}
    states, _, (_, eta) = looks(Saturable(), dose, [0.0, 2.5], nlme.Auto(rtol=1e-8))
    peak, step = saturable_peak(6.0, amount, every), 1e-4
    above, below = (saturable_peak(6.0 * math.exp(side * step), amount, every) for side in (1, -1))
    assert states[0, 0].item() == pytest.approx(peak, rel=1e-6)
    (slope,) = torch.autograd.grad(states[0, 0], eta, create_graph=True)
    assert slope.item() == pytest.approx((above - below) / (2 * step), rel=1e-4)
    (bend,) = torch.autograd.grad(slope.sum(), eta)
    assert bend.item() == pytest.approx((above - 2 * peak + below) / step**2, rel=1e-3)
    # the area begins at zero: it has no steady state, and nothing depends on it
    path = solve_ivp(lambda t, y: [-6 * y[0] / (15 + y[0]), y[0]], (0, 2.5), [peak, 0.0], rtol=1e-10, atol=1e-10).y
    assert states[0, 1].item() == 0.0 and states[1, 1].item() == pytest.approx(path[1, -1], rel=1e-5)


def test_more_than_can_be_eliminated_has_no_steady_state():
    _, solution, (conditional, eta) = looks(Saturable(), {"AMT": 31.0, "II": 5.0, "SS": 1}, [1.0])
    assert not solution.ok.any()
    assert "reaches no steady state" in why_not_finite(conditional, eta, 0, 0)


def test_a_state_that_keeps_the_dose_is_named():
    class Kept(Saturable):
        def dynamics(self, t, y, p):
            return -p.top * y.central, p.top * y.central

    _, solution, (conditional, eta) = looks(Kept(), {"AMT": 31.0, "II": 5.0, "SS": 1}, [1.0])
    assert not solution.ok.any()
    assert "'area' keeps all that is given" in why_not_finite(conditional, eta, 0, 0)


def test_an_endless_infusion_of_a_saturable_drug():
    """top c / (15 + c) = rate, whatever the area beside it does."""
    states, _, (_, eta) = looks(Saturable(), {"AMT": 0.0, "RATE": 4.5, "SS": 1}, [0.0])
    assert states[0, 0].item() == pytest.approx(45.0, rel=1e-9)
    (slope,) = torch.autograd.grad(states[0, 0], eta)
    assert slope.item() == pytest.approx(-15 * 4.5 * 6 / 1.5**2, rel=1e-9)


def test_an_unsettled_subject_leaves_the_others_as_they_are():
    model = Saturable()
    rows = [
        {"ID": s, "TIME": t, "EVID": int(t == 0), "DV": 1.0, "AMT": 20.0 * (t == 0)} for s in (1, 2) for t in (0, 2)
    ]
    frame = pd.DataFrame(rows).assign(SS=lambda f: f["EVID"], II=lambda f: 5.0 * f["EVID"])
    frame.loc[frame["EVID"] == 1, "DV"] = np.nan
    conditional = Density(model, nlme.Dataset.from_frame(frame).batch(), nlme.Auto()).at()
    base = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    moved = base.clone()
    moved[..., 1] = -1.0
    values = [conditional.log_joint(eta) for eta in (base, moved)]
    assert torch.equal(values[0][..., 0], values[1][..., 0]) and values[1][0, 0, 1] == -math.inf


# ------------------------------------------------------------------ pieces, by hand


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


class Seen(Exception):
    """Carries what would have been solved."""


def seen(rate, lag, duration, overlaps):
    """Times, amounts and rates of the cycle of 5 before time 100."""

    def advance(state, times, events):
        raise Seen(times, events)

    one = torch.ones(1, dtype=torch.float64)
    cycle = Cycle(
        time=100 * one,
        interval=5 * one,
        lag=lag * one,
        amount=column(8.0),
        rate=None if rate is None else column(rate),
        duration=duration * one,
        overlaps=overlaps * one,
        constant=False,
    )
    with pytest.raises(Seen) as found:
        one_cycle(advance, cycle, column(2.0))
    times, events = found.value.args
    return times[:, 0].tolist(), events.amounts[:, 0, 0].tolist(), events.rates


def test_what_enters_in_a_cycle():
    assert seen(None, 3.0, 0.0, 0.0) == ([95, 98, 100], [0, 8, 0], None)
    for lag, duration, overlaps, times, running in (
        (1.0, 2.0, 0.0, [95, 95, 96, 98, 100], [1, 0, 1, 0, 0]),
        (3.0, 4.0, 0.0, [95, 97, 98, 100, 100], [1, 0, 1, 0, 0]),
        (3.0, 4.0, 2.0, [95, 97, 98, 100, 100], [3, 2, 3, 2, 2]),
    ):
        found, amounts, rates = seen(0.5, lag, duration, overlaps)
        assert found == times and amounts == [0, 0, 8, 0, 0]
        assert rates[:, 0, 0].tolist() == [0.5 * number for number in running]


def test_a_step_leaves_a_tenth_of_what_is_there():
    state, after = column(10.0, 1.0), column(8.0, 2.0)
    torch.testing.assert_close(_inside(state, after, column(-18.4, 1.0)), column(-9.2, 0.5))
    torch.testing.assert_close(_inside(after, state, column(-14.4, 1.0)), column(-7.2, 0.5))
    for unbounded in (
        (state, after, column(-9.1, 1.0)),
        (0 * state, after, column(-9.9, 1.0)),
        (state, -after, -state),
    ):
        assert torch.equal(_inside(*unbounded), unbounded[2])


def test_states_that_only_add_up_others_and_what_they_keep():
    """A compartment, the area under it and the area under that; then a sink with and without another way out."""
    chain = torch.tensor([[0.5, 0.0, 0.0], [2.0, 1.0, 0.0], [1.0, 3.0, 1.0]], dtype=torch.float64)[..., None]
    assert _kept(chain)[:, 0].tolist() == [True, False, False]
    for taken, given, change, keeps in (
        (0.7, [True, False], [1.0, 0.7], True),
        (0.5, [True, False], [1.0, 0.5], False),
        (0.7, [True, False], [1.0, 0.0], False),
        (0.5, [False, True], [0.0, 1.0], True),
    ):
        jacobian = torch.tensor([[0.3, 0.0], [taken, 1.0]], dtype=torch.float64)[..., None]
        kept = _kept(jacobian)
        found = _keeps(jacobian, kept, torch.tensor(given)[:, None], column(*change))
        assert kept[:, 0].tolist() == [True, False] and found[:, 0].tolist() == [False, keeps]


def test_newton_ends_at_the_fixed_point_to_rounding_and_goes_by_plain_steps_where_it_cannot_be_evaluated():
    """x -> sqrt(x) + a, whose fixed point is the square of (1 + sqrt(1 + 4 a)) / 2; no value above 30."""
    calls = []

    def move(state):
        calls.append(state)
        return torch.where(state < 30, state.sqrt(), torch.nan) + 2, (state < 30)[0]

    for start, most in ((1.0, 8), (29.9, 8), (0.27, 12)):
        calls.clear()
        found = _newton(move, column(start), torch.ones(1, 1, dtype=torch.bool))
        assert found.state.item() == pytest.approx(4.0, rel=1e-12) and bool(found.settled) and len(calls) <= most
        # 1 - 1 / (2 sqrt(4))
        assert found.inverse.item() == pytest.approx(4 / 3, rel=1e-5)


class Changing(nlme.Model):
    """Clearance in proportion to a covariate that changes."""

    states = ("central",)

    def __init__(self):
        super().__init__()
        self.k, self.sigma = nlme.LogNormal(0.1, omega=1e-16), nlme.Positive(1.0)

    def individual(self, p, cov):
        return {"rate": p.k * cov.X}

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.central, p.sigma)}


class ChangingEquation(Changing):
    def dynamics(self, t, y, p):
        return (-p.rate * y.central,)


class ChangingClosedForm(Changing):
    def compartments(self, p):
        return nlme.compartments.OneCompartment(p.rate * V, V)


@pytest.mark.parametrize("model", [ChangingEquation, ChangingClosedForm])
@pytest.mark.parametrize("rule", ["locf", "nocb"])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_steady_state_is_that_of_the_covariates_at_its_own_record(model, rule, compiled):
    """PREDPP's: parameters are those of the dose's record, whichever way covariates hold until the next."""
    frame = pd.DataFrame(
        {"ID": 1, "TIME": [0.0, 4.0, 6.0], "AMT": [100.0, 0, 0], "SS": [1, 0, 0], "II": [12.0, 0, 0]}
    ).assign(EVID=[1, 0, 0], DV=[np.nan, 1.0, 1.0], X=[1.0, 2.0, 3.0])
    data = nlme.Dataset.from_frame(frame, time_varying={"X": rule})
    peak = 100 / (1 - math.exp(-0.1 * 12))
    until = {"locf": (1.0, 2.0), "nocb": (2.0, 3.0)}[rule]
    first = peak * math.exp(-0.1 * until[0] * 4)
    found = nlme.simulate(model(), data, residual=False, solver=nlme.Auto(compile=compiled), seed=1, replicates=1).table
    np.testing.assert_allclose(found["value"], [first, first * math.exp(-0.1 * until[1] * 2)], rtol=1e-6)
