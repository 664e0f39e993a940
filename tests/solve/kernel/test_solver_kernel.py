"""Compiled walks: the same answers as plain tensor operations, and honest about what they cannot do."""

import logging
from dataclasses import replace

import pytest
import torch
from support.solve_cases import DTYPE, oral_problem, random_times, saturable_problem
from torch.nn import functional

from nlme_torch.solve import RK4, Events, Rodas5P, Tsit5, solve
from nlme_torch.solve.kernel import find_kernel
from nlme_torch.solve.kernel.build import compiler
from nlme_torch.solve.problem.problem import build_problem
from nlme_torch.solve.tableau import KUTTA, TSITOURAS, Method

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")


def kernel_of(field, initial, times, parameters):
    return find_kernel(build_problem(field, initial, times, parameters, None), Method(TSITOURAS, None))


def both(field, initial, times, parameters, solver=None, **options):
    solver = solver or Tsit5()
    compiled = solve(field, initial, times, parameters, solver=solver, **options)
    plain = solve(field, initial, times, parameters, solver=replace(solver, compile=False), **options)
    return compiled, plain


def networks(t, y, parameters):
    weights, dose = parameters

    def network(w, x):
        hidden = torch.tanh(w[:2] * x + w[2:4])
        return (w[4:6] * hidden).sum(0) + w[6]

    uptake = functional.softplus(network(weights[:7], functional.softplus(y[0])))
    loss = functional.softplus(network(weights[7:14], functional.softplus(y[1])))
    return torch.stack([-uptake - 0.01 * dose, uptake + 0.01 * dose - loss])


def network_problem(subjects=20):
    generator = torch.Generator().manual_seed(4)
    weights = 0.5 * torch.randn(14, subjects, generator=generator, dtype=DTYPE)
    dose = 1 + torch.rand(subjects, generator=generator, dtype=DTYPE)
    return networks, torch.stack([3 * dose, 0 * dose]), random_times(7, subjects), (weights, dose)


@pytest.mark.parametrize("case", [oral_problem, saturable_problem, network_problem])
def test_compiled_equals_plain(case):
    problem = case()
    assert kernel_of(*problem) is not None
    compiled, plain = both(*problem)
    scale = plain.states.abs().amax()
    assert (compiled.states - plain.states).abs().max() <= 1e-12 * scale
    assert torch.equal(compiled.statistics.accepted, plain.statistics.accepted)
    assert torch.equal(compiled.statistics.rejected, plain.statistics.rejected)


def test_compiled_fixed_steps_equal_plain_ones():
    field, initial, times, parameters = network_problem()
    assert find_kernel(build_problem(field, initial, times, parameters, None), Method(KUTTA, None)) is not None
    leaves = tuple(value.clone().requires_grad_() for value in (initial, *parameters))
    found = []
    for solution in both(field, leaves[0], times, leaves[1:], solver=RK4(7)):
        slopes = torch.autograd.grad(solution.states.square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(slope.square().sum() for slope in slopes), leaves)
        found.append((solution.states, *slopes, *second))
        assert torch.equal(solution.statistics.accepted, torch.full((20,), 7 * (len(times) - 1)))
        assert torch.equal(solution.statistics.evaluations, 4 * solution.statistics.accepted + 1)
    for compiled, plain in zip(*found, strict=True):
        assert (compiled - plain).abs().max() <= 1e-11 * plain.abs().max()


