"""Stiff systems against SciPy's Radau, and switching between the explicit and the implicit method."""

import pytest
import torch
from support.solve_cases import DTYPE, oral_problem, reference
from support.stiff_cases import CASES, problem

from nlme_torch.solve import Auto, Rodas5P, Tsit5, solve

IMPLICIT = [(Rodas5P, "robertson"), (Rodas5P, "van der pol"), (Rodas5P, "target-mediated")]


@pytest.mark.parametrize(("strategy", "name"), [*IMPLICIT, *((Auto, name) for name in CASES)])
def test_against_radau(strategy, name):
    field, initial, times, parameters = problem(name)
    solution = solve(field, initial, times, parameters, solver=strategy(rtol=1e-8, atol=1e-11))
    assert solution.ok.all()
    expected = reference(field, initial, times.expand(-1, 1), parameters, rtol=1e-9, atol=1e-12)
    scale = expected.abs().amax(0)
    assert ((solution.states[..., 0] - expected).abs() / scale).max() < 1e-6


@pytest.mark.parametrize("name", ["robertson", "target-mediated", "friberg"])
def test_against_bdf_and_radau_in_a_batch(name):
    field, initial, times, parameters = problem(name, subjects=11, spread=0.2)
    states = solve(field, initial, times, parameters, solver=Auto(rtol=1e-8, atol=1e-11)).states
    for subject, method in ((0, "Radau"), (10, "BDF")):
        expected = reference(field, initial, times.expand(-1, 11), parameters, subject, method, rtol=1e-9, atol=1e-12)
        assert ((states[..., subject] - expected).abs() / expected.abs().amax(0)).max() < 1e-5


def test_order_of_the_implicit_method():
    """y' = -y^2 cos t from 1: y = 1 / (1 + sin t); errors fall like rtol."""
    times = torch.tensor([0.0, 1.0], dtype=DTYPE)
    errors, counts = [], []
    for rtol in (1e-4, 1e-7, 1e-10):
        solution = solve(
            lambda t, y, p: -y * y * torch.cos(t),
            torch.ones(1, dtype=DTYPE),
            times,
            solver=Rodas5P(rtol, rtol),
        )
        errors.append(abs(float(solution.states[1, 0]) - 1 / (1 + float(torch.sin(times[1])))))
        counts.append(int(solution.statistics.accepted))
    assert errors[1] < 3e-7 and errors[2] < 3e-10
    assert counts[2] < 5 * counts[1]


def test_only_the_stiff_subject_switches_and_pays():
    rates = torch.tensor([1.0, 1e6, 3.0], dtype=DTYPE)
    times = torch.linspace(0, 10, 5, dtype=DTYPE)[:, None]
    field, initial = (lambda t, y, p: -p[0] * (y - torch.cos(t))), torch.zeros(1, 3, dtype=DTYPE)
    solution = solve(field, initial, times, (rates,), solver=Auto())
    assert solution.ok.all()
    assert solution.statistics.switches.tolist() == [0, 1, 0]
    assert solution.statistics.evaluations[1] < 2000
    explicit = solve(field, initial, times, (rates[:1],), solver=Tsit5()).statistics
    assert solution.statistics.evaluations[0] == explicit.evaluations[0] if explicit.evaluations.ndim else True
    rate, t = rates[1], times[1:, 0]
    exact = (rate**2 * torch.cos(t) + rate * torch.sin(t)) / (1 + rate**2)
    assert (solution.states[1:, 0, 1] - exact).abs().max() < 1e-5


def test_a_stiff_phase_that_ends():
    """Stiff until t = 5: the subject goes implicit and comes back."""

    def field(t, y, parameters):
        return -(1 + 1e5 * torch.sigmoid(40 * (5 - t))) * (y - torch.sin(t))

    times = torch.tensor([0.0, 4.0, 20.0, 60.0], dtype=DTYPE)
    solution = solve(field, torch.zeros(1, 1, dtype=DTYPE), times[:, None], (), solver=Auto(1e-7, 1e-9))
    assert solution.ok.all() and int(solution.statistics.switches[0]) == 2


