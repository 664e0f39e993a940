"""Whether a compiled field is the field itself: compared over the records, on a real trajectory and beside it."""

import torch
from torch import Tensor

from nlme_torch.solve.kernel.kernel import Kernel
from nlme_torch.solve.kernel.library import Inputs, Limits, slopes, walk
from nlme_torch.solve.problem.problem import Problem, check_derivative
from nlme_torch.solve.problem.schedule import build_schedule

_STOPS = 6  # of the trajectory, evenly from the first to the last
_BESIDE = 8  # further times, at random between the first and the last record
_TOLERANCE = 1e-9
"""Relative difference of compiled and plain arithmetic that rounding and other libraries' functions explain."""


def agrees(kernel: Kernel, problem: Problem) -> bool:
    """Whether the kernel's slopes are the field's own, whenever and wherever the field is going to be evaluated.

    A field whose subjects depend on each other, or whose compiled form means something else, differs somewhere: at
    the start, at later records, between them, or off the trajectory.

    Args:
        kernel: the compiled field.
        problem: the problem whose field it is.
    """
    count = problem.batch.numel()
    double = tuple(p.detach().double() if p.is_floating_point() else p for p in problem.parameters)
    own, shared = kernel.layout.pack(double, problem.batch, problem.initial.detach().double())
    points = _points(kernel, problem, own, shared)
    expected = [_evaluate(problem, time, state, double, index % 3 == 1) for index, (time, state) in enumerate(points)]
    # where slopes cancel (a steady state) their rounding error has the size of what they are elsewhere
    scale = 1e-3 + torch.stack(expected).nan_to_num(0.0, 0.0, 0.0).abs().amax(0)
    for (time, state), slope in zip(points, expected, strict=True):
        inputs = Inputs(
            initial=state.reshape(-1, count).contiguous(), times=time.reshape(1, count).contiguous(),
            last=torch.zeros(count, dtype=torch.int64), own=own, shared=shared, amounts=None, rates=None, resets=None,
        )  # fmt: skip
        ours = slopes(kernel.forwards, inputs, Limits(1.0, 1.0, 1, 1)).reshape(slope.shape)
        finite = torch.isfinite(slope)
        error = torch.where(finite, (ours - slope).abs() / scale, 0.0)
        if not (error.max() < _TOLERANCE and torch.equal(torch.isfinite(ours), finite)):
            return False
    return True


def _evaluate(
    problem: Problem, time: Tensor, state: Tensor, parameters: tuple[Tensor, ...], with_gradient: bool
) -> Tensor:
    """The field's own slopes; it must not matter whether they could be differentiated."""
    with torch.set_grad_enabled(with_gradient):
        if with_gradient:
            state = state.clone().requires_grad_()
        return check_derivative(problem.vector_field(time, state, parameters), state).detach()


def _points(kernel: Kernel, problem: Problem, own: Tensor, shared: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Times (*batch) and states (state, *batch) at which to compare."""
    generator = torch.Generator().manual_seed(0)
    initial, times = problem.initial.detach().double(), problem.times.detach().double()

    def beside(state: Tensor) -> Tensor:
        noise = torch.rand(state.shape, generator=generator, dtype=torch.float64)
        return state * (0.5 + noise) + 0.1 * noise

    points = [(times[0], initial), (times[0], beside(initial))]
    if len(times) == 1:
        return points
    schedule = build_schedule(problem)
    count = problem.batch.numel()

    def flat(value: Tensor | None, leading: int) -> Tensor | None:
        if value is None:
            return None
        value = value.detach()
        value = value.double() if value.is_floating_point() else value
        return value.reshape(*value.shape[:leading], count)

    stops, resets = flat(schedule.times, 1), flat(schedule.resets, 1)
    assert stops is not None
    last = torch.where(torch.isfinite(stops).all(0), schedule.last.reshape(count), 1)
    inputs = Inputs(
        initial.reshape(-1, count), stops, last, own, shared, flat(schedule.amounts, 2), flat(schedule.rates, 2), resets
    )
    fixed = kernel.method.explicit is not None and not kernel.method.explicit.error
    arrivals, _, _ = walk(kernel.forwards, inputs, Limits(1e-3, 1e-6, 4 if fixed else 1000, 1), False)
    arrivals = arrivals.reshape(-1, *initial.shape)
    visited = torch.where(torch.isfinite(arrivals), arrivals, initial)
    chosen = torch.linspace(0, len(visited) - 1, min(_STOPS, len(visited))).round().long().unique()
    points += [(schedule.times[stop].detach().double(), visited[stop]) for stop in chosen]
    for index in range(_BESIDE):
        share = (index + torch.rand(problem.batch, generator=generator, dtype=torch.float64)) / _BESIDE
        time = times[0] + share * (times[-1] - times[0])
        stop = (stops.reshape(-1, *problem.batch) <= time).sum(0).clamp(max=len(visited) - 1)
        points.append((time, beside(visited.gather(0, stop.expand(1, *initial.shape))[0])))
    return points
