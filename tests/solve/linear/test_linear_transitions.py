"""The closed forms of linear systems against the matrix exponential and against the textbook."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.linear_cases import SYSTEMS, exact_response, exact_transition, number, random_values, textbook_matrix

from nlme_torch.compartments import LinearSystem, OneCompartment, TransitAbsorption, TwoCompartment
from nlme_torch.errors import SolveError
from nlme_torch.solve import Tsit5, solve
from nlme_torch.solve.linear.matrix_exponential import matrix_exponential

RATE = st.floats(-6, 4).map(lambda exponent: float(np.exp(exponent)))


@pytest.mark.parametrize("name", SYSTEMS)
@given(data=st.data(), elapsed=st.one_of(st.just(0.0), st.floats(1e-6, 50.0)))
@settings(max_examples=20, deadline=None)
def test_transition_and_response_are_the_matrix_exponential(name, data, elapsed):
    make, count = SYSTEMS[name]
    values = data.draw(st.lists(RATE, min_size=count, max_size=count))
    system = make(*(number(value) for value in values))
    matrix = textbook_matrix(name, values)
    assert np.allclose(system.matrix()[..., 0].numpy(), matrix, rtol=1e-14)
    rounding = 1e-13 + 2e-15 * elapsed * np.abs(matrix).max()  # of the rates themselves
    transition = system.transition(number(elapsed)[:, None])[0, ..., 0].numpy()
    assert np.abs(transition - exact_transition(matrix, elapsed)).max() < rounding
    response = system.response(number(elapsed)[:, None])[0, ..., 0].numpy()
    assert np.abs(response - exact_response(matrix, elapsed)).max() < rounding * max(elapsed, 1.0)


@pytest.mark.parametrize("gap", [0.0, 1e-15, 1e-9, 1e-6, 1e-3, 0.3, -1e-9, -1e-3])
@pytest.mark.parametrize("name", ["one_oral", "two_oral", "three_oral", "transit_1", "transit_4"])
def test_equal_and_nearly_equal_rates(name, gap):
    """Absorption (or the transit rate) on top of an eigenvalue, and of another one."""
    make, count = SYSTEMS[name]
    values = [float(value) for value in random_values(name, (), seed=3)]
    first = 0 if name.startswith("transit") else count - 1
    disposition = textbook_matrix(name, values)[-1:, -1:] if first == 0 else textbook_matrix(name, values)[1:, 1:]
    for eigenvalue in np.linalg.eigvals(disposition):
        values[first] = -eigenvalue * (1 + gap)
        system = make(*(number(value) for value in values))
        matrix = textbook_matrix(name, values)
        for elapsed in (1e-3, 0.7, 20.0):
            assert (
                np.abs(system.exponential(number(elapsed))[..., 0].numpy() - exact_transition(matrix, elapsed)).max()
                < 2e-14
            )
            error = np.abs(system.integral(number(elapsed))[..., 0].numpy() - exact_response(matrix, elapsed)).max()
            assert error < 5e-14 * max(1.0, elapsed)


def test_a_matrix_too_large_to_exponentiate_is_refused_alone():
    """The norm of the second and third is finite; twice the norm of the third is not."""
    rate = number(1.0, 1e30, 1.5e308, torch.inf)
    argument = torch.stack([torch.stack([-rate, 0 * rate]), torch.stack([rate, 0 * rate])]).requires_grad_()
    found = matrix_exponential(argument)
    alone = matrix_exponential(argument[..., :1])
    assert torch.equal(found[..., :1], alone) and found[..., 1:].isnan().all()
    (slope,) = torch.autograd.grad(found[..., 0].sum(), argument)
    assert torch.isfinite(slope).all()


def test_textbook_formulas():
    t, dose = torch.linspace(0, 30, 50, dtype=torch.float64), 100.0
    ke, ka = 1.3 / 17.0, 0.8
    system = OneCompartment(clearance=1.3, volume=17.0, absorption=ka)
    central = dose * ka / (ka - ke) * (torch.exp(-ke * t) - torch.exp(-ka * t))
    assert torch.allclose(dose * system.transition(t)[:, 1, 0], central, rtol=1e-13, atol=1e-12)
    assert torch.allclose(OneCompartment(1.3, 17.0).response(t)[:, 0, 0], (1 - torch.exp(-ke * t)) / ke, rtol=1e-13)
    # the biexponential with alpha, beta, A, B
    k10, k12, k21 = 0.2, 0.5, 0.3
    total, product = k10 + k12 + k21, k10 * k21
    beta = 0.5 * (total - (total**2 - 4 * product) ** 0.5)
    alpha = product / beta
    expected = (alpha - k21) / (alpha - beta) * torch.exp(-alpha * t)
    expected += (k21 - beta) / (alpha - beta) * torch.exp(-beta * t)
    system = TwoCompartment(k10, 1.0, k12, k12 / k21)
    assert torch.allclose(system.transition(t)[:, 0, 0], expected, rtol=1e-12)
    # depot, transit, central with a common rate
    k, ke = 1.2, 0.13 / 8.0
    system = TransitAbsorption(rate=k, n_transit=1, clearance=0.13, volume=8.0)
    d = k - ke
    expected = k**2 / d**2 * (torch.exp(-ke * t) - torch.exp(-k * t) * (1 + d * t))
    assert torch.allclose(system.transition(t)[:, 2, 0], expected, rtol=1e-10, atol=1e-15)


def test_names_of_the_states():
    assert OneCompartment(1.0, 1.0).states == ("central",)
    assert TwoCompartment(1.0, 1.0, 1.0, 1.0, 1.0).states == ("depot", "central", "peripheral")
    assert TransitAbsorption(1.0, 3, 1.0, 1.0).states == ("depot", "transit1", "transit2", "transit3", "central")
    assert TransitAbsorption(1.0, 0, 1.0, 1.0).states == ("depot", "central")
    assert LinearSystem(torch.eye(2)).states == ("y1", "y2")


def test_a_decoupled_compartment_keeps_its_relative_accuracy():
    """Nothing flows out, so the central amount is an exponential, small beside the other eigenvalue's."""
    system = TwoCompartment(2.0, 1.0, 0.0, 1.0)
    t = number(30.0)
    assert torch.allclose(system.exponential(t)[0, 0], torch.exp(-2.0 * t), rtol=1e-13)


