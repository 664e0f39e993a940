"""Value, gradient and Hessian of compiled likelihoods, against double-backward passes and closed forms."""

import math

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.compiled_models import Linear, Oral, density_of, draws, history_data, line_density, moved
from support.scalar_programs import outputs, programs, values
from support.small_models import DOUBLE

import nlme_torch as nlme
from nlme_torch.inference.modes.effect_density import column_density
from nlme_torch.model.compiled.compiled_likelihood import compiled_likelihood
from nlme_torch.model.compiled.jets import jet_length, jet_program
from nlme_torch.model.compiled.program import Trace
from nlme_torch.model.compiled.readings import population_readings
from nlme_torch.solve.kernel.build import compiler

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")


def entries(value, inputs):
    """Value, gradient and the lower triangle of the Hessian of a scalar by double-backward passes."""
    gradient = torch.autograd.grad(value, inputs, create_graph=True, materialize_grads=True)
    found = [value, *gradient]
    for i in range(len(inputs)):
        row = [torch.zeros_like(x) for x in inputs]
        if gradient[i].requires_grad:
            row = torch.autograd.grad(gradient[i], inputs, retain_graph=True, materialize_grads=True)
        found += row[: i + 1]
    return torch.stack([entry.detach() for entry in found])


@settings(max_examples=40, deadline=None)
@given(programs(own=3, changing=1), st.integers(0, 5), st.permutations(range(3)))
def test_jets_of_random_programs(made, seed, order):
    program, chosen = made
    term = chosen[0]
    trace = Trace(program, 3, 0, 0, 1, (term,), ((0, 0),), 1, True, (), (), (), (), (), (), ())
    found = jet_program(trace, order[:2])
    inputs = values(changing=1, seed=seed)
    held = outputs(found.parts.before, inputs, found.parts.held)
    after = {("own", index): value for index, value in enumerate(held)} | {("y", 0): inputs["y", 0]}
    jet = outputs(found.parts.at_records, after, found.terms[0])
    assert len(jet) == jet_length(2) == 6
    moving = [inputs["own", index].clone().requires_grad_() for index in order[:2]]
    inputs |= {("own", index): leaf for index, leaf in zip(order[:2], moving, strict=True)}
    value = outputs(program, inputs, (term,))[0]
    expected = entries(value + 0.0 * sum(moving), moving)
    torch.testing.assert_close(jet, expected, rtol=1e-9, atol=1e-9)


def compiled_jets(conditional, eta, readings=(), along=None):
    """Jets along the effects (or some) and some readings of the population, ``(entry, chain, start, subject)``."""
    count = len(eta)
    along = range(count) if along is None else along
    likelihood = compiled_likelihood(conditional).at(conditional)
    jets = likelihood.jets(eta.flatten(-2), (*along, *(2 * count + reading for reading in readings)))
    assert jets is not None
    return jets.reshape(-1, *eta.shape[1:])


def replicated(conditional, eta, names=(), along=None):
    """The same by double-backward passes, column by column; names are those of population parameters."""
    density, count = conditional.density, len(eta)
    along = range(count) if along is None else along
    found = torch.empty(jet_length(len(along) + len(names)), *eta.shape[1:], dtype=DOUBLE)
    for chain, start, subject in np.ndindex(*eta.shape[1:]):
        effects = [eta[effect, chain, start, subject].clone().requires_grad_() for effect in range(count)]
        own = {name: value[start : start + 1].detach() for name, value in conditional.values.items()}
        naturals = []
        for name in names:
            component, raw = density.model.components[name], f"{name}.unconstrained"
            naturals.append(component.natural(own[raw])[0].clone().requires_grad_())
            own[raw] = component.transform.inverse(naturals[-1])[None]
        columns = torch.stack(effects)[:, None, None, None].expand(-1, 1, 1, eta.shape[3])
        value = density.at(own).log_likelihood(columns)[0, 0, subject]
        found[:, chain, start, subject] = entries(value, [*(effects[effect] for effect in along), *naturals])
    return found


def reading_of(conditional, name):
    return [owner for owner, _ in population_readings(conditional)].index(name)


@needs_compiler
@pytest.mark.parametrize("starts", [1, 2])
def test_infusions_resets_and_initial_amounts_along_effects_and_population_parameters(starts):
    conditional = moved(density_of(Oral(), history_data(3)), starts)
    eta = draws(conditional, 2)
    found = compiled_jets(conditional, eta, [reading_of(conditional, "v")], [1])
    expected = replicated(conditional, eta, ["v"], [1])
    scale = expected.abs().amax((1, 2, 3), keepdim=True)
    assert bool((scale > 1e-3).all())
    torch.testing.assert_close(found / scale, expected / scale, rtol=1e-9, atol=1e-10)


