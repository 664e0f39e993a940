"""Linear systems from record to record, against the adaptive solver, single doses added up, and many repeated doses."""

import pytest
import torch
from support.linear_cases import DTYPE, SYSTEMS, number, random_records, random_values

from nlme_torch.compartments import (
    LinearSystem,
    OneCompartment,
    TwoCompartment,
    solve_linear,
    steady_state,
    superposition,
)
from nlme_torch.errors import SolveError
from nlme_torch.solve import Events, Status, Tsit5, solve

BATCH = (2, 1, 3)


def linear_field(t, y, parameters):
    return torch.einsum("ij...,j...->i...", parameters[0], y)


def random_events(records, states, batch, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def sparse(*shape):
        draw = torch.rand(*shape, generator=generator, dtype=DTYPE)
        return torch.where(torch.rand(*shape, generator=generator) < 0.3, 10 * draw, 0.0)

    resets = torch.rand(records, *batch, generator=generator) < 0.2
    return Events(sparse(records, states, *batch), sparse(records, states, *batch), resets)


@pytest.mark.parametrize("name", SYSTEMS)
def test_agrees_with_the_adaptive_solver_under_random_events(name):
    make, _ = SYSTEMS[name]
    system = make(*(0.2 * value + 0.1 for value in random_values(name, BATCH, seed=2)))
    count = len(system.states)
    initial = torch.rand(count, *BATCH, generator=torch.Generator().manual_seed(1), dtype=DTYPE)
    times = random_records(12, BATCH)
    events = random_events(12, count, BATCH)
    exact = solve_linear(system, initial, times, events)
    assert bool(exact.ok.all()) and bool((exact.reached == 11).all())
    solver = Tsit5(rtol=1e-10, atol=1e-12, compile=False)
    other = solve(linear_field, initial, times, (system.matrix(),), solver=solver, events=events)
    assert (exact.states - other.states).abs().max() < 1e-8


def test_the_first_record_and_a_single_one():
    system, initial = OneCompartment(1.0, 2.0), number(3.0)
    events = Events(amounts=number(5.0)[:, None], resets=torch.tensor([True]))
    assert solve_linear(system, initial, number(4.0), events).states.tolist() == [[8.0]]


def test_shared_parameters_and_shared_times():
    times = number(0.0, 1.0, 5.0)
    initial = torch.rand(2, 4, 1, 3, generator=torch.Generator().manual_seed(1), dtype=DTYPE)
    together = solve_linear(OneCompartment(number(0.1, 0.2, 0.3), 2.0, 1.1), initial, times).states
    for chain in range(4):
        for subject in range(3):
            alone = OneCompartment(0.1 * (subject + 1), 2.0, 1.1)
            states = solve_linear(alone, initial[:, chain, 0, subject], times).states
            assert torch.allclose(states, together[:, :, chain, 0, subject], rtol=1e-14)


@pytest.mark.parametrize("name", SYSTEMS)
def test_compiled_and_plain_operations_agree(name, monkeypatch):
    make, _ = SYSTEMS[name]
    batch = (3, 1, 7)
    values = [value.requires_grad_() for value in random_values(name, batch)]
    count = len(make(*values).states)
    initial, times = torch.ones(count, *batch, dtype=DTYPE), random_records(15, batch)
    events = random_events(15, count, batch)

    def solve_and_differentiate():
        states = solve_linear(make(*values), initial, times, events).states
        return states, *torch.autograd.grad(states.square().sum(), values)

    compiled = solve_and_differentiate()
    monkeypatch.setattr("nlme_torch.solve.linear.compiled._SMALLEST", 10**9)
    monkeypatch.setattr("nlme_torch.solve.linear.recurrence.compiler", lambda: None)
    for one, other in zip(compiled, solve_and_differentiate(), strict=True):
        assert (one - other).abs().max() <= 1e-12 * other.abs().max()


def test_a_bad_subject_has_a_status_and_harms_nobody():
    clearance = torch.tensor([1.0, torch.nan, 2.0, -3e3, 1.0], dtype=DTYPE, requires_grad=True)
    volume = torch.tensor([1.0, 1.0, 0.0, 1.0, 3.0], dtype=DTYPE, requires_grad=True)
    ka = number(0.7).requires_grad_()
    times, initial = number(0.0, 0.5, 1.0), torch.ones(2, 5, dtype=DTYPE)
    solution = solve_linear(OneCompartment(clearance, volume, ka), initial, times)
    bad = Status.INVALID_START
    assert solution.status.tolist() == [0, bad, bad, Status.NONFINITE, 0]
    assert solution.reached.tolist() == [2, 0, 0, 0, 2]
    assert bool(torch.isnan(solution.states[:, :, [1, 2]]).all()) and bool(torch.isnan(solution.states[1:, :, 3]).all())
    alone = solve_linear(OneCompartment(1.0, 3.0, 0.7), torch.ones(2, dtype=DTYPE), times).states
    assert torch.allclose(solution.states[..., 4], alone, rtol=1e-14)
    loss = solution.states[:, :, solution.ok].sum()
    for gradient in torch.autograd.grad(loss, (clearance, volume, ka)):
        assert bool(torch.isfinite(gradient).all())
    with pytest.raises(SolveError, match="subject 1 after time"):
        solution.raise_for_status(times=times)
    events = Events(amounts=number(0.0, torch.inf, 0.0)[:, None, None].expand(3, 2, 5))
    assert bool((solve_linear(OneCompartment(1.0, 1.0, 1.0), initial, times, events).status == bad).all())


def test_wrong_shapes():
    times = number(0.0, 1.0)
    with pytest.raises(SolveError, match="2 states.*1: central"):
        solve_linear(OneCompartment(1.0, 1.0), torch.ones(2, 3, dtype=DTYPE), times)
    with pytest.raises(SolveError, match="broadcast"):
        solve_linear(OneCompartment(number(1.0, 2.0), 1.0), torch.ones(1, 3, dtype=DTYPE), times)
    with pytest.raises(SolveError, match="decrease"):
        solve_linear(OneCompartment(1.0, 1.0), torch.ones(1, 3, dtype=DTYPE), -times)


def test_superposition_is_the_walk_over_doses():
    batch = (2, 1, 3)
    system = TwoCompartment(*random_values("two_oral", batch))
    given = torch.tensor([0.0, 3.0, 3.5, 9.0], dtype=DTYPE)
    durations = torch.tensor([0.0, 2.0, 0.0, 4.0], dtype=DTYPE)
    amounts = torch.rand(4, 3, *batch, generator=torch.Generator().manual_seed(3), dtype=DTYPE)
    times = number(0.0, 1.0, 3.0, 3.5, 4.0, 5.0, 9.0, 11.0, 13.0, 30.0)
    record = {time: index for index, time in enumerate(times.tolist())}
    boluses, rates = torch.zeros(10, 3, *batch, dtype=DTYPE), torch.zeros(10, 3, *batch, dtype=DTYPE)
    for time, duration, amount in zip(given.tolist(), durations.tolist(), amounts, strict=True):
        if duration == 0:
            boluses[record[time]] += amount
        else:
            rates[record[time] : record[time + duration]] += amount / duration
    walked = solve_linear(system, torch.zeros(3, *batch, dtype=DTYPE), times, Events(boluses, rates)).states
    summed = superposition(system, times, given, amounts, durations)
    assert torch.allclose(summed, walked, rtol=1e-12, atol=1e-14)
    only = superposition(system, times, given[[0, 2]], amounts[[0, 2]])
    zero = torch.zeros(2, dtype=DTYPE)
    assert torch.allclose(superposition(system, times, given[[0, 2]], amounts[[0, 2]], zero), only, rtol=1e-14)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("duration", [None, 3.0, 12.0, 31.0], ids=["bolus", "short", "whole", "overlapping"])
def test_steady_state_is_where_many_doses_lead(name, duration):
    make, _ = SYSTEMS[name]
    system = make(*(0.3 + 0.2 * value for value in random_values(name, (3,))))
    count, interval, doses = len(system.states), 12.0, 60
    amount = torch.zeros(count, 3, dtype=DTYPE)
    amount[0] = 100.0
    times = torch.arange(doses, dtype=DTYPE) * interval
    durations = None if duration is None else torch.full((doses,), duration, dtype=DTYPE)
    last = times[-1:] + interval
    many = superposition(system, last, times, amount.expand(doses, count, 3), durations)[0]
    every = number(interval)
    if duration is None:
        exact = steady_state(system, every, amounts=amount)
    else:
        exact = steady_state(system, every, rates=amount / duration, duration=number(duration))
    assert torch.allclose(exact, many, rtol=1e-9, atol=1e-10)


def test_steady_state_of_a_constant_infusion():
    system = TwoCompartment(2.0, 10.0, 1.0, 20.0)
    exact = steady_state(system, rates=number(5.0, 0.0))
    assert torch.allclose(exact, number(25.0, 50.0), rtol=1e-13)
    assert torch.allclose(system.response(number(5000.0))[0] @ number(5.0, 0.0), exact, rtol=1e-12)


def test_no_steady_state_and_no_dose():
    nothing_leaves = OneCompartment(number(0.0, 1.0), 1.0)
    found = steady_state(nothing_leaves, number(12.0), amounts=number(1.0)[:, None])
    assert torch.isfinite(found).tolist() == [[False, True]]
    for wrong in (
        {},
        {"interval": number(1.0)},
        {"interval": number(1.0), "rates": number(1.0)},
        {"interval": number(1.0), "amounts": number(1.0), "rates": number(1.0), "duration": number(1.0)},
        {"amounts": number(1.0)},
    ):
        with pytest.raises(SolveError):
            steady_state(OneCompartment(1.0, 1.0), **wrong)


def test_a_generic_system_and_its_names():
    system = LinearSystem(torch.tensor([[-1.0, 0.5], [0.5, -1.0]], dtype=DTYPE), ("a", "b"))
    times = number(0.0, 2.0)
    states = solve_linear(system, number(1.0, 0.0), times).states[1]
    expected = 0.5 * torch.stack([torch.exp(-times[1] / 2) + s * torch.exp(-1.5 * times[1]) for s in (1, -1)])
    assert system.states == ("a", "b") and torch.allclose(states, expected, rtol=1e-14)