@pytest.mark.parametrize("name", SYSTEMS)
def test_parameters_broadcast_and_numbers_do(name):
    make, count = SYSTEMS[name]
    full = random_values(name, (2, 1, 3))
    full[0], full[1] = full[0][:1, :, :1].expand(2, 1, 3), full[1][:1].expand(2, 1, 3)
    mixed = [float(full[0][0, 0, 0]), full[1][0, 0], *full[2:]]
    elapsed = torch.rand(4, 1, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for function in ("transition", "response"):
        expected = getattr(make(*full), function)(elapsed)
        assert torch.equal(getattr(make(*mixed), function)(elapsed).expand(expected.shape), expected)


@pytest.mark.parametrize("name", SYSTEMS)
def test_amounts_at_any_time(name):
    """What feeds a differential equation: one elapsed time per subject."""
    make, _ = SYSTEMS[name]
    system = make(*random_values(name, (2, 1, 3)))
    count = len(system.states)
    start, rates = (
        torch.rand(2, count, 2, 1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ).unbind()
    elapsed = number(0.3, 1.0, 4.0).expand(2, 1, 3)
    transition, response = system.transition(elapsed[None])[0], system.response(elapsed[None])[0]
    expected = torch.einsum("ij...,j...->i...", transition, start) + torch.einsum("ij...,j...->i...", response, rates)
    assert torch.allclose(system.amounts(elapsed, start, rates), expected, rtol=1e-13)


def test_wrong_systems():
    with pytest.raises(SolveError, match="n_transit"):
        TransitAbsorption(1.0, -1, 1.0, 1.0)
    with pytest.raises(SolveError, match="volume"):
        OneCompartment(1.0, torch.ones(3, dtype=torch.long))
    with pytest.raises(SolveError, match="square|state, state"):
        LinearSystem(torch.zeros(2, 3))
    with pytest.raises(SolveError, match="names"):
        LinearSystem(torch.zeros(2, 2), ("a",))


@pytest.mark.parametrize("norm", [0.0, 1e-9, 1e-3, 1 / 64, 0.4, 3.0, 40.0])
def test_the_generic_system_is_accurate_for_every_norm(norm):
    """PyTorch's matrix exponential is off by 3e-12 at 1/64."""
    matrix = np.array([[-1.0, 0.3, 0.0], [0.5, -1.0, 0.2], [0.4, 0.0, -0.7]])
    system = LinearSystem(torch.tensor(matrix))
    assert np.abs(system.exponential(number(norm))[..., 0].numpy() - exact_transition(matrix, norm)).max() < 2e-15
    error = np.abs(system.integral(number(norm))[..., 0].numpy() - exact_response(matrix, norm)).max()
    assert error < 1e-15 * max(1.0, 10 * norm)


def test_a_closed_form_feeds_a_differential_equation():
    """An effect compartment driven by the closed form of an oral drug, beside all of it as one linear system."""
    generator = torch.Generator().manual_seed(0)
    parameters = 0.3 + torch.rand(4, 5, generator=generator, dtype=torch.float64)  # clearance, volume, ka, ke0
    times = torch.linspace(0, 12, 7, dtype=torch.float64)

    def effect(t, y, p):
        clearance, volume, absorption, equilibration = p[0].unbind(0)
        dose = torch.stack([torch.full_like(t, 100.0), torch.zeros_like(t)])
        central = OneCompartment(clearance, volume, absorption).amounts(t, dose)[1]
        return (equilibration * (central / volume - y[0])).unsqueeze(0)

    start = torch.zeros(1, 5, dtype=torch.float64)
    driven = solve(effect, start, times, (parameters,), solver=Tsit5(1e-10, 1e-12, compile=False)).states[:, 0]
    clearance, volume, absorption, equilibration = parameters
    ke, zero = clearance / volume, torch.zeros_like(volume)
    rows = [-absorption, zero, zero, absorption, -ke, zero, zero, equilibration / volume, -equilibration]
    whole = LinearSystem(torch.stack(rows).reshape(3, 3, 5)).transition(times)
    assert torch.allclose(driven, 100 * whole[:, 2, 0], rtol=1e-8, atol=1e-8)