class Emax(nlme.Model):
    """Nothing is there at time 0: c^g and n log t have infinite derivatives on the way to finite ones."""

    def __init__(self):
        super().__init__()
        self.g, self.n = nlme.LogNormal(0.7, omega=0.1), nlme.LogNormal(1.5, omega=0.1)
        self.c50, self.sigma = nlme.Positive(0.8), nlme.Positive(0.3)

    def predict(self, t, p, cov):
        concentration = t * torch.exp(-0.5 * t)
        power = concentration**p.g
        return power / (p.c50**p.g + power) + torch.exp(p.n * torch.log(t)) / 10

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def emax_data(times):
    rows = [{"ID": n, "TIME": t, "DV": 0.1 + 0.05 * n + 0.2 * t} for n in range(3) for t in times]
    return nlme.Dataset.from_frame(pd.DataFrame(rows))


@needs_compiler
def test_absolute_zeros():
    """A record at time 0 adds a number, and nothing to derivatives with respect to the curve's parameters."""
    later = density_of(Emax(), emax_data((0.5, 1.0, 3.0)))
    begun = density_of(Emax(), emax_data((0.0, 0.5, 1.0, 3.0)))
    eta = draws(begun.at())
    place = reading_of(begun.at(), "c50")
    found, without = (compiled_jets(density.at(), eta, [place]) for density in (begun, later))
    assert bool(torch.isfinite(found).all())
    torch.testing.assert_close(found[1:], without[1:], rtol=1e-12, atol=1e-12)
    first = torch.tensor([0.1, 0.15, 0.2], dtype=DOUBLE)
    constant = -0.5 * (first / 0.3) ** 2 - math.log(0.3) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(found[0] - without[0], constant.expand_as(found[0]), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(without, replicated(later.at(), eta, ("c50",)), rtol=1e-9, atol=1e-9)


@needs_compiler
def test_a_closed_form_by_sympy():
    """The same model, its derivatives by computer algebra."""
    density = density_of(Emax(), emax_data((0.5, 1.0, 3.0)))
    eta = draws(density.at(), 2)
    found = compiled_jets(density.at(), eta)
    t, y, e1, e2 = sympy.symbols("t y e1 e2")
    g, n, s = sympy.Float("0.7") * sympy.exp(e1), sympy.Float("1.5") * sympy.exp(e2), sympy.Float("0.3")
    power = (t * sympy.exp(-t / 2)) ** g
    curve = power / (sympy.Float("0.8") ** g + power) + t**n / 10
    density_of_record = -(((y - curve) / s) ** 2) / 2 - sympy.log(s) - sympy.log(2 * sympy.pi) / 2
    wanted = [density_of_record, *(density_of_record.diff(e) for e in (e1, e2))]
    wanted += [density_of_record.diff(*pair) for pair in ((e1, e1), (e1, e2), (e2, e2))]
    evaluate = sympy.lambdify((t, y, e1, e2), wanted, "math")
    for chain, subject in np.ndindex(2, 3):
        effects = eta[:, chain, 0, subject].tolist()
        total = sum(np.array(evaluate(time, 0.1 + 0.05 * subject + 0.2 * time, *effects)) for time in (0.5, 1.0, 3.0))
        np.testing.assert_allclose(found[:, chain, 0, subject], total, rtol=1e-10, atol=1e-10)


class Meeting(Linear):
    """Two compartments of a bolus whose eigenvalues meet where an effect is 0."""

    def compartments(self, p):
        return nlme.compartments.TwoCompartment(p.cl, p.v, 1e-12 * p.q, 1e-12 * p.q * 10.0 / 1.5)


@needs_compiler
def test_where_a_closed_form_is_inexact_derivatives_are_left_to_tensor_operations():
    conditional = density_of(Meeting(), history_data(5)).at()
    eta = 0.5 * torch.ones(3, 1, 1, 5, dtype=DOUBLE)
    eta[1] = -0.5
    likelihood = compiled_likelihood(conditional).at(conditional)
    apart = likelihood.jets(eta.flatten(-2), range(3))
    assert bool(torch.isfinite(apart).all())
    eta[:, 0, 0, 3] = 0.0
    found = likelihood.jets(eta.flatten(-2), range(3))
    others = [0, 1, 2, 4]
    assert bool(torch.isnan(found[..., 3]).all()) and torch.equal(found[..., others], apart[..., others])
    density = column_density(conditional)
    assert density.derivatives(eta.flatten(-2)) is None
    assert bool(torch.isfinite(density(eta.flatten(-2)).detach()).all())


@needs_compiler
def test_what_cannot_be_evaluated_has_no_value_and_leaves_the_others_their_bits():
    conditional = line_density().at()
    eta = draws(conditional)
    clean = compiled_jets(conditional, eta)
    spoiled = eta.clone()
    spoiled[0, 1, 0, 2] = math.inf
    found = compiled_jets(conditional, spoiled)
    assert found[0, 1, 0, 2] == -math.inf
    others = torch.ones(2, 1, 5, dtype=torch.bool)
    others[1, 0, 2] = False
    assert torch.equal(found[:, others], clean[:, others])
