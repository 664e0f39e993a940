"""The models behind the published objective function values, and central differences of an objective."""

import json
from pathlib import Path

import pandas as pd
import pyro.distributions as dist
import torch

import nlme_torch as nlme
from nlme_torch.inference.marginal.expansion_points import expand
from nlme_torch.model.declare.values import flatten_values, parameter_values, unflatten_values
from nlme_torch.model.density.density import Density

Theoph = nlme.examples.TheophyllineFullOmega
REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "objective_functions.json").read_text())

STANDARD_DEVIATIONS = {
    "add": lambda f: 0.1**0.5 + 0 * f,
    "prop": lambda f: 0.1**0.5 * f,
    "combined2": lambda f: (0.1 + 0.1 * f**2).sqrt(),
    "combined1": lambda f: 0.1**0.5 * (1 + f),
    "pow": lambda f: (0.1 * f).sqrt(),
    "propMod": lambda f: f**2 / (f + 5),
    "addMod": lambda f: f / (f + 5),
    "propF": lambda f: 0.1**0.5 * f / (f + 5),
}


class Wang(nlme.Model):
    """f = 10 exp(-k t) with one of nine error models."""

    def __init__(self, error):
        super().__init__()
        self._error = error
        self.k = nlme.LogNormal(0.5, omega=0.04)
        self.scale = nlme.Positive(1.0)

    def predict(self, t, p, cov):
        return 10 * torch.exp(-p.k * t)

    def observe(self, t, y, p):
        if self._error == "lognormal":
            return {"DV": dist.LogNormal(y.log(), 0.1**0.5 * p.scale)}
        return {"DV": dist.Normal(y, p.scale * STANDARD_DEVIATIONS[self._error](y))}


def wang_data():
    data = REFERENCE["wang2007"]["data"]
    rows = [
        {"ID": subject, "TIME": time, "DV": value}
        for subject, values in enumerate(data["y"])
        for time, value in zip(data["time"], values, strict=True)
    ]
    return nlme.Dataset.from_frame(pd.DataFrame(rows))


class TheophEquation(nlme.examples.TheophyllineFullOmega):
    """The same as a differential equation."""

    states = ("depot", "center")
    predict = nlme.Model.predict

    def initial(self, p):
        return 320.0, 0.0

    def dynamics(self, t, y, p):
        return -p.ka * y.depot, p.ka * y.depot - p.k * y.center

    def observe(self, t, y, p):
        f = y.center / p.v
        return {"conc": dist.Normal(f, (p.s1 * f**2 + p.s2).sqrt())}


def theoph_params(point):
    if "omega" in point:
        omega = point["omega"]
    else:
        a, b, c, d, e, f = point["omega_lower_11_21_31_22_32_33"]
        omega = [[a, b, c], [b, d, e], [c, e, f]]
    named = dict(zip(("ka", "v", "k"), point["theta"], strict=True))
    return {**named, "s1": point["sigma"][0], "s2": point["sigma"][1], "all": omega}


def gradient_error(model, data, method, values=None, solver=None, step=2e-3, entries=None, relative=True):
    """Relative error of an exact gradient against fourth-order central differences of the converged objective.

    All perturbed parameters are evaluated at once on the start axis.
    """
    density = Density(model, data.batch(), solver or nlme.Tsit5(rtol=1e-11, atol=1e-11))
    approximation = method.approximation(density)
    values = values or parameter_values(model)
    found = expand(approximation, values, approximation.origin(1), gradient=True)
    assert found.finite
    exact = found.evaluation.gradient[0]
    vector = flatten_values(values, approximation.names)
    entries = range(vector.shape[1]) if entries is None else entries
    numbers = []
    for entry in entries:
        shift = torch.zeros_like(vector)
        shift[0, entry] = step
        several = torch.cat([vector + shift, vector - shift, vector + 2 * shift, vector - 2 * shift])
        moved = unflatten_values(several, values, approximation.names)
        f = expand(approximation, moved, found.evaluation.centre.expand(-1, 4, -1)).evaluation.value.sum(-1)
        numbers.append((8 * (f[0] - f[1]) - (f[2] - f[3])) / (12 * step))
    numeric = torch.stack(numbers)
    return float((exact[list(entries)] - numeric).norm() / numeric.norm())
