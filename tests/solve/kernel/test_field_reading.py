"""What the compiled form of a field depends on, and fields whose meaning scalars do not follow."""

import logging

import numpy as np
import pytest
import torch
from support.solve_cases import DTYPE

from nlme_torch.solve import Tsit5, solve
from nlme_torch.solve.kernel import find_kernel
from nlme_torch.solve.kernel.build import compiler
from nlme_torch.solve.kernel.layout import Layout
from nlme_torch.solve.kernel.reading import NotScalarError, read
from nlme_torch.solve.problem.problem import build_problem
from nlme_torch.solve.tableau import TSITOURAS, Method

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
INITIAL = torch.tensor([[1.0, 2.0, 0.5], [0.5, 0.2, 1.0]], dtype=DTYPE)
TIMES = torch.linspace(0, 5, 6, dtype=DTYPE)[:, None].expand(6, 3)


def late_mean(t, y, p):
    return torch.where(t > 2, -y * y.mean(-1, keepdim=True), -y)


def narrow_mean(t, y, p):
    return torch.where((t > 2.1) & (t < 3.7), -y * y.mean(-1, keepdim=True), -y)


def masks_added(t, y, p):
    both = (t > 1) + (t > 2)
    return -y * both * 0.5


def integers_overflow(t, y, p):
    large = (t > 1).to(torch.int32) * 2_000_000_000
    return -y * (large + large).sign()


def truncated_time(t, y, p):
    return -0.1 * y * t.long() ** 2


def graded(t, y, p):
    return -2.0 * y if torch.is_grad_enabled() else -y


def asks_for_gradients(t, y, p):
    return -2.0 * y if y.requires_grad else -y


def without_gradients(t, y, p):
    with torch.no_grad():
        rate = y.square().clamp(max=1.0)
    return -rate * y


def detached(t, y, p):
    return -y.detach() * y


def numpy_applied(t, y, p):
    return -torch.as_tensor(np.tanh(y.detach().numpy()))


def branch_by_list(t, y, p):
    return -y if y.tolist()[0] != 0.25 else y


def random(t, y, p):
    return -y * torch.rand(())


def indexed_by_mask(t, y, p):
    return -y * y[y > 0.1].numel()


REFUSED = [
    late_mean, narrow_mean, integers_overflow, truncated_time, graded, asks_for_gradients, without_gradients,
    detached, numpy_applied, branch_by_list, random, indexed_by_mask,
]  # fmt: skip


@pytest.mark.parametrize("field", REFUSED, ids=lambda field: field.__name__)
def test_what_scalars_do_not_follow_is_not_compiled(field, caplog):
    with caplog.at_level(logging.WARNING, logger="nlme_torch"):
        assert find_kernel(build_problem(field, INITIAL, TIMES, (), None), Method(TSITOURAS, None)) is None
    assert "no compiled kernel" in caplog.text


def written_in_place(t, y, p):
    slopes = torch.zeros_like(y)
    slopes[0] = -y[0] * 0.5
    slopes[1] -= y[1].clone().mul_(0.3)
    slopes[1] += slopes[0]
    return slopes


def masks_multiplied(t, y, p):
    inside = (t > 1) * (t < 4)
    outside = (t < 1) + (t > 2)
    either = (t > 1) ^ (t > 3)
    return -y * inside - 0.3 * outside.double() * y - torch.where(either, 0.1, 0.2) * (inside.float() * y)


def masks_with_numbers(t, y, p):
    return -y * (1.0 + (t > 1)) - 0.1 * y * ((t > 2) * 0.3 * 0.7) - y * ((t > 3) * 2 + 1) * 0.1


def constants_of_every_kind(t, y, p):
    grid = torch.arange(3) // 2 + torch.tensor([1, 2, 3], dtype=torch.int32)
    return -y * (torch.tensor(0.1) * torch.tensor(0.2) * grid[1] / 3)


@pytest.mark.parametrize(
    "field",
    [masks_added, written_in_place, masks_multiplied, masks_with_numbers, constants_of_every_kind],
    ids=lambda field: field.__name__,
)
def test_truth_values_constants_and_writing_in_place_mean_what_they_mean_in_pytorch(field):
    assert find_kernel(build_problem(field, INITIAL, TIMES, (), None), Method(TSITOURAS, None)) is not None
    found = [
        solve(field, INITIAL, TIMES, solver=Tsit5(1e-6, 1e-8, compile=compiled)).states for compiled in (True, False)
    ]
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_a_remainder_jumps_where_it_does_in_pytorch():
    times = torch.tensor([0.0, 0.3, 0.6, 0.7, 0.9, 1.0, 1.2, 2.1], dtype=DTYPE)
    times = torch.cat([times, times * 7, -times])[None]

    def field(t, y, p):
        return torch.stack([y[0] % 0.1, y[0] // 0.7, torch.remainder(y[0], -0.3)])

    initial = times.expand(3, -1)
    kernel = find_kernel(build_problem(field, initial, 0 * times, (), None), Method(TSITOURAS, None))
    assert kernel is not None  # its slopes at the initial state were compared


def field_of(scale):
    return lambda t, y, p: -scale * y


def test_what_is_read_tells_fields_apart_by_what_they_do():
    layout = Layout(2, 1, (), ())
    assert read(field_of(1.5), layout) == read(field_of(1.5), layout)
    assert read(field_of(1.5), layout) != read(field_of(2.5), layout)
    assert read(field_of(2), layout) != read(field_of(2.0), layout)
    assert read(field_of(torch.tensor(1.0)), layout) != read(field_of(1.0), layout)
    assert read(field_of(float("nan")), layout) == read(field_of(float("nan")), layout)
    with pytest.raises(NotScalarError, match="depends on values"):
        read(lambda t, y, p: -y if y[0, 0] > 0 else y, layout)


def test_a_function_whose_closure_changes_is_solved_as_it_is():
    rate = 1.0

    def field(t, y, p):
        return -rate * y

    ends = []
    for value in (1.0, 2.0):
        rate = value
        ends.append(solve(field, INITIAL, TIMES, solver=Tsit5(1e-9, 1e-12)).states[-1])
    torch.testing.assert_close(ends[0], INITIAL * np.exp(-5.0), rtol=1e-7, atol=0.0)
    torch.testing.assert_close(ends[1], INITIAL * np.exp(-10.0), rtol=1e-7, atol=0.0)