@pytest.mark.parametrize("strategy", [Rodas5P, Auto])
def test_compiled_equals_plain(strategy):
    field, initial, _, parameters = problem("target-mediated", subjects=3, spread=0.1)
    times = torch.tensor([0.0, 0.5, 3.0], dtype=DTYPE)[:, None]
    answers = [solve(field, initial, times, parameters, solver=strategy(compile=compile)) for compile in (True, False)]
    assert (answers[0].states - answers[1].states).abs().max() <= 1e-10 * answers[1].states.abs().max()
    for name in ("accepted", "rejected", "evaluations", "switches"):
        ours, theirs = (getattr(answer.statistics, name) for answer in answers)
        assert (ours - theirs).abs().max() <= 1 + 0.02 * theirs.max(), name


@pytest.mark.parametrize("strategy", [Rodas5P, Auto])
def test_gradients_equal_plain_ones(strategy):
    field, initial, _, parameters = problem("target-mediated", subjects=3, spread=0.1)
    times = torch.tensor([0.0, 0.5, 2.0], dtype=DTYPE)[:, None].expand(3, 3)
    answers = []
    for compile in (True, False):
        leaves = [value.clone().requires_grad_() for value in (initial, times, parameters[0])]
        states = solve(field, *leaves[:2], (leaves[2],), solver=strategy(compile=compile)).states
        answers.append(torch.autograd.grad(states.square().sum(), leaves))
    for ours, expected in zip(*answers, strict=True):
        assert (ours - expected).abs().max() <= 1e-7 * expected.abs().max()


@pytest.mark.parametrize("strategy", [Rodas5P, Auto])
def test_gradients_through_stiff_steps_against_central_differences(strategy):
    field, initial, times, parameters = problem("robertson", subjects=2, spread=0.1)

    def loss(logarithms):
        solver = strategy(rtol=1e-10, atol=1e-13)
        states = solve(field, initial, times[:5], (logarithms.exp(),), solver=solver).states
        return (states * torch.tensor([1.0, 1e4, 2.0], dtype=DTYPE)[:, None]).sum()

    at = parameters[0].log()
    leaf = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    for index in ((0, 0), (1, 1), (2, 0)):
        shift = torch.zeros_like(at)
        shift[index] = 1e-4
        with torch.no_grad():
            numeric = (loss(at + shift) - loss(at - shift)) / 2e-4
        assert abs(float(gradient[index] - numeric)) < 1e-5 * float(gradient.abs().max())


def test_second_derivatives_through_stiff_steps():
    field, initial, times, parameters = problem("robertson", subjects=1)
    at = parameters[0].log()

    def gradient(logarithms, create_graph=False):
        leaf = logarithms.clone().requires_grad_() if not logarithms.requires_grad else logarithms
        states = solve(field, initial, times[:4], (leaf.exp(),), solver=Auto(rtol=1e-9, atol=1e-13)).states
        loss = states[1:, 0].square().sum() + (1e4 * states[1:, 1]).square().sum()
        return torch.autograd.grad(loss, leaf, create_graph=create_graph)[0]

    leaf = at.clone().requires_grad_()
    first = gradient(leaf, create_graph=True)
    hessian = torch.stack([torch.autograd.grad(first[i, 0], leaf, retain_graph=True)[0][:, 0] for i in range(3)])
    for index in range(3):
        shift = torch.zeros_like(at)
        shift[index] = 1e-4
        numeric = (gradient(at + shift) - gradient(at - shift))[:, 0] / 2e-4
        assert (hessian[index] - numeric).abs().max() < 1e-4 * hessian.abs().max()
    assert (hessian - hessian.T).abs().max() < 1e-7 * hessian.abs().max()


def test_forward_mode_through_the_implicit_method():
    field, initial, times, parameters = oral_problem(subjects=2, records=3)
    direction = torch.ones_like(parameters[0])

    def states(values):
        return solve(field, initial, times, (values,), solver=Rodas5P(1e-8, 1e-10)).states

    _, tangent = torch.func.jvp(states, (parameters[0],), (direction,))
    numeric = (states(parameters[0] + 1e-5) - states(parameters[0] - 1e-5)) / 2e-5
    assert (tangent - numeric).abs().max() < 1e-5
