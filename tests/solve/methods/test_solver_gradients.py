"""First and second derivatives of solutions against central differences, backward and forward mode."""

import pytest
import torch
from support.solve_cases import central_difference, saturable_problem

from nlme_torch.solve import RK4, TorchDiffEq, Tsit5, solve

BACKPROP = [
    Tsit5(1e-10, 1e-12),
    TorchDiffEq(rtol=1e-10, atol=1e-12),
    RK4(8),
    Tsit5(1e-10, 1e-12, compile=False),
]
CONTINUOUS = TorchDiffEq(rtol=1e-10, atol=1e-12, adjoint="continuous")
PLAIN = [BACKPROP[0], BACKPROP[2]]


def loss_of(solver):
    """A scalar of every parameter and initial value, packed into one vector."""
    field, initial, times, parameters = saturable_problem()
    values = (initial, *parameters)
    packed = torch.cat([value.flatten() for value in values])
    weights = torch.linspace(0.5, 1.5, times.shape[0] * initial.numel(), dtype=initial.dtype)

    def loss(vector):
        pieces = vector.split([value.numel() for value in values])
        start, own, shared = (piece.reshape(value.shape) for piece, value in zip(pieces, values, strict=True))
        states = solve(field, start, times, (own, shared), solver=solver).states
        return (weights * states.flatten() ** 2).sum()

    return loss, packed


@pytest.mark.parametrize("solver", [*BACKPROP, CONTINUOUS], ids=str)
def test_gradient_matches_central_differences(solver):
    loss, packed = loss_of(solver)
    vector = packed.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(vector), vector)
    numeric = central_difference(loss, packed, 1e-3)
    assert (gradient - numeric).abs().max() < 1e-6 * numeric.abs().max()


@pytest.mark.parametrize("solver", BACKPROP, ids=str)
def test_hessian_by_double_backward(solver):
    loss, packed = loss_of(solver)

    def gradient(vector):
        vector = vector.clone().requires_grad_()
        return torch.autograd.grad(loss(vector), vector)[0]

    vector = packed.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(vector), vector, create_graph=True)
    rows = [torch.autograd.grad(first[index], vector, retain_graph=True)[0] for index in range(0, len(packed), 4)]
    hessian = torch.stack(rows)
    for row, index in zip(hessian, range(0, len(packed), 4), strict=True):
        shift = torch.zeros_like(packed)
        shift[index] = 1e-4
        numeric = (gradient(packed + shift) - gradient(packed - shift)) / 2e-4
        assert (row - numeric).abs().max() < 1e-6 * hessian.abs().max()


@pytest.mark.parametrize("solver", PLAIN, ids=str)
def test_forward_mode(solver):
    loss, packed = loss_of(solver)
    vector = packed.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(vector), vector)
    direction = torch.linspace(-1, 1, len(packed), dtype=packed.dtype)
    _, slope = torch.func.jvp(loss, (packed,), (direction,))
    assert abs(float(slope - gradient @ direction)) < 1e-9 * float(gradient.abs().sum())
    assert torch.allclose(torch.func.grad(loss)(packed), gradient, rtol=1e-10)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(packed, direction)
        tangent = torch.autograd.forward_ad.unpack_dual(loss(dual)).tangent
    assert abs(float(tangent - gradient @ direction)) < 1e-9 * float(gradient.abs().sum())


@pytest.mark.parametrize("solver", PLAIN, ids=str)
def test_forward_over_reverse(solver):
    loss, packed = loss_of(solver)
    direction = torch.linspace(-1, 1, len(packed), dtype=packed.dtype)
    _, product = torch.func.jvp(torch.func.grad(loss), (packed,), (direction,))
    vector = packed.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(vector), vector, create_graph=True)
    (expected,) = torch.autograd.grad(first @ direction, vector)
    assert (product - expected).abs().max() < 1e-8 * expected.abs().max()


def test_captured_parameters_cannot_be_forgotten_by_the_adjoint():
    """All tensors of `parameters` are adjoint parameters, leaves or not, whatever their shapes."""
    field, initial, times, (own, shared) = saturable_problem()
    leaf = own.log().requires_grad_()
    other = shared.clone().requires_grad_()
    start = initial.clone().requires_grad_()
    answers = []
    for solver in (CONTINUOUS, BACKPROP[1]):
        states = solve(field, start, times, (leaf.exp(), other), solver=solver).states
        answers.append(torch.autograd.grad(states.square().sum(), (leaf, other, start)))
    for ours, expected in zip(*answers, strict=True):
        assert (ours - expected).abs().max() < 1e-6 * expected.abs().max()


def test_third_derivatives_of_the_compiled_solve_equal_plain_ones():
    """Laplace's approximation has a gradient only if the Hessian of a solve can be differentiated."""
    answers = []
    for compiled in (True, False):
        loss, packed = loss_of(Tsit5(1e-8, 1e-10, compile=compiled))
        vector = packed.clone().requires_grad_()
        direction = torch.linspace(-1, 1, len(packed), dtype=packed.dtype)
        (first,) = torch.autograd.grad(loss(vector), vector, create_graph=True)
        (second,) = torch.autograd.grad(first @ direction, vector, create_graph=True)
        (third,) = torch.autograd.grad(second @ direction, vector)
        answers.append(third)
    assert (answers[0] - answers[1]).abs().max() <= 1e-8 * answers[1].abs().max()
