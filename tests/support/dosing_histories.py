"""Random dosing histories of an absorption model, and two independent answers for them.

``superpose`` adds the closed-form responses to all doses that were ever given; ``small_steps`` works the written-out
events off one after the other and integrates between them. Neither uses any code of the package.
"""

import numpy as np
import pandas as pd
import pyro.distributions as dist
from scipy.integrate import solve_ivp

import nlme_torch as nlme
from nlme_torch import compartments

COLUMNS = ["ID", "TIME", "EVID", "DV", "AMT", "CMT", "RATE", "DUR", "II", "ADDL", "SS"]
STATES = ("depot", "central")


class Absorption(nlme.Model):
    """One compartment with first-order absorption; lag, bioavailability, rates and durations are all modelled."""

    states = STATES

    def __init__(self):
        super().__init__()
        self.ka, self.cl, self.v = nlme.LogNormal(1.1), nlme.LogNormal(2.0), nlme.LogNormal(8.0)
        self.lag, self.f, self.g = nlme.LogNormal(0.6), nlme.LogitNormal(0.7), nlme.LogNormal(0.9, omega=0.02)
        self.rate, self.duration = nlme.LogNormal(4.0, omega=0.05), nlme.LogNormal(1.5, omega=0.05)

    def dosing(self, p):
        return {
            "depot": nlme.Dosing(lag=p.lag, bioavailability=p.f, rate=p.rate, duration=p.duration),
            "central": nlme.Dosing(bioavailability=p.g, rate=2 * p.rate, duration=0.5 * p.duration),
        }

    def dynamics(self, t, y, p):
        return -p.ka * y.depot, p.ka * y.depot - p.cl / p.v * y.central

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.central / p.v, 1.0)}


class ClosedForm(Absorption):
    """The same in closed form."""

    dynamics = nlme.Model.dynamics

    def compartments(self, p):
        return compartments.OneCompartment(clearance=p.cl, volume=p.v, absorption=p.ka)


def random_history(rng, subject):
    """Rows of one subject: boluses, infusions of four kinds, repeats, steady states, resets, observations, ties."""
    rows, time = [], 0.0
    for _ in range(rng.integers(2, 9)):
        time += rng.choice([0.0, 0.5, 1.0, 2.0, 3.7, 8.0])
        event = rng.choice([0, 0, 1, 1, 1, 3, 4, 2], p=[0.2, 0.15, 0.15, 0.15, 0.15, 0.05, 0.05, 0.1])
        row = {"ID": subject, "TIME": time, "EVID": int(event), "DV": 1.0 if event == 0 else np.nan}
        if event in (1, 4):
            row |= random_dose(rng)
        rows.append(row)
    rows += [{"ID": subject, "TIME": time + gap, "EVID": 0, "DV": 1.0} for gap in (0.0, 0.3, 2.1, 9.0)]
    return rows


def random_dose(rng):
    """The dosing columns of one row; nothing lasts longer than the interval."""
    amount, state = float(rng.integers(1, 10)), rng.choice(STATES)
    dose = {"AMT": amount, "CMT": state, "RATE": 0.0, "DUR": 0.0, "II": 0.0, "ADDL": 0, "SS": 0}
    kind = rng.choice(["bolus", "rate", "duration", "modelled rate", "modelled duration"])
    if kind == "rate":
        dose["RATE"] = amount / float(rng.choice([0.7, 2.0, 3.5]))
    elif kind == "duration":
        dose["DUR"] = float(rng.choice([0.7, 2.0, 3.5]))
    elif kind != "bolus":
        dose["RATE"] = -1.0 if kind == "modelled rate" else -2.0
    dose["SS"] = int(rng.choice([0, 0, 1, 2]))
    if dose["SS"] and rng.random() < 0.15:
        return dose | {"AMT": 0.0, "RATE": 3.0, "DUR": 0.0}
    dose["ADDL"] = int(rng.choice([0, 0, 2]))
    if dose["SS"] or dose["ADDL"]:
        dose["II"] = float(rng.choice([6.0, 8.0, 12.0]))
    return dose


def table(histories):
    frame = pd.DataFrame([row for rows in histories for row in rows], columns=COLUMNS)
    fill = {name: 0 for name in ("AMT", "RATE", "DUR", "II", "ADDL", "SS")}
    return frame.fillna(fill).astype({"CMT": object}).assign(CMT=lambda f: f["CMT"].fillna("central"))


def given(row, p):
    """What a row gives: amount, rate, duration and lag; rate 0 for a bolus."""
    depot = row.CMT == "depot"
    amount = row.AMT * (p["f"] if depot else p["g"])
    lag = p["lag"] if depot else 0.0
    if row.RATE > 0:
        return amount, row.RATE, amount / row.RATE, lag
    if row.DUR > 0:
        return amount, amount / row.DUR, row.DUR, lag
    if row.RATE == -1:
        rate = p["rate"] * (1 if depot else 2)
        return amount, rate, amount / rate, lag
    if row.RATE == -2:
        duration = p["duration"] * (1 if depot else 0.5)
        return amount, amount / duration, duration, lag
    return amount, 0.0, 0.0, lag


