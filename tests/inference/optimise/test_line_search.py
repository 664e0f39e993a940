"""The line search on functions whose answers are known: parabolas, walls, jumps, kinks."""

import math

import pytest
import torch

import nlme_torch as nlme
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.numerics.bfgs import updated
from nlme_torch.inference.optimise import minimisers
from nlme_torch.inference.optimise.line_search import search_line


def one(value):
    return torch.tensor([float(value)], dtype=torch.float64)


def along(function):
    """A function of one number as objective of a vector, with its derivative by autograd; infinite stays infinite."""

    def objective(vector):
        point = vector.detach().requires_grad_()
        value = function(point[0])
        if not math.isfinite(float(value.detach())):
            return math.inf, torch.zeros_like(vector)
        return float(value.detach()), torch.autograd.grad(value, point)[0]

    return objective


def search(function, length=1.0):
    objective = along(function)
    value, gradient = objective(one(0))
    return search_line(objective, one(0), value, gradient, one(1), length)


@pytest.mark.parametrize("length", [1e-6, 1.0, 1e4])
def test_a_parabola_from_any_first_length(length):
    step = search(lambda x: (x - 3.0) ** 2, length)
    assert step.value < 9 and step.slope >= 0.9 * -6 and step.trials < 20


def test_it_stays_before_a_wall():
    step = search(lambda x: -x if float(x.detach()) < 0.01 else x + math.inf)
    assert 0 < step.length < 0.01 and step.value < 0


def test_a_jump_costs_few_trials():
    step = search(lambda x: -x if float(x.detach()) < 0.37 else -x + 100)
    assert 0.1 < step.length < 0.37 and step.trials <= 10


def test_where_nothing_falls_there_is_no_step():
    one_side = one(-1)  # gradient of a kink
    step = search_line(along(lambda x: x.abs()), one(0), 0.0, one_side, one(1), 1.0)
    assert step is None or step.length < 1e-9


def test_no_step_is_longer_than_allowed():
    objective = along(lambda x: -x)
    value, gradient = objective(one(0))
    assert search_line(objective, one(0), value, gradient, one(1), 1.0, 7.5).length == 7.5


def test_the_update_meets_the_secant_equation():
    generator = torch.Generator().manual_seed(1)
    move, turn = (torch.randn(4, generator=generator, dtype=torch.float64) for _ in range(2))
    turn = turn if move @ turn > 0 else -turn
    inverse = updated(torch.eye(4, dtype=torch.float64), move, turn)
    assert torch.allclose(inverse @ turn, move)
    assert torch.equal(updated(inverse, move, -turn), inverse)


def test_bfgs_crosses_a_curved_valley_and_meets_walls():
    def valley(vector):
        x, y = vector.tolist()
        if x > 1.5:
            return math.inf, torch.zeros_like(vector)
        gradient = torch.tensor([-400 * x * (y - x * x) - 2 * (1 - x), 200 * (y - x * x)], dtype=vector.dtype)
        return 100 * (y - x * x) ** 2 + (1 - x) ** 2, gradient

    start, scale = torch.tensor([-1.2, 1.0], dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    found = nlme.BFGS().minimise(valley, start, scale, lambda point: None)
    assert found.status is Status.CONVERGED and found.evaluations < 80
    assert found.iterate.vector.tolist() == pytest.approx([1.0, 1.0], abs=1e-4)


def test_at_a_kink_bfgs_does_not_claim_a_maximum():
    def kinked(vector):
        x, y = vector.tolist()
        return abs(x - 1) + (y - x) ** 2, torch.tensor(
            [math.copysign(1.0, x - 1) - 2 * (y - x), 2 * (y - x)], dtype=vector.dtype
        )

    start, scale = torch.tensor([-3.0, 2.0], dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    found = nlme.BFGS().minimise(kinked, start, scale, lambda point: None)
    assert found.status is Status.STALLED
    assert found.iterate.value < 1e-3


def test_a_first_trial_promises_no_more_than_the_last_step_brought(monkeypatch):
    """In a bent valley full quasi-Newton steps lead to values of 1e8 and more."""
    seen = []

    def watched(objective, point, value, gradient, direction, length, longest):
        step = search_line(objective, point, value, gradient, direction, length, longest)
        seen.append((value, -length * float(gradient @ direction), length))
        return step

    monkeypatch.setattr(minimisers, "search_line", watched)

    def valley(vector):
        point = vector.detach().requires_grad_()
        x, y = point
        value = (x - 3) ** 2 / 10 + torch.expm1((y - torch.sin(2 * x)).square())
        return float(value.detach()), torch.autograd.grad(value, point)[0]

    found = nlme.BFGS().minimise(
        valley, torch.tensor([-3.0, 1.5]).double(), torch.eye(2).double(), lambda iterate: None
    )
    assert found.status is Status.CONVERGED and found.iterate.value < 1e-6
    falls = [before[0] - after[0] for before, after in zip(seen, seen[1:], strict=False)]
    promises = [promise for _, promise, _ in seen[1:]]
    assert all(promise <= 2.03 * max(fall, 1.0) for promise, fall in zip(promises, falls, strict=True))
    assert any(length < 1 for _, _, length in seen[1:]) and any(length == 1 for _, _, length in seen[1:])
