"""Likelihoods whose records or subjects come to feel each other only when parameters have moved are not compiled."""

import pyro.distributions as dist
import pytest
import torch
from support.compiled_models import density_of, lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.model.compiled.compiled_likelihood import compiled_likelihood, log_likelihood
from nlme_torch.solve.kernel.build import compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
FAR = 5.0
"""Typical values begin at 1 and 0: draws of the effects there stay far below it."""


class Bent(Line):
    """Another formula where ``a`` is large."""

    def __init__(self):
        super().__init__(nlme.Normal(1.0, omega=0.1), nlme.Normal(0.5, omega=0.1))

    def predict(self, t, p, cov):
        return torch.where(p.a > FAR, self.bent(t, p, cov), p.a + p.b * t)


def bent(formula):
    return type("Bent", (Bent,), {"bent": lambda self, t, p, cov: formula(t, p, cov)})()


COUPLED = {
    "running sum": lambda t, p, cov: (p.b * t).cumsum(0),
    "first time": lambda t, p, cov: p.a + p.b * (t - t[0]),
    "first time kept": lambda t, p, cov: p.a + p.b * (t - t[:1]),
    "last time": lambda t, p, cov: p.a + p.b * t.amax(0),
    "backwards": lambda t, p, cov: p.a + p.b * t.flip(0),
    "mean of subjects": lambda t, p, cov: p.a.mean(-1, keepdim=True) + p.b * t,
    "covariate of others": lambda t, p, cov: p.a + p.b * t * cov.x.max(),
    "number of records": lambda t, p, cov: p.a + p.b * t.shape[0],
}


@pytest.mark.parametrize("kind", COUPLED)
def test_the_branch_that_is_not_taken_yet_is_looked_at(kind):
    density = density_of(bent(COUPLED[kind]), lines())
    near = density.at()
    assert compiled_likelihood(near) is None
    far = density.at(near.values | {"a.typical": torch.full_like(near.values["a.typical"], 2 * FAR)})
    eta = far.sample(2, torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(log_likelihood(far, eta), far.log_likelihood(eta))


class CoupledParameter(Bent):
    """A parameter that feels other subjects, in ``individual`` and in equations."""

    states = ("amount",)
    predict = nlme.Model.predict

    def individual(self, p, cov):
        return {"rate": torch.where(p.a > FAR, p.a.mean(-1, keepdim=True), p.a)}

    def initial(self, p):
        return (p.b,)

    def dynamics(self, t, y, p):
        return (-p.rate * y.amount,)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.amount, p.sigma)}


def test_parameters_of_equations_are_looked_at():
    assert compiled_likelihood(density_of(CoupledParameter(), lines()).at()) is None


APART = {
    "both branches": lambda t, p, cov: p.a * torch.exp(-p.b * t) + cov.x,
    "states of a list": lambda t, p, cov: sum(p.a * t**power for power in range(3)),
    "least of two": lambda t, p, cov: torch.stack([p.a + 0 * t, p.b * t]).amin(0),
    "sum of several": lambda t, p, cov: torch.stack([p.a + 0 * t, p.b * t, p.a * t]).sum(0),
}


@pytest.mark.parametrize("kind", APART)
def test_what_is_apart_is_compiled(kind):
    assert compiled_likelihood(density_of(bent(APART[kind]), lines()).at()) is not None
