"""Mistakes in the code of a model end in an error that quotes the user's line and says what to write."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.model.density.density import Density
from nlme_torch.solve import choose_solver


def subjects(count=3, **columns):
    rows = [{"ID": i, "TIME": t, "DV": 1.0, "WT": 60.0 + i} for i in range(count) for t in (0.0, 1.0, 2.0)]
    return nlme.Dataset.from_frame(pd.DataFrame(rows).assign(**columns))


class Oral(nlme.Model):
    states = ("depot", "central")

    def __init__(self):
        super().__init__()
        self.ka, self.cl, self.v = nlme.LogNormal(1.0), nlme.LogNormal(1.0), nlme.LogNormal(10.0)
        self.sigma = nlme.Positive(0.5)

    def dynamics(self, t, y, p):
        return -p.ka * y.depot, p.ka * y.depot - p.cl / p.v * y.central

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.central / p.v, p.sigma)}


class Closed(nlme.Model):
    def __init__(self):
        super().__init__()
        self.k, self.sigma, self.dose = nlme.LogNormal(0.1), nlme.Positive(0.5), 100.0

    def predict(self, t, p, cov):
        return torch.exp(-p.k * t)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def root(value):
    return math.sqrt(value)


def assigned(y):
    y.depot = 0.0


def doubled(value):
    value *= 2
    return value


def branch_on_a_state(self, t, y, p):
    if y.central > 0:  # HERE
        return -y.depot, y.depot
    return y.depot, y.depot


def branch_on_the_time(self, t, y, p):
    rate = p.ka if t < 12 else 2 * p.ka  # HERE
    return -rate * y.depot, rate * y.depot


def no_return(self, t, y, p):  # HERE
    -p.ka * y.depot, p.ka * y.depot


def filled_in(self, t, y, p):
    change = torch.zeros(2)
    return change  # HERE


DYNAMICS = {
    branch_on_a_state: "torch.where",
    branch_on_the_time: "torch.where",
    no_return: "write return derivative_of_depot, derivative_of_central",
    filled_in: "without torch.stack or torch.tensor",
    (lambda self, t, y, p: (-y.depot, max(y.central, 0.0))): "torch.maximum",
    (lambda self, t, y, p: (-y.depot, math.exp(y.central))): "same name in torch",
    (lambda self, t, y, p: (-y.depot, root(y.central))): r"return math\.sqrt\(value\)\n.*same name in torch",
    (lambda self, t, y, p: (-y.depot, np.sqrt(y.central))): "same name in torch",
    (lambda self, t, y, p: (-y.depot, np.ones(1) * y.central)): "a plain number",
    (lambda self, t, y, p: (-y.depot, torch.tensor([y.central]))): "use the value as it is",
    (lambda self, t, y, p: torch.tensor([-y.depot, y.depot])): "use the value as it is",
    (lambda self, t, y, p: torch.stack([-y.depot, y.depot])): "without torch.stack",
    (lambda self, t, y, p: (sum(y.depot), y.depot)): "goes through the entries",
    (lambda self, t, y, p: (doubled(y.depot), y.depot)): r"value \*= 2\n.*changes in place",
    (lambda self, t, y, p: (y.depot.neg_(), y.depot)): "changes in place",
    (lambda self, t, y, p: -y.depot): "write return derivative_of_depot, derivative_of_central",
    (lambda self, t, y, p: (-y.depot, y.depot, t)): "returned 3 values for the 2 states depot, central",
    (lambda self, t, y, p: (-y.depo, y.depot)): r"states are depot, central. Did you mean y\.depot\?",
    (lambda self, t, y, p: (-y.ka * y.depot, y.depot)): r"'ka' is a parameter: write p\.ka",
    (lambda self, t, y, p: (-y["depot"], y.depot)): r"write y\.depot",
    (lambda self, t, y, p: (-y[0], y[2])): "2 states: depot, central",
    (lambda self, t, y, p: (assigned(y), y.depot)): "A state cannot be assigned to",
    (lambda self, t, y, p: (-self.ka * y.depot, y.depot)): r"write p\.ka, which is its value",
    (lambda self, t, y, p: (-y.depot, y.depot * self.cl / self.v)): r"write p\.cl",
    (lambda self, t, y, p: (-y.depot, torch.exp(self.cl))): r"write p\.cl",
    (lambda self, t, y, p: (-p.kaa * y.depot, y.depot)): r"p has no 'kaa'; it has .* Did you mean p\.ka\?",
    (lambda self, t, y, p: (-p["ka"] * y.depot, y.depot)): r"write p\.ka",
    (lambda self, t, y, p: (-ka * y.depot, y.depot)): r"'ka' is a parameter: write p\.ka",  # noqa: F821
    (lambda self, t, y, p: (-depot, y.depot)): r"'depot' is a state: write y\.depot",  # noqa: F821
    (lambda self, t, y, p: (-y.depot, torch.exp(0.5))): "math.exp",
    (lambda self, t, y, p: (-y.depot, torch.maximum(y.central, 0.0))): r"clamp\(min=0\.0\)",
    (lambda self, t, y, p: (-y.depot, -torch.max(y.central, 0))): "torch.maximum",
    (lambda self, t, y, p: (-y.depot, y.central + "a")): "plain arithmetic",
    (lambda self, t, y, p: (-y.depot, p.ka())): "plain arithmetic",
}


@pytest.mark.parametrize("dynamics", DYNAMICS, ids=[str(k) for k in range(len(DYNAMICS))])
@pytest.mark.parametrize("count", [1, 3])
def test_a_mistake_in_dynamics_quotes_its_line_and_the_remedy(dynamics, count):
    model = type("Written", (Oral,), {"dynamics": dynamics})()
    with pytest.raises(nlme.ModelError, match=f"(?s){DYNAMICS[dynamics]}") as caught:
        Density(model, subjects(count).batch(), choose_solver(None))
    check_place(str(caught.value), "dynamics", dynamics)


OTHERS = {
    "predict": {
        (lambda self, t, p, cov: math.exp(-p.k * t)): "same name in torch",
        (lambda self, t, p, cov: t if cov.WT > 60 else 2 * t): "torch.where",
        (lambda self, t, p, cov: t * p.kk): r"Did you mean p\.k\?",
        (lambda self, t, p, cov: t * p.dose): r"self\.dose is a plain number",
        (lambda self, t, p, cov: t * cov.wt): r"Did you mean cov\.WT\?",
        (lambda self, t, p, cov: t * cov["WT"]): r"write cov\.WT",
        (lambda self, t, p, cov: t * cov.TIME): "means the time, which the methods of a model get as t",
        (lambda self, t, p, cov: t * cov.SCALE): "'SCALE' is no covariate: it varies within subjects",
        (lambda self, t, p, cov: t * cov.SEX): "'SEX' is no covariate: it holds text",
    },
    "observe": {
        (lambda self, t, y, p: dist.Normal(y, p.sigma)): "write return {'DV': dist.Normal",
        (lambda self, t, y, p: {"DV": y}): "must be a distribution, got Tensor; write 'DV': dist.Normal",
        (lambda self, t, y, p: {"dv": dist.Normal(y, p.sigma)}): "they have 'DV'",
        (lambda self, t, y, p: {"DV": dist.Normal(y)}): "Give the argument",
        (lambda self, t, y, p: {"DV": dist.Normal(y, self.sigma)}): r"write p\.sigma",
        (lambda self, t, y, p: None): "must return a dict",
    },
    "individual": {
        (lambda self, p, cov: None): "return {}",
        (lambda self, p, cov: (p.k,)): "must return a dict of name to value, got tuple",
        (lambda self, p, cov: {"k": p.k if cov.WT > 60 else 2 * p.k}): "torch.where",
        (lambda self, p, cov: {"k": np.log(p.k)}): "same name in torch",
    },
}
CASES = [(method, function) for method, functions in OTHERS.items() for function in functions]


@pytest.mark.parametrize(("method", "function"), CASES, ids=[f"{m}{k}" for k, (m, _) in enumerate(CASES)])
def test_a_mistake_in_another_method_quotes_its_line_and_the_remedy(method, function):
    model = type("Written", (Closed,), {method: function})()
    data = subjects(SCALE=range(9), SEX="f")
    with pytest.raises(nlme.ModelError, match=f"(?s){OTHERS[method][function]}") as caught:
        Density(model, data.batch(), choose_solver(None))
    check_place(str(caught.value), method, function)


def check_place(message, method, function):
    """The message begins with the method, the line of this file and the line itself."""
    found = re.match(rf"Written\.{method}, line (\d+) of (.*test_mistakes\.py):\n    (.*)\n", message)
    assert found, message
    lines = Path(__file__).read_text().splitlines()
    assert lines[int(found[1]) - 1].strip() == found[3]
    first = function.__code__.co_firstlineno
    here = [number for number in range(first, first + 5) if "# HERE" in lines[number - 1]]
    if function.__name__ != "<lambda>":
        assert int(found[1]) == here[0]
    elif found[3] not in ("return math.sqrt(value)", "value *= 2", "y.depot = 0.0"):
        assert int(found[1]) == first


SIGNATURES = {
    "dynamics": [lambda self, t, y: y, lambda self, y, t, p: y, lambda self, t, p, y: y, lambda t, y, p: y],
    "predict": [lambda self, t, p: t, lambda self, t, u, p: t, lambda self, t, cov, p: t, lambda self, p, t, cov: t],
    "observe": [lambda self, y, p: {}, lambda self, y, t, p: {}],
    "individual": [lambda self, p: {}, lambda self, cov, p: {}],
    "initial": [lambda self: (0.0,), lambda self, p, cov: (0.0,), lambda self, t: (0.0,)],
}
RIGHT = {
    "dynamics": "def dynamics(self, t, y, p):",
    "predict": "def predict(self, t, p, cov):",
    "observe": "def observe(self, t, y, p):",
    "individual": "def individual(self, p, cov):",
    "initial": "def initial(self, p):",
}


@pytest.mark.parametrize("method", SIGNATURES)
def test_a_wrong_signature_is_refused_at_construction_with_the_right_one(method):
    for function in SIGNATURES[method]:
        kind = type("Written", (Closed if method == "predict" else Oral,), {method: function})
        with pytest.raises(nlme.ModelError, match=re.escape(RIGHT[method])) as caught:
            kind()
        assert f"line {function.__code__.co_firstlineno} of " in str(caught.value)


def test_other_names_in_the_right_places_are_taken():
    names = {"dynamics": lambda me, time, x, theta: (-theta.ka * x.depot, x.depot)}
    Density(type("Own", (Oral,), names)(), subjects().batch(), choose_solver(None))


def test_what_was_made_in_a_method_may_be_changed_in_place():
    def predict(self, t, p, cov):
        total = torch.zeros_like(t)
        total += t * p.k
        return total

    Density(type("Own", (Closed,), {"predict": predict})(), subjects().batch(), choose_solver(None))


def test_an_error_of_the_library_itself_is_not_taken_for_the_users(monkeypatch):
    monkeypatch.setattr("nlme_torch.model.density.density.probe", lambda density: [].pop())
    with pytest.raises(IndexError, match="pop from empty list"):
        Density(Closed(), subjects().batch(), choose_solver(None))


def test_a_full_memory_is_not_taken_for_a_mistake():
    def predict(self, t, p, cov):
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError, match="full"):
        Density(type("Own", (Closed,), {"predict": predict})(), subjects().batch(), choose_solver(None))


def test_a_declared_effect_of_a_column_that_is_no_covariate_says_why():
    class Effect(Closed):
        def __init__(self):
            super().__init__()
            self.a = nlme.LogNormal(1.0, nlme.Shift("SCALE"))

    with pytest.raises(nlme.ModelError, match=r"Shift\('SCALE'\) of 'a': .* it varies within subjects"):
        Density(Effect(), subjects(SCALE=range(9)).batch(), choose_solver(None))


def test_what_is_assigned_to_p_is_refused_as_it_would_be_lost():
    class Assigned(Oral):
        def individual(self, p, cov):
            p.cl = p.cl * cov.WT / 70
            return {}

    with pytest.raises(nlme.ModelError, match=r'p\.cl = p\.cl \* cov\.WT / 70\n.*changes nothing.*return \{"cl"'):
        Density(Assigned(), subjects().batch(), choose_solver(None))
