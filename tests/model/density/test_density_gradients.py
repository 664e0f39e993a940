"""Gradients of the log joint against central differences, for every example model, solver and adjoint."""

import functools

import pytest
import torch
from support.small_models import DOUBLE, Everything, everything_data

import nlme_torch as nlme
from nlme_torch.model.declare.values import flatten_values, free_names, parameter_values, unflatten_values
from nlme_torch.model.density.density import Density

RTOL, ATOL = 1e-10, 1e-12
EAGER = nlme.Tsit5(RTOL, ATOL, compile=False)
SOLVERS = {
    "Tsit5": EAGER,
    "backprop": nlme.TorchDiffEq(rtol=RTOL, atol=ATOL),
    "continuous": nlme.TorchDiffEq("dopri8", rtol=RTOL, atol=ATOL, adjoint="continuous"),
}


def four_networks(omega=None):
    """With fluxes of a sensible size: the first random weights move a thousand milligrams an hour."""
    model = nlme.examples.TheophyllineFourNetworks(omega)
    with torch.no_grad():
        for component in (model.absorption_time, model.input_time):
            component.network.weights[-1] -= 4.0
    return model


MODELS = {
    "a, closed form": nlme.examples.TheophyllineClosedForm,
    "a, equation": nlme.examples.TheophyllineClassical,
    "b": four_networks,
    "c": lambda: four_networks(nlme.LowRank(2)),
    "d": nlme.examples.TheophyllineHybrid,
    "everything": Everything,
}


def case(model, data, solver, seed=0):
    density = Density(model, data.batch(), solver)
    generator = torch.Generator().manual_seed(seed)
    eta = 0.3 * torch.randn(model.n_effects, 1, 1, data.n_subjects, generator=generator, dtype=DOUBLE)
    return density, eta


def central_differences(density, eta, names, step):
    """Derivatives by effects, one per subject, and by raw parameters: all displacements in one call on
    the start axis."""
    values = parameter_values(density.model)
    vector = flatten_values(values, names)
    effects, parameters = eta.shape[0], vector.shape[1]
    starts = effects + parameters
    moves = step * torch.eye(starts, dtype=DOUBLE)
    ends = []
    with torch.no_grad():
        for sign in (1.0, -1.0):
            moved = unflatten_values(
                vector + sign * moves[:, effects:],
                {k: v.expand(starts, *v.shape[1:]) for k, v in values.items()},
                names,
            )
            displaced = eta + sign * moves[:, :effects].mT[:, None, :, None]
            ends.append(density.at(moved).log_joint(displaced)[0])
    slope = (ends[0] - ends[1]) / (2 * step)
    return slope[:effects], slope[effects:].sum(-1)


def gradients(density, eta, names):
    eta = eta.clone().requires_grad_()
    values = parameter_values(density.model)
    vector = flatten_values(values, names).requires_grad_()
    value = density.at(unflatten_values(vector, values, names)).log_joint(eta)
    by_effects, by_parameters = torch.autograd.grad(value.sum(), [eta, vector])
    return by_effects[:, 0, 0], by_parameters[0]


@pytest.fixture(scope="module")
def data(theophylline):
    frame = theophylline.subset(theophylline.subjects[:2]).frame
    early = nlme.Dataset.from_frame(
        frame[frame.Time < 3], id="Subject", time="Time", outputs="conc", covariates=("Wt", "Dose")
    )
    return {name: early for name in MODELS} | {"everything": everything_data()}


@pytest.fixture(scope="module")
def differences(data):
    """By model, the differences of the fourth order, (4 D(h) - D(2h)) / 3, computed once."""

    @functools.cache
    def compute(name, solver=EAGER, step=2e-4):
        model = MODELS[name]()
        density, eta = case(model, data[name], solver)
        wide, narrow = (central_differences(density, eta, free_names(model), h) for h in (2 * step, step))
        return [(4 * fine - coarse) / 3 for coarse, fine in zip(wide, narrow, strict=True)]

    return compute


def assert_gradients(name, data, differences, solver):
    model = MODELS[name]()
    density, eta = case(model, data[name], solver)
    for gradient, numeric in zip(gradients(density, eta, free_names(model)), differences(name), strict=True):
        scale = gradient.abs().max().item()
        assert scale > 0.1
        torch.testing.assert_close(gradient, numeric, rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("model", ["a, equation", "b", "c", "d"])
def test_gradient_by_weights_and_effects(model, solver, data, differences):
    assert_gradients(model, data, differences, SOLVERS[solver])


def test_gradient_of_the_closed_form(data, differences):
    assert_gradients("a, closed form", data, differences, EAGER)


def test_gradient_with_every_kind_of_component(data, differences):
    """Exact for whatever a fixed number of steps computes, so a coarse solve will do on both sides."""
    solver = nlme.RK4(3, compile=False)
    assert_gradients("everything", data, functools.partial(differences, solver=solver), solver)


@pytest.mark.parametrize("model", ["b", "d"])
def test_gradient_of_a_compiled_solve(model, data, differences):
    """The default solver."""
    assert_gradients(model, data, differences, nlme.Tsit5(RTOL, ATOL))


def test_second_derivatives_of_the_closed_form(theophylline):
    density, eta = case(nlme.examples.TheophyllineClosedForm(), theophylline.subset(theophylline.subjects[:3]), EAGER)

    def value(flat):
        return density.at().log_joint(flat.reshape(eta.shape)).sum()

    hessian = torch.autograd.functional.hessian(value, eta.flatten())
    step = 1e-4
    for column in range(eta.numel()):
        move = torch.zeros(eta.numel(), dtype=DOUBLE)
        move[column] = step
        ends = [torch.autograd.functional.jacobian(value, eta.flatten() + sign * move) for sign in (1.0, -1.0)]
        torch.testing.assert_close(hessian[:, column], (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-4)
