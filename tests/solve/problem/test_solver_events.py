"""Doses, infusions and resets act exactly at records."""

import pytest
import torch
from support.solve_cases import DTYPE, oral_problem

from nlme_torch.solve import RK4, Events, TorchDiffEq, Tsit5, solve

SOLVERS = [
    Tsit5(1e-10, 1e-12),
    Tsit5(1e-10, 1e-12, compile=False),
    TorchDiffEq(rtol=1e-10, atol=1e-12),
    TorchDiffEq(rtol=1e-10, atol=1e-12, adjoint="continuous"),
    RK4(200),
]


def elimination(t, y, parameters):
    return -parameters[0] * y


def elimination_problem():
    """Two subjects, one state; subject 1 has a dose and an observation at the same time, and padding."""
    rate = torch.tensor([0.3, 0.7], dtype=DTYPE)
    times = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 2.0], [4.5, 5.0], [7.0, 5.0]], dtype=DTYPE)
    return rate, times


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_amounts(solver):
    rate, times = elimination_problem()
    amounts = torch.zeros(5, 1, 2, dtype=DTYPE)
    amounts[0, 0] = torch.tensor([10.0, 20.0])
    amounts[2, 0] = torch.tensor([5.0, 8.0])
    states = solve(
        elimination, torch.zeros(1, 2, dtype=DTYPE), times, (rate,), solver=solver, events=Events(amounts)
    ).states
    for subject in range(2):
        expected = torch.zeros(5, dtype=DTYPE)
        for dose in (0, 2):
            gone = (times[:, subject] - times[dose, subject]).clamp(min=0)
            given = amounts[dose, 0, subject] * torch.exp(-rate[subject] * gone)
            expected += torch.where(torch.arange(5) >= dose, given, 0.0)
        assert (states[:, 0, subject] - expected).abs().max() < 1e-8


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_dose_at_the_last_record_is_given_once_whoever_finishes_first(solver):
    rate = torch.tensor([0.01, 30.0], dtype=DTYPE, requires_grad=True)
    times = torch.tensor([0.0, 1.0, 2.0], dtype=DTYPE)[:, None]
    amounts = torch.zeros(3, 1, 2, dtype=DTYPE)
    amounts[2] = 5.0
    start = torch.ones(1, 2, dtype=DTYPE)
    states = solve(elimination, start, times, (rate,), solver=solver, events=Events(amounts)).states
    torch.testing.assert_close(states[-1, 0], 5 + torch.exp(-2 * rate), rtol=1e-7, atol=1e-7)
    (slope,) = torch.autograd.grad(states[-1].sum(), rate)
    torch.testing.assert_close(slope, -2 * torch.exp(-2 * rate).detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_infusion(solver):
    rate, times = elimination_problem()
    rates = torch.zeros(5, 1, 2, dtype=DTYPE)
    rates[0:2] = 6.0
    states = solve(
        elimination, torch.zeros(1, 2, dtype=DTYPE), times, (rate,), solver=solver, events=Events(rates=rates)
    ).states
    for subject in range(2):
        k, end = rate[subject], times[2, subject]
        during = 6.0 / k * (1 - torch.exp(-k * times[:, subject].clamp(max=end)))
        expected = during * torch.exp(-k * (times[:, subject] - end).clamp(min=0))
        assert (states[:, 0, subject] - expected).abs().max() < 1e-8


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_reset_restores_the_initial_state_before_the_dose(solver):
    rate, times = elimination_problem()
    resets = torch.zeros(5, 2, dtype=torch.bool)
    resets[2, 0] = resets[1, 1] = True
    amounts = torch.zeros(5, 1, 2, dtype=DTYPE)
    amounts[2] = 4.0
    initial = torch.tensor([[2.0, 3.0]], dtype=DTYPE)
    states = solve(elimination, initial, times, (rate,), solver=solver, events=Events(amounts, resets=resets)).states[
        :, 0
    ]
    decay = lambda start, k, gap: start * torch.exp(-k * torch.as_tensor(gap, dtype=DTYPE))  # noqa: E731
    assert (states[1, 0] - decay(2.0, rate[0], 1.0)).abs() < 1e-9
    assert (states[2, 0] - 6.0).abs() < 1e-12
    assert (states[3, 0] - decay(6.0, rate[0], 1.5)).abs() < 1e-9
    assert (states[1, 1] - 3.0).abs() < 1e-12
    assert (states[2, 1] - 7.0).abs() < 1e-12
    assert (states[4, 1] - decay(7.0, rate[1], 3.0)).abs() < 1e-9


@pytest.mark.parametrize("solver", SOLVERS[1:], ids=str)
def test_strategies_agree_with_everything_at_once(solver):
    field, initial, times, parameters = oral_problem(subjects=4, records=8)
    times[4] = times[3]
    times[6:, 2] = times[5, 2]
    generator = torch.Generator().manual_seed(3)
    events = Events(
        amounts=torch.rand(8, 2, 4, generator=generator, dtype=DTYPE),
        rates=torch.rand(8, 2, 4, generator=generator, dtype=DTYPE),
        resets=torch.rand(8, 4, generator=generator) < 0.3,
    )
    ours = solve(field, initial, times, parameters, solver=Tsit5(1e-10, 1e-12), events=events).states
    theirs = solve(field, initial, times, parameters, solver=solver, events=events).states
    assert (ours - theirs).abs().max() < 1e-6


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_gradients_with_respect_to_amounts_rates_and_times(solver):
    rate, times = elimination_problem()
    times[2, 1], times[4, 1] = 3.0, 6.0
    amount = torch.tensor([10.0, 20.0], dtype=DTYPE, requires_grad=True)
    infusion = torch.tensor([1.0, 2.0], dtype=DTYPE, requires_grad=True)
    lag = torch.tensor([0.1, 0.2], dtype=DTYPE, requires_grad=True)
    zero = torch.zeros(2, dtype=DTYPE)
    amounts = torch.stack([zero, amount, zero, zero, zero])[:, None]
    rates = torch.stack([zero, zero, infusion, zero, zero])[:, None]
    moved = times + torch.stack([zero, lag, zero, zero, zero])
    states = solve(
        elimination,
        torch.zeros(1, 2, dtype=DTYPE),
        moved,
        (rate,),
        solver=solver,
        events=Events(amounts, rates),
    ).states
    gradients = torch.autograd.grad(states[4].sum(), (amount, infusion, lag))
    after = times[4] - times[1] - lag
    assert (gradients[0] - torch.exp(-rate * after)).abs().max() < 1e-6
    length, tail = times[3] - times[2], times[4] - times[3]
    assert (gradients[1] - (1 - torch.exp(-rate * length)) / rate * torch.exp(-rate * tail)).abs().max() < 1e-6
    assert (gradients[2] - amount * rate * torch.exp(-rate * after)).abs().max() < 1e-6
