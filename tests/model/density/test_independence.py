"""User code that mixes chains or subjects is refused; nothing else is."""

import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.independence import refuse_mixing


class Decay(nlme.Model):
    """Exponential decay in closed form."""

    def __init__(self):
        super().__init__()
        self.k, self.z = nlme.LogNormal(0.5, omega=0.3), nlme.Latent(2)
        self.sd = nlme.Positive(0.3)

    def predict(self, t, p, cov):
        return torch.exp(-p.k * t)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sd)}


class DecayEquation(Decay):
    """The same as an equation."""

    states = ("a",)
    predict = nlme.Model.predict

    def initial(self, p):
        return (1.0,)

    def dynamics(self, t, y, p):
        return (-p.k * y.a,)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.a, p.sd)}


def first_chain(self, p, cov):
    return {"q": p.k[0]}


def first_subject(self, t, p, cov):
    return torch.exp(-p.k[..., :1] * t)


def mean_of_all(self, t, p, cov):
    return torch.exp(-p.k.mean() * t)


def one_record(self, t, y, p):
    return {"DV": dist.Normal(y.a, p.k[0])}


MIXED = {
    "an index in individual": (Decay, {"individual": first_chain, "predict": lambda s, t, p, cov: torch.exp(-p.q * t)}),
    "an index over subjects": (Decay, {"predict": first_subject}),
    "a mean": (Decay, {"predict": mean_of_all}),
    "an index in dynamics": (DecayEquation, {"initial": lambda s, p: (p.k[0],)}),
    "a mean in dynamics": (DecayEquation, {"dynamics": lambda s, t, y, p: (-p.k * y.a.mean(),)}),
    "an index in observe": (DecayEquation, {"observe": one_record}),
}


@pytest.fixture(scope="module")
def data():
    return nlme.Dataset.from_frame(pd.DataFrame({"ID": [1, 1, 2, 2, 3, 3], "TIME": [1.0, 2.0] * 3, "DV": 0.5}))


@pytest.mark.parametrize("name", MIXED)
def test_code_that_mixes_chains_or_subjects_is_refused(data, name):
    base, methods = MIXED[name]
    model = type("Mixed", (base,), methods)()
    with pytest.raises(nlme.ModelError, match=r"Mixed: the likelihood of a subject depends on .* plain arithmetic"):
        nlme.ofv(model, data)


def test_a_fit_is_refused_too(data):
    base, methods = MIXED["a mean"]
    with pytest.raises(nlme.ModelError, match="depends on"):
        nlme.fit(type("Mixed", (base,), methods)(), data, nlme.FOCEI(), progress=False)


@pytest.mark.parametrize("solver", [nlme.Auto(), nlme.Auto(compile=False), nlme.RK4(20), nlme.TorchDiffEq()])
@pytest.mark.parametrize("base", [Decay, DecayEquation])
def test_plain_arithmetic_is_not(data, base, solver):
    refuse_mixing(Density(base(), data.batch(), solver))


def test_a_vector_of_latent_effects_has_entries(data):
    class Vector(Decay):
        def predict(self, t, p, cov):
            return torch.exp(-p.k * t) + 0.1 * p.z[0] + 0.2 * p.z[1]

    refuse_mixing(Density(Vector(), data.batch(), nlme.Auto()))
