"""What every raw parameter of a model is, whatever it is made of."""

import torch

import nlme_torch as nlme
from nlme_torch.model.declare.natural import values_from_natural
from nlme_torch.model.declare.raw_parameters import Role, names_of_omega, omega_matrix, raw_name, raw_parameters
from nlme_torch.model.declare.scalars import all_scalars
from nlme_torch.model.declare.values import parameter_values


class Everything(nlme.Model):
    """One of each kind of component."""

    states = ("a",)

    def __init__(self):
        super().__init__()
        occasions = nlme.Occasions(2, omega=0.02)
        self.cl = nlme.LogNormal(2.0, nlme.Power("WT", ref=70.0), omega=0.1, occasions=occasions)
        self.v = nlme.LogNormal(10.0, omega=0.2, occasions=occasions)
        self.f = nlme.LogitNormal(0.4, omega=nlme.Fixed(0.3))
        self.both = nlme.Omega("cl", "v", structure="full")
        self.z = nlme.Latent(1)
        self.shared = nlme.MLP(2, 2, 1)
        self.own = nlme.RandomWeights(nlme.MLP(1, 2, 1), omega=nlme.LowRank(2))
        self.sigma, self.share = nlme.Positive(0.1), nlme.Bounded(0.3, 0.0, 1.0)

    def initial(self, p):
        return (1.0,)

    def dynamics(self, t, y, p):
        return (-p.cl / p.v * y.a * (1 + p.shared(y.a, p.z)) + p.own(y.a) * p.f * p.share,)

    def observe(self, t, y, p):
        return {"y": torch.distributions.Normal(y.a, p.sigma)}


def test_every_parameter_has_its_role_and_owner():
    model = Everything()
    table = raw_parameters(model)
    assert list(table) == [name for name, _ in model.named_parameters()]
    found = {name: (raw.role, raw.owner, raw.label) for name, raw in table.items() if raw.role is not Role.OMEGA}
    assert found == {
        "cl.typical": (Role.TYPICAL, "cl", "cl"),
        "cl.covariates.WT.beta": (Role.COEFFICIENT, "cl", "cl_WT"),
        "v.typical": (Role.TYPICAL, "v", "v"),
        "f.typical": (Role.TYPICAL, "f", "f"),
        "shared.weights": (Role.WEIGHTS, "shared", "shared.weights"),
        "own.network.weights": (Role.WEIGHTS, "own", "own.network.weights"),
        "own.loading": (Role.LOADING, "own", "own.loading"),
        "sigma.unconstrained": (Role.POPULATION, "sigma", "sigma"),
        "share.unconstrained": (Role.POPULATION, "share", "share"),
    }
    assert names_of_omega(model) == set(table) - set(found)
    assert all(raw_name(name, component) in table for name, component in model.components.items() if name != "z")
    assert {raw.owner for raw in table.values() if raw.role is Role.OMEGA} <= {block.name for block in model.blocks}


def test_raw_and_named_values_are_the_same_numbers():
    model = Everything()
    values = parameter_values(model)
    named = {name: float(value[0]) for name, value in all_scalars(model, values).items()}
    params = {name: 1.2 * named[name] for name in ("cl", "cl_WT", "sigma", "share", "omega_cl", "omega_v")}
    moved = values_from_natural(model, params)
    again = all_scalars(model, moved)
    for name, value in named.items():
        assert abs(float(again[name][0]) - params.get(name, value)) < 1e-12, name
    (block,) = (block for block in model.blocks if block.name == "both")
    assert abs(float(omega_matrix(block, moved)[0, 0, 0]) - 1.2 * 0.1) < 1e-12