def test_gradients_equal_plain_ones_with_every_kind_of_event():
    field, initial, times, parameters = network_problem()
    times[3] = times[2]
    times[5:, 4] = times[4, 4]
    generator = torch.Generator().manual_seed(3)
    amounts = torch.rand(7, 2, 20, generator=generator, dtype=DTYPE)
    rates = 0.1 * torch.rand(7, 2, 20, generator=generator, dtype=DTYPE)
    resets = torch.rand(7, 20, generator=generator) < 0.2
    weights = torch.linspace(-1, 1, 7 * 2 * 20, dtype=DTYPE).reshape(7, 2, 20)
    answers = []
    for compiled in (True, False):
        leaves = [value.clone().requires_grad_() for value in (initial, times, *parameters, amounts, rates)]
        events = Events(leaves[-2], leaves[-1], resets)
        states = solve(field, *leaves[:2], tuple(leaves[2:4]), solver=Tsit5(compile=compiled), events=events).states
        answers.append(torch.autograd.grad((weights * states).sum(), leaves))
    for ours, expected in zip(*answers, strict=True):
        assert (ours - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_hessian_vector_products_equal_plain_ones():
    field, initial, times, (weights, dose) = network_problem(9)
    answers = []
    for compiled in (True, False):
        leaves = [value.clone().requires_grad_() for value in (initial, weights, dose)]
        states = solve(field, leaves[0], times, tuple(leaves[1:]), solver=Tsit5(compile=compiled)).states
        first = torch.autograd.grad(states.square().sum(), leaves, create_graph=True)
        product = sum((gradient * torch.cos(gradient.detach())).sum() for gradient in first)
        answers.append(torch.autograd.grad(product, leaves))
    for ours, expected in zip(*answers, strict=True):
        assert (ours - expected).abs().max() <= 1e-8 * expected.abs().max()


def driven(t, y, parameters):
    """Growth at the rate of a network of the state and of an input that each subject has its own value of."""
    first, second, own = parameters
    hidden = torch.tanh(torch.einsum("hi,i...->h...", first, torch.stack([y[0], own])))
    return (torch.einsum("h,h...->...", second, hidden) - 0.3 * y[0])[None]


@pytest.mark.parametrize(
    ("solver", "moving"),
    [(Tsit5(), (False, False, True)), (Tsit5(), (False, True, True)), (Rodas5P(), (False, False, True))],
)
def test_parameters_without_gradients_are_left_out_of_derivatives(solver, moving, monkeypatch):
    monkeypatch.setattr("nlme_torch.solve.kernel.kernel.WORTH_HOLDING", 16)
    generator = torch.Generator().manual_seed(8)
    parameters = tuple(
        torch.randn(shape, generator=generator, dtype=DTYPE) / scale for shape, scale in (((8, 2), 1), (8, 3), (9, 1))
    )
    initial, times, answers = torch.ones(1, 9, dtype=DTYPE), random_times(5, 9), []
    for compiled in (True, False):
        leaves = tuple(value.clone().requires_grad_(moves) for value, moves in zip(parameters, moving, strict=True))
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        states = solve(driven, initial, times, leaves, solver=replace(solver, compile=compiled)).states
        first = torch.autograd.grad(states.square().sum(), wanted, create_graph=True)
        product = sum((gradient * torch.cos(gradient.detach())).sum() for gradient in first)
        answers.append((*first, *torch.autograd.grad(product, wanted)))
    assert kernel_of(driven, initial, times, leaves).differentiating(leaves).field.held
    for ours, expected in zip(*answers, strict=True):
        assert (ours - expected).abs().max() <= 1e-8 * expected.abs().max()


def test_a_few_parameters_are_not_worth_a_kernel_of_their_own():
    field, initial, times, (weights, dose) = network_problem()
    leaves = (weights.clone().requires_grad_(), dose)
    kernel = kernel_of(field, initial, times, leaves)
    assert kernel.differentiating(leaves) is kernel


def test_a_subject_is_bitwise_the_same_alone_and_in_any_batch():
    field, initial, times, (weights, dose) = network_problem(50)
    batch = solve(field, initial, times, (weights, dose), solver=Tsit5())
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    shuffled = solve(field, initial[:, order], times[:, order], (weights[:, order], dose[order]), solver=Tsit5())
    assert torch.equal(batch.states[..., order], shuffled.states)
    for subject in (0, 13, 49):
        own = slice(subject, subject + 1)
        alone = solve(field, initial[:, own], times[:, own], (weights[:, own], dose[own]), solver=Tsit5())
        assert torch.equal(alone.states, batch.states[..., own])


def test_threads_do_not_change_anything():
    field, initial, times, parameters = network_problem(101)
    leaf = parameters[0].clone().requires_grad_()
    before = torch.get_num_threads()
    answers = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            states = solve(field, initial, times, (leaf, parameters[1]), solver=Tsit5()).states
            answers.append((states.detach(), torch.autograd.grad(states.sum(), leaf)[0]))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*answers, strict=True))


CAPTURED = torch.tensor(0.5, dtype=DTYPE)
UNARY = {
    "tanh": torch.tanh, "exp": torch.exp, "expm1": torch.expm1, "log": lambda x: torch.log(x.abs() + 0.1),
    "log1p": lambda x: torch.log1p(x.abs()), "sqrt": lambda x: torch.sqrt(x.abs() + 0.1),
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus, "silu": functional.silu, "gelu": functional.gelu, "elu": functional.elu,
    "relu": torch.relu, "leaky_relu": functional.leaky_relu, "sin": torch.sin, "cos": torch.cos,
    "tan": torch.tan,
    "atan": torch.atan, "sinh": torch.sinh, "cosh": torch.cosh, "erf": torch.erf, "abs": torch.abs,
    "square": torch.square, "rsqrt": lambda x: torch.rsqrt(x.abs() + 0.1),
    "reciprocal": lambda x: 1 / (2 + x * x),
    "hill": lambda x: x.abs() ** 1.7 / (0.3**1.7 + x.abs() ** 1.7), "power": lambda x: (x.abs() + 0.1) ** x,
    "base": lambda x: 2.0**x, "clamp": lambda x: x.clamp(-1, 2),
    "where": lambda x: torch.where(x > 0.3, x * x, -x),
    "maximum": lambda x: torch.maximum(x, torch.cos(x)), "floor": torch.floor, "sign": torch.sign,
    "mask": lambda x: x * ((x > 0) & (x < 1)), "logaddexp": lambda x: torch.logaddexp(x, -x),
    "mish": functional.mish,
    "softmax": lambda x: torch.softmax(torch.stack([x, 2 * x]), 0)[0],
    "lerp": lambda x: torch.lerp(x, x * x, 0.3),
    "nan_to_num": lambda x: torch.nan_to_num(x / (x * x)), "lgamma": lambda x: torch.lgamma(1.5 + x * x),
}  # fmt: skip


