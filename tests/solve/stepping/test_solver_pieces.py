"""Batches in pieces: the same answers and derivatives, and less memory."""

import logging

import pytest
import torch
from support.solve_cases import DTYPE, oral_problem, saturable_problem

from nlme_torch import SolveError
from nlme_torch.solve import RK4, Auto, Events, Tsit5, solve
from nlme_torch.solve.stepping import chunking


def derivatives(solver, problem, events=None):
    field, initial, times, parameters = problem
    leaves = tuple(value.clone().requires_grad_() for value in (initial, *parameters))
    solution = solve(field, leaves[0], times, leaves[1:], solver=solver, events=events)
    slopes = torch.autograd.grad(solution.states.square().sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(slope.square().sum() for slope in slopes), leaves)
    return solution, (solution.states, *slopes, *second)


@pytest.mark.parametrize("kind", [Tsit5, Auto, RK4])
@pytest.mark.parametrize("case", [oral_problem, saturable_problem])
def test_pieces_equal_the_whole(kind, case):
    field, initial, times, parameters = case(subjects=11)
    amounts = torch.zeros(len(times), *initial.shape, dtype=DTYPE)
    amounts[2, 0, 3] = 1.5
    problem, events = (field, initial, times, parameters), Events(amounts=amounts)
    whole, expected = derivatives(kind(compile=False), problem, events)
    parts, found = derivatives(kind(compile=False, max_batch=4), problem, events)
    assert torch.equal(parts.status, whole.status)
    assert torch.equal(parts.statistics.evaluations, whole.statistics.evaluations)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_a_shared_parameter_of_the_batch_s_length_is_not_cut():
    def field(t, y, parameters):
        own, shared = parameters
        return -y * own * shared.sum()  # shared by all, though it has as many entries as there are subjects

    own, shared = torch.linspace(0.1, 0.5, 5, dtype=DTYPE), torch.full((5,), 0.2, dtype=DTYPE)
    times = torch.tensor([0.0, 1.0], dtype=DTYPE)
    solution = solve(
        field, torch.ones(1, 5, dtype=DTYPE), times, (own, shared), solver=RK4(40, compile=False, max_batch=2)
    )
    torch.testing.assert_close(solution.states[-1, 0], torch.exp(-own), rtol=1e-9, atol=0)


def test_what_cannot_be_cut_is_solved_whole(caplog):
    def field(t, y, parameters):
        return y.mean(-1, keepdim=True) - y  # subjects depend on each other

    start = torch.linspace(0, 1, 6, dtype=DTYPE)[None]
    times = torch.tensor([0.0, 1.0], dtype=DTYPE)
    with caplog.at_level(logging.WARNING):
        solution = solve(field, start, times, solver=RK4(40, compile=False, max_batch=2))
    assert "cannot be split" in caplog.text
    expected = 0.5 + (start[0] - 0.5) * torch.exp(torch.tensor(-1.0, dtype=DTYPE))
    torch.testing.assert_close(solution.states[-1, 0], expected, rtol=1e-8, atol=1e-8)


def test_auto_keeps_within_a_quarter_of_the_free_memory(monkeypatch):
    field, initial, times, parameters = oral_problem(subjects=3000)
    held, peak = 0, 0

    class Held:
        def __init__(self, value):
            nonlocal held, peak
            self.value = value
            held += value.nbytes
            peak = max(peak, held)

        def __del__(self):
            nonlocal held
            held -= self.value.nbytes

    def run(free):
        nonlocal peak
        peak = 0
        monkeypatch.setattr(chunking, "_free_bytes", lambda device: free)
        leaves = tuple(value.clone().requires_grad_() for value in parameters)
        with torch.autograd.graph.saved_tensors_hooks(Held, lambda kept: kept.value):
            states = solve(field, initial, times, leaves, solver=RK4(5, compile=False)).states
            return torch.autograd.grad(states.square().sum(), leaves), peak

    plenty, whole = run(2**40)
    little, part = run(int(whole / 3))
    for one, other in zip(little, plenty, strict=True):
        torch.testing.assert_close(one, other)
    assert part < 0.5 * whole


@pytest.mark.parametrize("max_batch", [0, -1])
def test_a_limit_must_be_positive(max_batch):
    with pytest.raises(SolveError, match="max_batch"):
        Tsit5(max_batch=max_batch)
