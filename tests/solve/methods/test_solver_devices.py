"""What a GPU changes: fewer looks at the device, recorded graphs; and that it changes no answer."""

import pytest
import torch
from support.solve_cases import DTYPE, oral_problem, saturable_problem
from support.stiff_cases import CASES

from nlme_torch import compartments
from nlme_torch.solve import RK4, Auto, Events, Rodas5P, Tsit5, solve
from nlme_torch.solve.methods import per_subject

SOLVERS = [Tsit5(compile=False), Auto(compile=False), Rodas5P(compile=False), RK4(20, compile=False)]


def with_events(case, subjects=7):
    field, initial, times, parameters = case(subjects=subjects)
    amounts = torch.zeros(len(times), *initial.shape, dtype=DTYPE)
    amounts[2, 0], amounts[-1, 0, :3] = 1.5, 2.0
    return field, initial, times, parameters, Events(amounts=amounts)


def derivatives(problem, solver, device="cpu"):
    field, initial, times, parameters, events = problem
    leaves = tuple(value.to(device).requires_grad_() for value in parameters)
    amounts = None if events.amounts is None else Events(amounts=events.amounts.to(device))
    solution = solve(field, initial.to(device), times.to(device), leaves, solver=solver, events=amounts)
    slopes = torch.autograd.grad(solution.states.square().sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(slope.square().sum() for slope in slopes), leaves)
    return solution, [value.detach().cpu() for value in (solution.states, *slopes, *second)]


@pytest.mark.parametrize(
    ("name", "solver"),
    [("oral", SOLVERS[0]), ("oral", SOLVERS[1]), ("stiff", SOLVERS[1]), ("stiff", SOLVERS[2])],
    ids=str,
)
def test_looking_rarely_changes_nothing(name, solver, monkeypatch):
    if name == "oral":
        problem = with_events(oral_problem)
    else:
        field, initial, times, parameters = CASES["viral"]
        problem = (
            field,
            initial[:, None].expand(3, 3),
            times,
            (parameters[:, None] * torch.ones(3, dtype=DTYPE),),
            Events(),
        )
    often, expected = derivatives(problem, solver)
    monkeypatch.setattr(per_subject, "_looks_every", lambda initial: 5)
    rarely, found = derivatives(problem, solver)
    assert torch.equal(rarely.status, often.status)
    assert torch.equal(rarely.statistics.accepted, often.statistics.accepted)
    assert torch.equal(rarely.statistics.evaluations, often.statistics.evaluations)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14 * float(other.abs().max()))


@pytest.mark.gpu
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("case", [oral_problem, saturable_problem])
def test_a_gpu_agrees_with_the_cpu(solver, case):
    problem = with_events(case)
    _, expected = derivatives(problem, solver)
    _, found = derivatives(problem, solver, "cuda")
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.gpu
def test_a_recorded_graph_takes_new_numbers():
    field, initial, times, parameters = saturable_problem()
    for factor in (1.0, 1.1, 1.2, 0.9):
        changed = tuple(factor * value for value in parameters)
        expected = solve(field, initial, times, changed, solver=RK4(20, compile=False)).states
        there = tuple(value.cuda() for value in changed)
        found = solve(field, initial.cuda(), times.cuda(), there, solver=RK4(20)).states
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.gpu
def test_closed_forms_agree_with_the_cpu():
    times = torch.linspace(0, 24, 9, dtype=DTYPE)[:, None]
    initial = torch.tensor([[5.0], [0.0], [0.0]], dtype=DTYPE).expand(3, 4)
    rates = torch.linspace(0.5, 2.0, 4, dtype=DTYPE)
    states = []
    for device in ("cpu", "cuda"):
        system = compartments.TwoCompartment(0.1 * rates.to(device), 1.0, 0.3, 2.0, rates.to(device))
        states.append(compartments.solve_linear(system, initial.to(device), times.to(device)).states.cpu())
    torch.testing.assert_close(*states, rtol=1e-10, atol=1e-10)
