"""States of any size: absolute tolerances follow what each state of each subject visits."""

import math

import pytest
import torch

from nlme_torch.errors import SolveError
from nlme_torch.solve import Auto, Events, Rodas5P, TorchDiffEq, Tsit5, solve

UNITS = (1e6, 1.0, 1e-6, 1e-9, 1e-12, 1e-30)
SOLVERS = [
    Tsit5(), Tsit5(compile=False), Auto(), Auto(compile=False), Rodas5P(), TorchDiffEq(),
    TorchDiffEq(adjoint="continuous"),
]  # fmt: skip
TIMES = torch.tensor([0.0, 0.5, 2.0, 8.0, 24.0], dtype=torch.float64)


def absorption(t, y, p):
    """A dose in a unit of its own, and a response around 100 that it hardly moves."""
    drug = torch.stack([-1.5 * y[0], 1.5 * y[0] - p[0] * y[1]])
    slope = 10.0 * (1 - 1e-5 * y[1] / p[1]) - 0.1 * y[2]
    return torch.cat([drug, slope[None]])


def posed(units):
    units = torch.tensor(units, dtype=torch.float64)
    start = torch.stack([torch.zeros_like(units), torch.zeros_like(units), torch.full_like(units, 100.0)])
    amounts = torch.zeros(len(TIMES), 3, len(units), dtype=torch.float64)
    amounts[0, 0] = units
    return start, Events(amounts), (torch.full_like(units, 0.1), units)


def central(units):
    after = TIMES[:, None]
    return torch.tensor(units) * 1.5 / 1.4 * (torch.exp(-0.1 * after) - torch.exp(-1.5 * after))


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_drug_of_any_unit_beside_a_response_of_another(solver):
    start, events, p = posed(UNITS[:5])
    solution = solve(absorption, start, TIMES[:, None], p, solver=solver, events=events)
    assert solution.ok.all()
    error = (solution.states[1:, 1] / central(UNITS[:5])[1:] - 1).abs().amax(0)
    assert (error < 1e-4).all(), error
    torch.testing.assert_close(solution.states[:, 2], solution.states[:, 2, 1:2].expand(-1, 5), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("solver", [Tsit5, Auto])
def test_compiled_and_plain_walks_take_the_same_steps(solver):
    start, events, p = posed(UNITS)
    walks = [
        solve(absorption, start, TIMES[:, None], p, solver=solver(compile=compiled), events=events)
        for compiled in (True, False)
    ]
    assert torch.equal(walks[0].statistics.accepted, walks[1].statistics.accepted)
    torch.testing.assert_close(walks[0].states, walks[1].states, rtol=1e-10, atol=0.0)


@pytest.mark.parametrize("compiled", [True, False])
def test_gradients_are_those_of_the_walk_that_counts(compiled):
    start, events, p = posed(UNITS[:5])
    rate = p[0].clone().requires_grad_()
    solver = Tsit5(compile=compiled)
    states = solve(absorption, start, TIMES[:, None], (rate, p[1]), solver=solver, events=events).states
    (slope,) = torch.autograd.grad(states[-1, 1].sum(), rate)
    t, k = 24.0, 0.1
    decay = math.exp(-k * t) - math.exp(-1.5 * t)
    exact = 1.5 * (decay / (1.5 - k) ** 2 - t * math.exp(-k * t) / (1.5 - k))
    torch.testing.assert_close(slope / torch.tensor(UNITS[:5]), torch.full_like(slope, exact), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_state_that_is_rounding_error_is_left_alone(compiled):
    """The difference of a response and its baseline, zero but for rounding, beside a dose."""

    def field(t, y, p):
        slope = p[0] * 100.1 - p[0] * y[0]
        return torch.stack([slope, slope, -y[2]])

    start = torch.tensor([[100.1], [0.0], [3.0]], dtype=torch.float64)
    rate = torch.tensor([0.37], dtype=torch.float64)
    solution = solve(field, start, TIMES[:, None], (rate,), solver=Tsit5(compile=compiled))
    assert solution.ok.all() and int(solution.statistics.accepted) < 100
    torch.testing.assert_close(solution.states[-1, 2, 0].item(), 3 * math.exp(-24.0), rtol=1e-3, atol=1e-9)


def test_a_tolerance_that_is_given_is_kept():
    start, events, p = posed((1e-9,))
    found = [
        solve(absorption, start, TIMES[:, None], p, solver=Tsit5(atol=1e-8, compile=compiled), events=events).states
        for compiled in (True, False)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-8, atol=1e-12)
    assert ((found[0][1:, 1] / central((1e-9,))[1:] - 1).abs() > 0.01).any()
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(SolveError, match="must be"):
            Tsit5(atol=wrong)