def test_a_few_operations():
    check_operations(["tanh", "softplus", "hill", "where", "softmax", "lgamma"])


@pytest.mark.slow
@pytest.mark.parametrize("name", UNARY)
def test_every_operation(name):
    check_operations([name])


def check_operations(names):
    """One function per state; slopes of the compiled field and their transposes are compared."""
    grid = torch.cat([torch.linspace(-3, 3, 41, dtype=DTYPE), torch.tensor([-30.0, 30.0], dtype=DTYPE)])
    initial = grid.expand(len(names), -1)

    def field(t, y, parameters):
        return 1e-3 * torch.stack([UNARY[name](parameters[0] * y[i]) for i, name in enumerate(names)])

    times = torch.tensor([0.0, 1e-3], dtype=DTYPE)
    answers = []
    for compiled in (True, False):
        leaves = [initial.clone().requires_grad_(), torch.full_like(grid, 0.9).requires_grad_()]
        states = solve(field, leaves[0], times[:, None], (leaves[1],), solver=Tsit5(1.0, 1.0, compile=compiled)).states
        answers.append((states[1] - states[0], *torch.autograd.grad((states[1] - states[0]).sum(), leaves)))
    assert kernel_of(field, initial, times[:, None], (torch.full_like(grid, 0.9),)) is not None
    for ours, expected in zip(*answers, strict=True):
        finite = torch.isfinite(expected)
        assert torch.equal(torch.isfinite(ours), finite)
        assert ((ours - expected).abs() <= 1e-11 * (1e-3 + expected.abs()))[finite].all()


def test_matrices_and_modules():
    """A shared dense network by matrix products, and per-subject ones by batched products."""
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(5, 3, generator=generator, dtype=DTYPE)
    own = torch.randn(3, 5, 4, generator=generator, dtype=DTYPE)
    initial = torch.rand(3, 4, generator=generator, dtype=DTYPE)

    def field(t, y, parameters):
        hidden = torch.tanh(parameters[0] @ y)
        return 0.3 * torch.baddbmm(-y.T[..., None], parameters[1].movedim(-1, 0), hidden.T[..., None])[..., 0].T

    times = torch.linspace(0, 2, 4, dtype=DTYPE)[:, None]
    assert kernel_of(field, initial, times, (shared, own)) is not None
    compiled, plain = both(field, initial, times, (shared, own))
    assert (compiled.states - plain.states).abs().max() < 1e-12


def test_shared_vector_as_long_as_the_batch_is_read_correctly():
    field, initial, times, (own, shared) = saturable_problem(subjects=2)
    assert shared.shape == (2,)
    compiled, plain = both(field, initial, times, (own, shared))
    assert (compiled.states - plain.states).abs().max() < 1e-12


@pytest.mark.parametrize(
    "field",
    [
        lambda t, y, p: -y * y.mean(-1, keepdim=True),
        lambda t, y, p: -y if bool((y > 0).all()) else y,
        lambda t, y, p: -CAPTURED * y,
        lambda t, y, p: -torch.special.bessel_j0(y),
    ],
    ids=["coupled subjects", "data-dependent branch", "captured tensor", "unknown operation"],
)
def test_what_cannot_be_compiled_runs_as_plain_operations(field, caplog):
    initial = torch.tensor([[1.0, 2.0], [0.5, 0.2]], dtype=DTYPE)
    times = torch.tensor([0.0, 1.0], dtype=DTYPE)[:, None]
    with caplog.at_level(logging.INFO, logger="nlme_torch"):
        assert kernel_of(field, initial, times, ()) is None
    assert "no compiled kernel" in caplog.text
    compiled, plain = both(field, initial, times, ())
    assert torch.equal(compiled.states, plain.states)


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr("nlme_torch.solve.kernel.find.compiler", lambda: None)
    field, initial, times, parameters = oral_problem()
    assert kernel_of(field, initial, times, parameters) is None
    assert solve(field, initial, times, parameters, solver=Tsit5()).ok.all()


def test_float32_is_computed_in_double():
    field, initial, times, parameters = oral_problem()
    single = [value.float() for value in (initial, times, parameters[0])]
    states = solve(field, single[0], single[1], (single[2],), solver=Tsit5(1e-9, 1e-12)).states
    exact = solve(
        field, single[0].double(), single[1].double(), (single[2].double(),), solver=Tsit5(1e-9, 1e-12)
    ).states
    assert states.dtype == torch.float32
    assert torch.equal(states, exact.float())


def test_gradient_after_the_field_is_gone():
    leaf = torch.tensor([0.3], dtype=DTYPE, requires_grad=True)
    times = torch.tensor([0.0, 1.0], dtype=DTYPE)[:, None]
    states = solve(lambda t, y, p: -p[0] * y, torch.ones(1, 1, dtype=DTYPE), times, (leaf,), solver=Tsit5()).states
    (gradient,) = torch.autograd.grad(states[1].sum(), leaf)
    assert abs(float(gradient + torch.exp(-leaf.detach()))) < 1e-6
