"""Every solver against closed forms and SciPy."""

import pytest
import torch
from support.solve_cases import DTYPE, oral_exact, oral_problem, random_times, reference, saturable_problem

from nlme_torch.solve import RK4, TorchDiffEq, Tsit5, solve

TIGHT = [
    Tsit5(rtol=1e-10, atol=1e-12),
    Tsit5(rtol=1e-10, atol=1e-12, compile=False),
    TorchDiffEq(rtol=1e-10, atol=1e-12),
    TorchDiffEq("dopri8", rtol=1e-10, atol=1e-12),
    TorchDiffEq(rtol=1e-10, atol=1e-12, adjoint="continuous"),
    RK4(200),
]


@pytest.mark.parametrize("solver", TIGHT, ids=str)
def test_closed_form(solver):
    field, initial, times, parameters = oral_problem()
    solution = solve(field, initial, times, parameters, solver=solver)
    assert solution.ok.all()
    assert (solution.states[:, 1] - oral_exact(parameters[0], times)).abs().max() < 1e-8
    assert torch.equal(solution.states[0], initial)


@pytest.mark.parametrize("solver", TIGHT, ids=str)
def test_nonlinear_against_scipy(solver):
    field, initial, times, parameters = saturable_problem()
    states = solve(field, initial, times, parameters, solver=solver).states
    for subject in range(initial.shape[1]):
        expected = reference(field, initial, times, parameters, subject)
        assert (states[..., subject] - expected).abs().max() < 1e-7


@pytest.mark.parametrize("solver", [Tsit5(1e-8, 1e-10), TorchDiffEq(rtol=1e-8, atol=1e-10), RK4(100)], ids=str)
def test_chain_axis_and_broadcast_times(solver):
    field, initial, times, parameters = oral_problem(subjects=4)
    chains = torch.stack([initial, 2 * initial, 3 * initial], dim=1)
    solution = solve(field, chains, times, (parameters[0][:, None],), solver=solver)
    assert solution.states.shape == (9, 2, 3, 4)
    assert solution.status.shape == (3, 4)
    for chain in range(3):
        expected = (chain + 1) * oral_exact(parameters[0], times)
        assert (solution.states[:, 1, chain] - expected).abs().max() < 2e-6


@pytest.mark.parametrize("solver", [Tsit5(), TorchDiffEq(), TorchDiffEq(adjoint="continuous"), RK4(50)], ids=str)
def test_error_of_each_subject_is_within_tolerance_among_idle_ones(solver):
    """Torchdiffeq's norm is a mean over the batch: one busy subject among idle ones loses its accuracy."""
    field, initial, times, parameters = oral_problem(subjects=200)
    initial[:, 1:] = 0.0
    states = solve(field, initial, times, parameters, solver=solver).states
    assert (states[:, 1, 0] - oral_exact(parameters[0], times)[:, 0]).abs().max() < 2e-5


@pytest.mark.parametrize(
    "solver",
    [Tsit5(1e-9, 1e-11), Tsit5(1e-9, 1e-11, compile=False), TorchDiffEq(rtol=1e-9, atol=1e-11), RK4(100)],
    ids=str,
)
def test_padding_and_duplicated_times(solver):
    field, initial, times, parameters = oral_problem(subjects=3)
    times[3, 0] = times[2, 0]
    times[4, 0] = times[2, 0]
    times[6:, 1] = times[5, 1]
    times[1:, 2] = times[0, 2]
    solution = solve(field, initial, times, parameters, solver=solver)
    assert solution.ok.all()
    assert (solution.states[:, 1] - oral_exact(parameters[0], times)).abs().max() < 1e-6
    assert (solution.states[2, :, 0] - solution.states[4, :, 0]).abs().max() < 1e-14


def test_single_record_and_no_motion():
    field, initial, _, parameters = oral_problem(subjects=2)
    for solver in (Tsit5(), TorchDiffEq(), RK4()):
        assert torch.equal(
            solve(field, initial, torch.zeros(1, dtype=DTYPE), parameters, solver=solver).states[0], initial
        )


def test_batch_without_axes():
    times = torch.tensor([0.0, 1.0], dtype=DTYPE)
    for solver in (Tsit5(1e-9, 1e-11), TorchDiffEq(rtol=1e-9, atol=1e-11), RK4(100)):
        solution = solve(lambda t, y, p: -y, torch.ones(1, dtype=DTYPE), times, solver=solver)
        assert abs(float(solution.states[1, 0]) - 0.36787944117) < 1e-8


def test_float32():
    field, initial, times, parameters = oral_problem()
    single = solve(field, initial.float(), times.float(), (parameters[0].float(),), solver=Tsit5(1e-4, 1e-6))
    assert single.states.dtype == torch.float32
    assert (single.states[:, 1] - oral_exact(parameters[0], times)).abs().max() < 1e-3


def test_subject_alone_in_a_batch_and_beside_a_stiff_neighbour():
    field, initial, times, parameters = oral_problem(subjects=1000, records=6)
    times = random_times(6, 1000)
    batch = solve(field, initial, times, parameters, solver=Tsit5())
    stiff = parameters[0].clone()
    stiff[0, 1] = 500.0
    beside = solve(field, initial, times, (stiff,), solver=Tsit5(max_steps=20_000))
    assert beside.ok.all()
    for subject in (0, 17, 999):
        own = slice(subject, subject + 1)
        alone = solve(field, initial[:, own], times[:, own], (parameters[0][:, own],), solver=Tsit5())
        scale = alone.states.abs().max()
        assert (alone.states[..., 0] - batch.states[..., subject]).abs().max() <= 1e-12 * scale
        assert (alone.states[..., 0] - beside.states[..., subject]).abs().max() <= 1e-12 * scale
        assert alone.statistics.accepted[0] == beside.statistics.accepted[subject]
        assert alone.statistics.evaluations[0] == beside.statistics.evaluations[subject]
    assert beside.statistics.evaluations[1] > 10 * beside.statistics.evaluations[0]