def response(age, depot, p):
    """Amounts in depot and central some time after a unit bolus; zero before it."""
    ka, k = p["ka"], p["cl"] / p["v"]
    after, age = age >= 0, np.maximum(age, 0.0)
    slow, fast = np.exp(-k * age), np.exp(-ka * age)
    return after * np.array([fast, ka / (ka - k) * (slow - fast)] if depot else [0 * slow, slow])


def step(age, depot, p):
    """Amounts some time after the start of an unending unit infusion: the integral of ``response``."""
    ka, k = p["ka"], p["cl"] / p["v"]
    age = np.maximum(age, 0.0)
    slow, fast = (1 - np.exp(-k * age)) / k, (1 - np.exp(-ka * age)) / ka
    return np.array([fast, ka / (ka - k) * (slow - fast)] if depot else [0 * slow, slow])


def superpose(rows, p):
    """``(row, state)`` amounts at every row of one subject, from the file's own order of rows."""
    found = np.zeros((len(rows), 2))
    resets = [row.EVID in (3, 4) or (row.EVID == 1 and row.SS == 1) for row in rows]
    for i, look in enumerate(rows):
        for j, row in enumerate(rows[: i + 1]):
            if row.EVID not in (1, 4) or any(resets[j + 1 : i + 1]):
                continue
            amount, rate, duration, lag = given(row, p)
            depot = row.CMT == "depot"
            if row.SS and row.II == 0:  # a constant infusion ends at its row
                found[i] += rate * (step(np.inf, depot, p) - step(look.TIME - row.TIME, depot, p))
                continue
            starts = row.TIME + lag + row.II * np.arange(int(row.ADDL) + 1)
            if row.SS:
                starts = np.concatenate([starts, row.TIME + lag - row.II * np.arange(1, 200)])
            ages = look.TIME - starts
            if rate:
                found[i] += rate * (step(ages, depot, p) - step(ages - duration, depot, p)).sum(-1)
            else:
                found[i] += amount * response(ages, depot, p).sum(-1)
    return found


def small_steps(rows, p):
    """The same by a queue of events and numerical integration between them."""
    k, ka = p["cl"] / p["v"], p["ka"]
    state, rates, now, queue, found = np.zeros(2), np.zeros(2), rows[0].TIME, [], []

    def advance(state, rates, start, end):
        if end <= start:
            return state
        slope = lambda t, y: [rates[0] - ka * y[0], rates[1] + ka * y[0] - k * y[1]]  # noqa: E731
        return solve_ivp(slope, (start, end), state, method="DOP853", rtol=1e-10, atol=1e-11).y[:, -1]

    def give(queue, start, row):
        amount, rate, duration, lag = given(row, p)
        index = STATES.index(row.CMT)
        if rate:
            return [*queue, (start + lag, index, 0.0, rate), (start + lag + duration, index, 0.0, -rate)]
        return [*queue, (start + lag, index, amount, 0.0)]

    def work_off(queue, state, rates, now, until):
        for when, index, amount, rate in sorted(entry for entry in queue if entry[0] <= until):
            state = advance(state, rates, now, when)
            state, rates, now = state.copy(), rates.copy(), max(now, when)
            state[index] += amount
            rates[index] += rate
        rest = [entry for entry in queue if entry[0] > until]
        return rest, advance(state, rates, now, until), rates, until

    for row in rows:
        queue, state, rates, now = work_off(queue, state, rates, now, row.TIME)
        dose = row.EVID in (1, 4)
        if row.EVID in (3, 4) or (dose and row.SS == 1):
            queue, state, rates = [], np.zeros(2), np.zeros(2)
        if dose and row.SS and row.II == 0:
            rate = np.zeros(2)
            rate[STATES.index(row.CMT)] = given(row, p)[1]
            state = state + advance(np.zeros(2), rate, row.TIME - 40 / min(k, ka), row.TIME)
        elif dose:
            if row.SS:
                before, cycles = [], int(30 / min(k, ka) / row.II) + 2
                for cycle in range(cycles, 0, -1):
                    before = give(before, row.TIME - cycle * row.II, row)
                start = row.TIME - cycles * row.II
                before, settled, running, _ = work_off(before, np.zeros(2), np.zeros(2), start, row.TIME)
                state, rates, queue = state + settled, rates + running, queue + before
            for repeat in range(int(row.ADDL) + 1):
                queue = give(queue, row.TIME + repeat * row.II, row)
            queue, state, rates, now = work_off(queue, state, rates, now, row.TIME)
        found.append(state)
    return np.array(found)
