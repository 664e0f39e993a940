"""Gradients with respect to lags, bioavailabilities, rates and durations against central differences."""

import numpy as np
import pytest
import torch
from support.dosing_histories import Absorption, ClosedForm, random_history, table

import nlme_torch as nlme
from nlme_torch.model import Density
from nlme_torch.model.declare.values import parameter_values

STEP = 1e-5


@pytest.fixture(scope="module", params=[Absorption, ClosedForm])
def conditional(request):
    rng = np.random.default_rng(5)
    data = nlme.Dataset.from_frame(table([random_history(rng, k) for k in range(25)]))
    return Density(request.param(), data.batch(), nlme.Tsit5(1e-10, 1e-12)).at()


@pytest.fixture(scope="module")
def eta(conditional):
    return 0.5 * conditional.sample(1, torch.Generator().manual_seed(0))


def gradient(conditional, eta, create_graph=False):
    eta = eta.detach().requires_grad_()
    value = conditional.log_joint(eta).sum()
    return eta, torch.autograd.grad(value, eta, create_graph=create_graph)[0]


def nudged(conditional, eta, name):
    """The effect's index and two copies of eta, a step above and below."""
    index = conditional.density.model.effect_labels.index(f"eta_{name}")
    shift = torch.zeros_like(eta)
    shift[index] = STEP
    return index, eta + shift, eta - shift


@pytest.mark.parametrize("name", ["lag", "f", "g", "rate", "duration", "ka", "cl"])
def test_gradients(conditional, eta, name):
    _, found = gradient(conditional, eta)
    index, above, below = nudged(conditional, eta, name)
    with torch.no_grad():
        expected = (conditional.log_joint(above) - conditional.log_joint(below)) / (2 * STEP)
    assert expected.abs().max() > 0.01, "nothing to see"
    torch.testing.assert_close(found[index], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["lag", "f", "duration"])
def test_second_derivatives(conditional, eta, name):
    point, slope = gradient(conditional, eta, create_graph=True)
    index, above, below = nudged(conditional, eta, name)
    found = torch.autograd.grad(slope[index].sum(), point)[0]
    expected = (gradient(conditional, above)[1] - gradient(conditional, below)[1]) / (2 * STEP)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_the_parameters_of_the_population_are_differentiable(conditional, eta):
    density = conditional.density
    values = parameter_values(density.model)
    values["lag.typical"].requires_grad_()
    total = density.at(values).log_joint(eta).sum()
    (found,) = torch.autograd.grad(total, values["lag.typical"])
    index, above, below = nudged(conditional, eta, "lag")
    with torch.no_grad():
        expected = (conditional.log_likelihood(above) - conditional.log_likelihood(below)).sum() / (2 * STEP)
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-5)
