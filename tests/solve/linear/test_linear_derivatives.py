"""Derivatives of the closed forms, at ordinary and at degenerate parameters, by every mode of differentiation."""

import mpmath
import pytest
import torch
from support.linear_cases import DTYPE, SYSTEMS, number, random_records, random_values
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual

from nlme_torch.compartments import TransitAbsorption, solve_linear, steady_state
from nlme_torch.solve import Events

# Where textbook formulas divide by zero. Volumes are 1 unless they must differ.
DEGENERATE = {
    "absorption is elimination": ("one_oral", (0.7, 1.0, 0.7)),
    "absorption nearly elimination": ("one_oral", (0.7, 1.0, 0.7 + 1e-9)),
    "no clearance": ("one_oral", (0.0, 1.0, 0.7)),
    "no absorption": ("one_oral", (0.3, 1.0, 0.0)),
    "nothing moves": ("one_oral", (0.0, 1.0, 0.0)),
    "two: no clearance": ("two_oral", (0.0, 1.0, 0.4, 2.0, 0.7)),
    "two: no distribution": ("two_oral", (0.6, 1.0, 0.0, 2.0, 0.6)),
    "two: neither": ("two_oral", (0.0, 1.0, 0.0, 2.0, 0.5)),
    "two: absorption is an eigenvalue": ("two_oral", (1.0, 1.0, 1.0, 1.0, (3 - 5**0.5) / 2)),
    "three: equal peripheral": ("three_oral", (0.5, 1.0, 0.4, 2.0, 0.4, 2.0, 0.2)),
    "three: no clearance": ("three_oral", (0.0, 1.0, 0.4, 2.0, 0.3, 5.0, 0.2)),
    "three: one decoupled": ("three_oral", (0.5, 1.0, 0.4, 2.0, 0.0, 5.0, 0.5)),
    "three: both decoupled": ("three_oral", (0.5, 1.0, 0.0, 2.0, 0.0, 5.0, 0.5)),
    "three: nothing moves": ("three_oral", (0.0, 1.0, 0.0, 2.0, 0.0, 5.0, 0.5)),
    "transit is elimination": ("transit_1", (0.8, 0.8, 1.0)),
    "transit nearly elimination": ("transit_1", (0.8 + 1e-9, 0.8, 1.0)),
    "long transit is elimination": ("transit_4", (0.8, 0.8, 1.0)),
    "transit without clearance": ("transit_1", (0.8, 0.0, 1.0)),
}
ELAPSED = (0.0, 1e-9, 0.3, 2.0, 25.0)


def torch_exponential(matrix, elapsed, integrated):
    """exp(A t) or its integral, (state, state, time), by PyTorch's matrix exponential, which knows no eigenvalues."""
    count = len(matrix)
    if integrated:
        zero = torch.zeros(count, 2 * count, dtype=DTYPE)
        matrix = torch.cat([torch.cat([matrix, torch.eye(count, dtype=DTYPE)], 1), zero])
    found = torch.linalg.matrix_exp(matrix * elapsed[:, None, None])
    return (found[:, :count, count:] if integrated else found).movedim(0, -1)


@pytest.mark.parametrize("kind", ["exponential", "integral"])
@pytest.mark.parametrize("case", DEGENERATE)
def test_first_and_second_derivatives_where_rates_coincide(case, kind):
    name, point = DEGENERATE[case]
    make, _ = SYSTEMS[name]
    weights = None
    found = []
    for closed in (True, False):
        values, times = number(*point).requires_grad_(), number(*ELAPSED).requires_grad_()
        system = make(*values.unbind())
        ours = getattr(system, kind)
        result = ours(times) if closed else torch_exponential(system.matrix(), times, kind == "integral")
        if weights is None:
            weights = torch.rand(result.shape, generator=torch.Generator().manual_seed(0), dtype=DTYPE)
        first = torch.autograd.grad((weights * result).sum(), (values, times), create_graph=True)
        total = (first[0] * number(*range(1, len(point) + 1))).sum() + first[1].sum()
        second = torch.autograd.grad(total, (values, times))
        found.append([result, *first, *second])
    for label, ours, other in zip(("value", "d/dp", "d/dt", "second p", "second t"), *found, strict=True):
        assert (ours - other).abs().max() <= 1e-9 * (1 + other.abs().max()), label


