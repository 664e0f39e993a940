"""A subject that cannot be solved has a status; the others keep their values and their gradients."""

import pytest
import torch
from support.solve_cases import DTYPE

from nlme_torch.errors import SolveError
from nlme_torch.solve import RK4, Events, Status, TorchDiffEq, Tsit5, solve

SOLVERS = [
    Tsit5(),
    Tsit5(compile=False),
    TorchDiffEq(),
    TorchDiffEq(adjoint="continuous"),
    RK4(40),
    RK4(40, compile=False),
]


def explosive(t, y, parameters):
    """y' = p y^2 explodes at t = 1 / (p y0); the second parameter is shared."""
    own, shared = parameters
    return own * y * y * shared


def explosive_problem():
    own = torch.tensor([-1.0, 1.0, -0.5, 0.4], dtype=DTYPE, requires_grad=True)
    shared = torch.ones((), dtype=DTYPE, requires_grad=True)
    times = torch.tensor([0.0, 0.5, 1.5, 2.0], dtype=DTYPE).reshape(-1, 1)
    return explosive, torch.ones(1, 4, dtype=DTYPE), times, (own, shared)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_explosion_is_one_subjects_status(solver):
    field, initial, times, (own, shared) = explosive_problem()
    solution = solve(field, initial, times, (own, shared), solver=solver)
    assert solution.ok.tolist() == [True, False, True, True]
    assert int(solution.status[1]) in (Status.NONFINITE, Status.STEP_UNDERFLOW, Status.MAX_STEPS)
    assert solution.reached.tolist() == [3, 1, 3, 3]
    assert solution.states[2:, :, 1].isnan().all()
    exact = 1 / (1 - own.detach() * times)
    good = torch.tensor([0, 2, 3])
    assert (solution.states[:, 0, good] - exact[:, good]).abs().max() < 5e-5
    assert (solution.states[:2, 0, 1] - exact[:2, 1]).abs().max() < 5e-5
    gradients = torch.autograd.grad(solution.states[:, :, good].sum(), (own, shared))
    assert all(gradient.isfinite().all() for gradient in gradients)
    expected = torch.autograd.grad((1 / (1 - own * times))[:, good].sum(), own)[0]
    assert (gradients[0][good] - expected[good]).abs().max() < 1e-3


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_bad_parameter_of_one_subject(solver, wrong):
    field, initial, times, (own, shared) = explosive_problem()
    theta = torch.tensor(0.3, dtype=DTYPE, requires_grad=True)
    values = -theta * torch.tensor([1.0, 2.0, wrong, 3.0], dtype=DTYPE)
    solution = solve(field, initial, times, (values, shared), solver=solver)
    assert solution.status.tolist() == [0, 0, Status.INVALID_START, 0]
    assert solution.states[:, :, 2].isnan().all()
    gradients = torch.autograd.grad(solution.states[:, :, [0, 1, 3]].sum(), (shared, values))
    assert gradients[0].isfinite() and gradients[1].isfinite().all()


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_division_by_zero_at_the_start(solver):
    times = torch.tensor([0.0, 1.0], dtype=DTYPE)
    power = torch.tensor([1.0, 0.0], dtype=DTYPE, requires_grad=True)
    initial = torch.tensor([[1.0, 0.0]], dtype=DTYPE)
    solution = solve(lambda t, y, p: p[0] / y, initial, times, (power,), solver=solver)
    assert solution.status.tolist() == [0, Status.INVALID_START]
    (gradient,) = torch.autograd.grad(solution.states[1, 0, 0], power)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    "solver", [Tsit5(max_steps=200), Tsit5(max_steps=200, compile=False), TorchDiffEq(max_steps=200)], ids=str
)
def test_stiff_subject_runs_out_of_steps_and_nothing_hangs(solver):
    rate = torch.tensor([1.0, 1e7, 2.0], dtype=DTYPE, requires_grad=True)
    times = torch.tensor([0.0, 1.0, 2.0], dtype=DTYPE)
    solution = solve(
        lambda t, y, p: -p[0] * (y - torch.cos(t)),
        torch.zeros(1, 3, dtype=DTYPE),
        times[:, None],
        (rate,),
        solver=solver,
    )
    assert solution.status.tolist() == [0, Status.MAX_STEPS, 0]
    assert solution.states[:, :, [0, 2]].isfinite().all()
    (gradient,) = torch.autograd.grad(solution.states[:, :, [0, 2]].sum(), rate)
    assert gradient.isfinite().all()


def test_a_failure_is_reported_with_subject_time_and_remedy():
    field, initial, times, parameters = explosive_problem()
    solution = solve(field, initial, times, parameters, solver=Tsit5())
    with pytest.raises(SolveError, match=r"subject b after time 0\.5: .*stiff"):
        solution.raise_for_status(("a", "b", "c", "d"), times)
    for status in Status:
        assert len(status.message) > 5


def test_lotka_volterra_with_a_bad_sign():
    def field(t, y, p):
        return torch.stack([y[0] * (p[0] + y[1]), y[1] * (y[0] - 1)])

    sign = torch.tensor([1.0, -1.0], dtype=DTYPE)
    times = torch.linspace(0, 50, 6, dtype=DTYPE)
    initial = torch.tensor([[0.5, 0.5], [0.5, -0.5]], dtype=DTYPE)
    for solver in SOLVERS:
        solution = solve(field, initial, times[:, None], (sign,), solver=solver)
        assert int(solution.status[0]) > 0
        assert solution.states[-1, :, 0].isnan().all()


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_wrong_right_hand_sides(solver):
    initial, times = torch.ones(2, 3, dtype=DTYPE), torch.tensor([0.0, 1.0], dtype=DTYPE)
    with pytest.raises(SolveError, match="shape"):
        solve(lambda t, y, p: y[:1], initial, times, solver=solver)
    with pytest.raises(SolveError, match="one tensor"):
        solve(lambda t, y, p: (y[0], y[1]), initial, times, solver=solver)
    with pytest.raises(SolveError, match="float32"):
        solve(lambda t, y, p: y.float(), initial, times, solver=solver)


def test_wrong_inputs():
    times = torch.tensor([0.0, 1.0], dtype=DTYPE)
    field = lambda t, y, p: y  # noqa: E731
    with pytest.raises(SolveError, match="floating point"):
        solve(field, torch.ones(1, 2, dtype=torch.long), times, solver=Tsit5())
    with pytest.raises(SolveError, match="floating point"):
        solve(field, torch.ones(1, 2, dtype=torch.complex128), times, solver=Tsit5())
    with pytest.raises(SolveError, match="decrease after record 1"):
        solve(
            field,
            torch.ones(1, 2, dtype=DTYPE),
            torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0]]),
            solver=Tsit5(),
        )
    with pytest.raises(SolveError, match="broadcast"):
        solve(field, torch.ones(1, 2, dtype=DTYPE), torch.zeros(4, 3), solver=Tsit5())
    with pytest.raises(SolveError, match="amounts"):
        solve(field, torch.ones(1, 2, dtype=DTYPE), times, solver=Tsit5(), events=Events(torch.zeros(3, 1, 2)))
    for wrong in (
        lambda: Tsit5(rtol=0.0),
        lambda: RK4(0),
        lambda: TorchDiffEq("rk4"),
        lambda: TorchDiffEq(adjoint="x"),
    ):
        with pytest.raises(Exception):  # noqa: B017
            wrong()
