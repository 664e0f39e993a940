"""No number raises: a subject that cannot be evaluated has density zero, and the others what they had, to the bit."""

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.extreme_models import EXAMPLES, KINDS, SYSTEMS, compartment_model, dosed_data

import nlme_torch as nlme
from nlme_torch.model import Density
from nlme_torch.model.declare.values import parameter_values

# what is hopeless is to be given up soon
SOLVER = nlme.Auto(max_steps=200)
# logarithms beyond which a square, a cube or the number itself overflows or vanishes
EDGES = torch.tensor([709.5, 709.0, 354.5, 236.3, -354.5, -708.0, -745.5, 37.0, -37.0, 0.0], dtype=torch.float64)
QUICK = {
    "TheophyllineClassical", "TheophyllineClosedForm", "TheophyllineFourNetworks", "Phenobarbital", "SubjectMean",
}  # fmt: skip
MODELS = {model.__name__: (model, data) for data, models in EXAMPLES.items() for model in models}


@functools.cache
def example(name):
    model, data = MODELS[name]
    data = data()
    return Density(model(), data.subset(data.subjects[:3]).batch(), SOLVER)


@functools.cache
def compartments(name, kind, unit, equation):
    return Density(compartment_model(name, equation), dosed_data(kind, unit).batch(), SOLVER)


def normal(shape, generator, scale=1.0):
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def check(density, seed, share):
    """One subject at effects up to 40 standard deviations or at an edge, then all at parameters far away."""
    generator = torch.Generator().manual_seed(seed)
    values = {name: value.clone().requires_grad_() for name, value in parameter_values(density.model).items()}
    subjects, effects = density.batch.n_subjects, density.model.n_effects
    base = normal((effects, 1, 1, subjects), generator, 0.1)
    deviations = density.at(values).covariance()[0].diagonal().detach().sqrt()
    extreme = deviations * normal((effects,), generator, 40.0 * float(torch.rand(1, generator=generator)))
    at_edge = torch.rand(effects, generator=generator) < share
    chosen = EDGES[torch.randint(len(EDGES), (effects,), generator=generator)] + normal((effects,), generator, 0.5)
    moved = base.clone()
    moved[:, 0, 0, 1] = torch.where(at_edge, chosen, extreme)
    others = [subject for subject in range(subjects) if subject != 1]
    before = density.at(values).log_joint(base.clone().requires_grad_())[0, 0]
    leaf = moved.requires_grad_()
    after = density.at(values).log_joint(leaf)[0, 0]
    assert torch.equal(before[others], after[others])
    assert not after.isnan().any() and (after < math.inf).all()
    slopes = torch.autograd.grad(after[torch.isfinite(after)].sum(), [leaf], allow_unused=True)[0]
    assert slopes is None or torch.isfinite(slopes[..., others]).all() or not torch.isfinite(before[others]).all()

    far = {
        name: (value + normal(value.shape, generator, 10.0)).detach().requires_grad_() for name, value in values.items()
    }
    density_there = density.at(far).log_joint(base)[0, 0]
    assert not density_there.isnan().any() and (density_there < math.inf).all()
    finite = torch.isfinite(density_there)
    if bool(finite.any()):
        torch.autograd.grad(density_there[finite].sum(), list(far.values()), allow_unused=True)


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS],
)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), share=st.sampled_from([0.0, 0.5]))
def test_examples(name, seed, share):
    check(example(name), seed, share)


@pytest.mark.parametrize("name", SYSTEMS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31), kind=st.sampled_from(KINDS), unit=st.sampled_from([1e-12, 1.0, 1e12]),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)  # fmt: skip
def test_compartments_in_closed_form(name, seed, kind, unit, share):
    check(compartments(name, kind, unit, False), seed, share)


@pytest.mark.parametrize("name", ["one, oral", "two"])
@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31), kind=st.sampled_from(KINDS), unit=st.sampled_from([1e-12, 1.0, 1e12]),
    share=st.sampled_from([0.0, 0.5]),
)  # fmt: skip
def test_compartments_as_equations(name, seed, kind, unit, share):
    check(compartments(name, kind, unit, True), seed, share)


def test_norms_between_half_the_largest_number_and_all_of_it():
    """Twice such a norm overflows, and with it its logarithm; the other subjects do not notice."""
    density = compartments("two", "bolus", 1.0, False)
    eta = torch.zeros(density.model.n_effects, 30, 1, 3, dtype=torch.float64)
    moved = eta.clone()
    moved[0, :, 0, 1] = torch.linspace(707.0, 709.9, 30, dtype=torch.float64)
    before, after = density.at().log_joint(eta), density.at().log_joint(moved)
    assert torch.equal(before[..., [0, 2]], after[..., [0, 2]]) and not after.isnan().any()