@pytest.mark.parametrize("case", ["absorption is elimination", "absorption nearly elimination", "no clearance"])
def test_the_third_derivative_against_extended_precision(case):
    """d3/dka3 of the central amount, by numerical differentiation with 60 digits."""
    clearance, _, point = DEGENERATE[case][1]
    make, _ = SYSTEMS["one_oral"]
    for elapsed in (0.4, 3.0):
        absorption = number(point)[0].requires_grad_()
        value = make(number(clearance)[0], number(1.0)[0], absorption).exponential(number(elapsed))[1, 0].sum()
        with mpmath.workdps(60):
            ke, t = mpmath.mpf(clearance), mpmath.mpf(elapsed)

            def central(ka, ke=ke, t=t):
                return ka * (mpmath.exp(-ke * t) - mpmath.exp(-ka * t)) / (ka - ke)

            # off the removable singularity by far less than the test resolves
            expected = [mpmath.diff(central, mpmath.mpf(point) + mpmath.mpf(10) ** -16, n, h=1e-7) for n in (1, 2, 3)]
        for answer in expected:
            (value,) = torch.autograd.grad(value, absorption, create_graph=True)
            assert float(value.detach()) == pytest.approx(float(answer), rel=2e-9, abs=1e-11)


@pytest.mark.parametrize("name", ["one_oral", "two_oral", "three", "transit_1"])
def test_gradients_of_a_whole_solve(name):
    make, _ = SYSTEMS[name]
    batch = (2,)
    values = [(0.3 + 0.3 * value).requires_grad_() for value in random_values(name, batch)]
    count = len(make(*values).states)
    generator = torch.Generator().manual_seed(1)
    initial, amounts, rates = (torch.rand(n, count, *batch, generator=generator, dtype=DTYPE) for n in (1, 4, 4))
    times = (torch.arange(4, dtype=DTYPE)[:, None] * number(1.0, 0.7)).requires_grad_()
    resets = torch.tensor([[False, False], [False, False], [True, False], [False, False]])

    def run(initial, times, amounts, rates, *values):
        return solve_linear(make(*values), initial[0], times, Events(amounts, rates, resets)).states

    inputs = (initial.requires_grad_(), times, amounts.requires_grad_(), rates.requires_grad_(), *values)
    assert gradcheck(run, inputs, check_forward_ad=True, fast_mode=True, atol=1e-6)
    assert gradgradcheck(run, inputs, fast_mode=True, atol=1e-5)


@pytest.mark.parametrize("name", ["one_oral", "two_oral", "three_oral", "transit_1"])
def test_compiled_derivatives_of_two_orders_are_the_plain_ones(name, monkeypatch):
    """Large enough to be compiled; a duplicated time and a degenerate subject are in it."""
    make, _ = SYSTEMS[name]
    values = [value.clone() for value in random_values(name, (30,))]
    if name == "one_oral":
        values[2][0] = values[0][0] / values[1][0]
    if name == "transit_1":
        values[0][0] = values[1][0] / values[2][0]
    if name in ("two_oral", "three_oral"):
        values[0][0] = values[2][0] = 0.0
    values = [value.requires_grad_() for value in values]
    initial, times = torch.ones(len(make(*values).states), 30, dtype=DTYPE), random_records(12, (30,))

    def derivatives():
        states = solve_linear(make(*values), initial, times).states
        first = torch.autograd.grad(states.square().sum(), values, create_graph=True)
        second = torch.autograd.grad(sum(value.square().sum() for value in first), values)
        return [*first, *second]

    compiled = derivatives()
    monkeypatch.setattr("nlme_torch.solve.linear.compiled._SMALLEST", 10**9)
    monkeypatch.setattr("nlme_torch.solve.linear.recurrence.compiler", lambda: None)
    for one, other in zip(compiled, derivatives(), strict=True):
        assert bool(torch.isfinite(one).all())
        assert (one - other).abs().max() <= 1e-10 * other.abs().max()


def test_forward_mode_and_function_transforms():
    values = [value + 0.2 for value in random_values("two_oral", (3,))]
    make, _ = SYSTEMS["two_oral"]
    initial, times = torch.ones(3, 3, dtype=DTYPE), random_records(6, (3,))

    def loss(clearance):
        return solve_linear(make(clearance, *values[1:]), initial, times).states.square().sum()

    clearance = values[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(clearance), clearance, create_graph=True)
    second = torch.stack([torch.autograd.grad(g, clearance, retain_graph=True)[0] for g in gradient])
    with dual_level():
        moved = unpack_dual(loss(make_dual(values[0], torch.ones(3, dtype=DTYPE)))).tangent
    assert torch.allclose(moved, gradient.sum(), rtol=1e-12)
    over = torch.autograd.functional.hvp(loss, values[0], torch.ones(3, dtype=DTYPE))[1]
    assert torch.allclose(over, second.sum(0), rtol=1e-10)


def test_gradient_of_a_steady_state():
    def trough(rate, clearance, volume, interval, amount):
        system = TransitAbsorption(rate, 1, clearance, volume)
        return steady_state(system, interval, amounts=torch.stack([amount, 0 * amount, 0 * amount]))

    inputs = tuple(number(value)[0].requires_grad_() for value in (0.8, 0.5, 2.0, 6.0, 10.0))
    assert gradcheck(trough, inputs)
    assert gradgradcheck(trough, inputs, atol=1e-4)
