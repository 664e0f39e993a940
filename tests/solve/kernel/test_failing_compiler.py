"""A compiler that fails, at the solver's own code or only at that of its derivatives, costs time and no result."""

import math
import shutil

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.solve import Auto, solve
from nlme_torch.solve.kernel import build as module
from nlme_torch.solve.kernel import find
from nlme_torch.solve.kernel.build import BuildError, compiler, named
from nlme_torch.solve.linear import recurrence
from nlme_torch.solve.linear.compiled import _find as closed_form

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")

# compiles as long as fewer sources were asked for than its limit says
FAILING = """#!/bin/sh
for argument in "$@"; do
  case "$argument" in *kernel.cpp)
    echo >> {count}
    if [ $(wc -l < {count}) -gt {limit} ]; then echo "killed: out of memory" >&2; exit 1; fi;;
  esac
done
exec {real} "$@"
"""


def forget():
    """Forget what this process compiled and could not compile."""
    find._kernels.clear()
    for cached in (closed_form, recurrence._library):
        cached.cache_clear()


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """A function that makes the compiler fail after so many sources, in an empty cache."""

    def after(limit):
        script, count = tmp_path / "cxx", tmp_path / "count"
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        count.write_text("")
        script.write_text(FAILING.format(count=count, limit=limit, real=named(compiler())))
        script.chmod(0o700)
        monkeypatch.setenv("NLME_TORCH_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(module, "compiler", lambda: (str(script),))
        forget()

    yield after
    forget()


def saturable(t, y, p):
    return torch.stack([-p[0] * y[0] / (1.25 + y[0])])


def second_derivative():
    """Of the state at 2 in the rate, and what of the solve was compiled."""
    rate = torch.tensor([0.7, 0.9, 1.1], dtype=torch.float64, requires_grad=True)
    times = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)[:, None]
    solution = solve(saturable, torch.full((1, 3), 2.0, dtype=torch.float64), times, (rate,), solver=Auto())
    (first,) = torch.autograd.grad(solution.states[-1].sum(), rate, create_graph=True)
    return torch.autograd.grad(first.sum(), rate)[0]


def test_each_derivative_that_cannot_be_compiled_is_done_without(failing, caplog):
    expected = second_derivative()
    for limit, failures in ((0, 0), (1, 0), (2, 1)):  # the solver, its gradient, the gradient of that
        caplog.clear()
        failing(limit)
        if failures:
            with pytest.raises(BuildError, match=r"no fault of the model.*solver=Auto\(compile=False\)"):
                second_derivative()
        for _ in range(2):
            torch.testing.assert_close(second_derivative(), expected, rtol=1e-5, atol=1e-8)
        assert caplog.text.count("slower tensor operations instead") == 1, limit


class Saturable(nlme.Model):
    states = ("amount",)

    def __init__(self):
        super().__init__()
        self.rate, self.sigma = nlme.LogNormal(0.8, omega=0.04), nlme.Positive(0.1)

    def initial(self, p):
        return (2.0,)

    def dynamics(self, t, y, p):
        return (-p.rate * y.amount / (1.75 + y.amount),)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.amount, p.sigma)}


class Bolus(nlme.Model):
    """One compartment as a closed form."""

    states = ("central",)

    def __init__(self):
        super().__init__()
        self.cl, self.sigma = nlme.LogNormal(0.8, omega=0.04), nlme.Positive(0.1)

    def compartments(self, p):
        return nlme.compartments.OneCompartment(clearance=p.cl, volume=1.0)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.central, p.sigma)}


def decays():
    rng = np.random.default_rng(0)
    rows = [
        {"ID": i, "TIME": t, "AMT": 2.0 * (t == 0), "EVID": int(t == 0),
         "DV": np.nan if t == 0 else 2 * math.exp(-0.4 * t * math.exp(0.2 * e)) + 0.1 * rng.normal()}
        for i, e in enumerate(rng.normal(size=20)) for t in (0.0, 1.0, 2.0, 3.0)
    ]  # fmt: skip
    return nlme.Dataset.from_frame(pd.DataFrame(rows))


@pytest.mark.parametrize(("model", "limit"), [(Saturable, 2), (Bolus, 1), (Bolus, 3)])
def test_a_fit_goes_on_without_what_cannot_be_compiled(failing, monkeypatch, model, limit):
    short = nlme.FOCEI(optimiser=nlme.TrustRegion(iterations=2), mode_starts=1)
    data = decays()
    if model is Saturable:
        data = nlme.Dataset.from_frame(data.frame.drop(columns=["AMT", "EVID"]).dropna())
    expected = nlme.fit(model(), data, short, progress=False)
    failing(limit)
    found = nlme.fit(model(), data, short, progress=False)
    assert found.ofv == pytest.approx(expected.ofv, abs=1e-4)
    assert not [warning for warning in found.warnings if "compil" in warning]
