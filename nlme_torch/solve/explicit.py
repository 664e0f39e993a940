"""One attempted step of an explicit pair for all subjects, each with its own time, step size and target."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import VectorField
from nlme_torch.solve.solution import Status
from nlme_torch.solve.tableau import Tableau, combine

_SAFETY = 0.9
_SHRINK, _GROW = 0.2, 10.0


class Walk(NamedTuple):
    """Where every subject is; all (*batch), ``state`` and ``slope`` (state, *batch)."""

    time: Tensor
    step: Tensor
    state: Tensor
    slope: Tensor
    previous_error: Tensor
    stop: Tensor
    tries: Tensor
    status: Tensor
    accepted: Tensor
    rejected: Tensor


class Move(NamedTuple):
    """What one attempt did: the step taken (0 where rejected or finished), whether the target was reached."""

    time: Tensor
    step: Tensor
    state: Tensor
    stop: Tensor
    arrived: Tensor


@dataclass(frozen=True)
class Control:
    """Tolerances and limits of the step-size control."""

    rtol: float
    atol: float
    max_steps: int


def derivative(
    field: VectorField, time: Tensor, state: Tensor, parameters: tuple[Tensor, ...], rate: Tensor | None
) -> Tensor:
    """The vector field plus the zero-order input."""
    slope = field(time, state, parameters)
    return slope if rate is None else slope + rate


def explicit_step(
    field: VectorField,
    tableau: Tableau,
    time: Tensor,
    step: Tensor,
    state: Tensor,
    slope: Tensor,
    parameters: tuple[Tensor, ...],
    rate: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """The solution after one step and the slopes of all stages but the last.

    Args:
        field: the vector field.
        tableau: the pair.
        time: (*batch) start of the step.
        step: (*batch) its size.
        state: (state, *batch) at the start.
        slope: (state, *batch) derivative at the start.
        parameters: handed to the field.
        rate: (state, *batch) zero-order input or None.

    Returns:
        (state, *batch) the new state and the list of slopes.
    """
    slopes = [slope]
    for node, row in zip(tableau.nodes[:-1], tableau.stages[:-1], strict=True):
        inner = torch.addcmul(state, step, combine(row, slopes))
        slopes.append(derivative(field, time.add(step, alpha=node), inner, parameters, rate))
    return torch.addcmul(state, step, combine(tableau.stages[-1], slopes)), slopes


def attempt(
    field: VectorField,
    tableau: Tableau,
    control: Control,
    walk: Walk,
    target: Tensor,
    last: Tensor,
    parameters: tuple[Tensor, ...],
    rate: Tensor | None,
) -> tuple[Walk, Move]:
    """Attempt one step of every unfinished subject.

    Args:
        field: the vector field.
        tableau: the pair.
        control: tolerances and limits.
        walk: where every subject is.
        target: (*batch) time of the stop that each subject heads for.
        last: (*batch) index of each subject's last stop.
        parameters: handed to the field.
        rate: (state, *batch) zero-order input until the target, or None.

    Returns:
        The walk after the attempt, the event at the target not yet applied, and what was done.
    """
    active = (walk.stop <= last) & (walk.status == 0)
    remaining = target - walk.time
    pieces = torch.ceil(remaining / walk.step - 0.01).clamp(min=1.0)
    step = torch.where(active, remaining / pieces, 0.0)
    end = torch.where(pieces == 1.0, target, walk.time + step)
    new, slopes = explicit_step(field, tableau, walk.time, step, walk.state, walk.slope, parameters, rate)
    slopes.append(derivative(field, end, new, parameters, rate))
    scale = torch.maximum(walk.state.abs(), new.abs()) * control.rtol + control.atol
    error = (step * combine(tableau.error, slopes) / scale).square().mean(0).sqrt()
    finite = torch.isfinite(error)
    accept = active & (error <= 1.0)
    arrived = accept & (pieces == 1.0)

    bounded = torch.where(finite, error, 1e10).clamp(min=1e-10)
    grow = _SAFETY * bounded ** (-0.7 / tableau.order) * walk.previous_error ** (0.4 / tableau.order)
    shrink = (_SAFETY * bounded ** (-1.0 / tableau.order)).clamp(max=1.0)
    factor = torch.where(accept, grow, shrink).clamp(_SHRINK, _GROW)
    proposal = step * torch.where(finite, factor, 0.1)
    proposal = torch.where(accept, torch.maximum(proposal, torch.where(arrived, walk.step, 0.0)), proposal)
    refuse = active & ~accept
    tries = torch.where(arrived, 0, walk.tries + active)
    stuck = refuse & ((walk.time + proposal <= walk.time) | (proposal < 1e-30 * remaining))
    reason = torch.where(finite, int(Status.STEP_UNDERFLOW), int(Status.NONFINITE))
    status = torch.where(stuck, reason, walk.status)
    status = torch.where((status == 0) & (tries >= control.max_steps), int(Status.MAX_STEPS), status)
    after = Walk(
        time=torch.where(accept, end, walk.time),
        step=torch.where(active, proposal, walk.step),
        state=torch.where(accept, new, walk.state),
        slope=torch.where(accept, slopes[-1], walk.slope),
        previous_error=torch.where(accept, bounded.clamp(min=1e-4), walk.previous_error),
        stop=walk.stop + arrived,
        tries=tries,
        status=status,
        accepted=walk.accepted + accept,
        rejected=walk.rejected + refuse,
    )
    return after, Move(walk.time, torch.where(accept, step, 0.0), walk.state, walk.stop, arrived)


def start_step(
    field: VectorField,
    tableau: Tableau,
    control: Control,
    time: Tensor,
    state: Tensor,
    slope: Tensor,
    interval: Tensor,
    parameters: tuple[Tensor, ...],
    rate: Tensor | None,
) -> Tensor:
    """A first step size per subject from the sizes of state, slope and curvature.

    Args:
        field: the vector field.
        tableau: the pair.
        control: tolerances.
        time: (*batch) start.
        state: (state, *batch).
        slope: (state, *batch).
        interval: (*batch) length of the first interval, an upper bound.
        parameters: handed to the field.
        rate: (state, *batch) zero-order input or None.

    Returns:
        (*batch) positive step sizes.

    References:
        Hairer, Norsett, Wanner (1993), Solving Ordinary Differential Equations I, section II.4.
    """
    interval = torch.where(interval > 0, interval, 1.0)
    scale = control.atol + control.rtol * state.abs()
    size = (state / scale).square().mean(0).sqrt()
    speed = (slope / scale).square().mean(0).sqrt()
    trial = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6 * interval, 0.01 * size / speed)
    trial = torch.minimum(trial, interval)
    ahead = derivative(field, time + trial, torch.addcmul(state, trial, slope), parameters, rate)
    bend = ((ahead - slope) / scale).square().mean(0).sqrt() / trial
    steepest = torch.maximum(speed, bend)
    step = torch.where(
        steepest <= 1e-15,
        torch.maximum(1e-6 * interval, 1e-3 * trial),
        (0.01 / steepest) ** (1 / tableau.order),
    )
    step = torch.minimum(torch.minimum(100 * trial, step), interval)
    return torch.where(torch.isfinite(step) & (step > 0), step, 1e-3 * trial)
