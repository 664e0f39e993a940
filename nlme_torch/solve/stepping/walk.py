"""One attempted step of all subjects, and the control of their step sizes and methods."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import VectorField
from nlme_torch.solve.problem.solution import Status
from nlme_torch.solve.stepping.explicit import derivative, explicit_step
from nlme_torch.solve.stepping.implicit import implicit_step, linearise
from nlme_torch.solve.tableau import Method, combine

_SAFETY = 0.9
"""Of the step whose error would just be tolerated (Hairer, Norsett and Wanner 1993, section II.4)."""
_SHRINK, _GROW = 0.2, 10.0
"""Bounds of a step relative to the last one, likewise."""


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
    evaluations: Tensor
    switches: Tensor
    stiff: Tensor
    streak: Tensor


class Move(NamedTuple):
    """What one attempt did: the step (0 where rejected or finished), whether it arrived, whether implicit.

    ``any_stiff`` is false where nobody's step was implicit.
    """

    time: Tensor
    step: Tensor
    stop: Tensor
    arrived: Tensor
    stiff: Tensor
    any_stiff: bool


class Ways(NamedTuple):
    """Whether any subject was under way by explicit, and by implicit, steps when one last looked."""

    explicit: bool
    implicit: bool

    @property
    def any(self) -> bool:
        """Whether any subject was under way."""
        return self.explicit or self.implicit


def look(walk: Walk, last: Tensor) -> Ways:
    """See who is still under way; the host waits for the device here, and nowhere else.

    Args:
        walk: where every subject is.
        last: (*batch) index of each subject's last stop.

    Returns:
        By which steps.
    """
    active = (walk.stop <= last) & (walk.status == 0)
    explicit, implicit = torch.stack([(active & ~walk.stiff).any(), (active & walk.stiff).any()]).tolist()
    return Ways(explicit, implicit)


class Trial(NamedTuple):
    """A step not yet accepted: all (state, *batch), ``stiffness`` (*batch) step size times fastest rate."""

    state: Tensor
    slope: Tensor
    error: Tensor
    stiffness: Tensor


@dataclass(frozen=True)
class Control:
    """Tolerances and limits of the step-size control.

    Attributes:
        rtol: relative tolerance.
        atol: absolute tolerance, or (state, *batch) one for each state of each subject.
        max_steps: attempted steps between two stops, or (*batch).
        passengers: number of last states that are not judged.
        to_scale: whether ``atol`` is that of states that reach 1, to be adapted to smaller ones.
    """

    rtol: float
    atol: float | Tensor
    max_steps: int | Tensor
    passengers: int = 0
    to_scale: bool = False


def try_step(
    field: VectorField,
    method: Method,
    walk: Walk,
    step: Tensor,
    end: Tensor,
    parameters: tuple[Tensor, ...],
    rate: Tensor | None,
    ways: Ways,
) -> Trial:
    """Step every subject by the method it is on.

    Args:
        field: the vector field.
        method: what to step with.
        walk: where every subject is.
        step: (*batch) step sizes, 0 for subjects that rest.
        end: (*batch) where the steps end.
        parameters: handed to the field.
        rate: (state, *batch) zero-order input or None.
        ways: which kinds of steps are taken.

    Returns:
        The trial.
    """
    trial = None
    if method.explicit is not None and (ways.explicit or method.implicit is None):
        new, inner, slopes = explicit_step(
            field, method.explicit, walk.time, step, walk.state, walk.slope, parameters, rate
        )
        ahead = derivative(field, end, new, parameters, rate)
        error = step * combine(method.explicit.error, [*slopes, ahead])
        gap = (new - inner).abs()
        ratio = torch.where(gap > 1e-13 * new.abs(), (ahead - slopes[-1]).abs() / gap, 0.0)
        trial = Trial(new, ahead, error, step * ratio.amax(0))
    if method.implicit is not None and (ways.implicit or trial is None):
        safe = torch.where(walk.stiff & (step > 0), step, 1.0)
        jacobian, slant = linearise(field, walk.time, walk.state, parameters)
        new, error = implicit_step(
            field, method.implicit, walk.time, safe, walk.state, walk.slope, jacobian, slant, parameters, rate
        )
        ahead = derivative(field, end, new, parameters, rate)
        second = Trial(new, ahead, error, safe * jacobian.abs().sum(1).amax(0))
        if trial is None:
            return second
        trial = Trial(*(torch.where(walk.stiff, b, a) for a, b in zip(trial, second, strict=True)))
    assert trial is not None
    return trial


def attempt(
    field: VectorField,
    method: Method,
    control: Control,
    walk: Walk,
    target: Tensor,
    last: Tensor,
    parameters: tuple[Tensor, ...],
    rate: Tensor | None,
    ways: Ways,
) -> tuple[Walk, Move]:
    """Attempt one step of every unfinished subject.

    Args:
        field: the vector field.
        method: what to step with.
        control: tolerances and limits.
        walk: where every subject is.
        target: (*batch) time of the stop that each subject heads for.
        last: (*batch) index of each subject's last stop.
        parameters: handed to the field.
        rate: (state, *batch) zero-order input until the target, or None.
        ways: which kinds of steps are taken; subjects that need another kind rest.

    Returns:
        The walk after the attempt, the event at the target not yet applied, and what was done.
    """
    active = (walk.stop <= last) & (walk.status == 0)
    if not (ways.explicit and ways.implicit):
        active = active & (walk.stiff if ways.implicit else ~walk.stiff)
    remaining = target - walk.time
    pieces = torch.ceil(remaining / walk.step - 0.01).clamp(min=1.0)
    step = torch.where(active, remaining / pieces, 0.0)
    end = torch.where(pieces == 1.0, target, walk.time + step)
    trial = try_step(field, method, walk, step, end, parameters, rate, ways)
    scale = torch.maximum(walk.state.abs(), trial.state.abs()) * control.rtol + control.atol
    error = _rms(trial.error / scale, control)
    finite = torch.isfinite(error) & torch.isfinite(trial.slope).all(0)
    accept = active & finite & (error <= 1.0)
    arrived = accept & (pieces == 1.0)
    refuse = active & ~accept

    bounded = torch.where(finite, error, 1e10).clamp(min=1e-10)
    proposal = _propose(method, step, bounded, accept, finite, walk.previous_error)
    proposal = torch.where(arrived, torch.maximum(proposal, walk.step), proposal)
    tries = torch.where(arrived, 0, walk.tries + active)
    stuck = refuse & ((walk.time + proposal <= walk.time) | (proposal < 1e-30 * remaining))
    reason = torch.where(finite, int(Status.STEP_UNDERFLOW), int(Status.NONFINITE))
    status = torch.where(stuck, reason, walk.status)
    status = torch.where((status == 0) & (tries >= control.max_steps), int(Status.MAX_STEPS), status)
    stiff, streak, switches = _reconsider(method, walk, active & finite, trial.stiffness)
    after = Walk(
        time=torch.where(accept, end, walk.time),
        step=torch.where(active, proposal, walk.step),
        state=torch.where(accept, trial.state, walk.state),
        slope=torch.where(accept, trial.slope, walk.slope),
        previous_error=torch.where(accept, bounded.clamp(min=1e-4), walk.previous_error),
        stop=walk.stop + arrived,
        tries=tries,
        status=status,
        accepted=walk.accepted + accept,
        rejected=walk.rejected + refuse,
        evaluations=walk.evaluations + active * _cost(method, walk),
        switches=switches,
        stiff=stiff,
        streak=streak,
    )
    return after, Move(walk.time, torch.where(accept, step, 0.0), walk.stop, arrived, walk.stiff, ways.implicit)


def first_step(
    field: VectorField,
    control: Control,
    order: int,
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
        control: tolerances.
        order: of the method.
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
    size, speed = _rms(state / scale, control), _rms(slope / scale, control)
    trial = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6 * interval, 0.01 * size / speed)
    trial = torch.minimum(trial, interval)
    ahead = derivative(field, time + trial, torch.addcmul(state, trial, slope), parameters, rate)
    steepest = torch.maximum(speed, _rms((ahead - slope) / scale, control) / trial)
    idle = torch.maximum(1e-6 * interval, 1e-3 * trial)
    step = torch.where(steepest <= 1e-15, idle, (0.01 / steepest) ** (1 / order))
    step = torch.minimum(torch.minimum(100 * trial, step), interval)
    return torch.where(torch.isfinite(step) & (step > 0), step, 1e-3 * trial)


def _rms(values: Tensor, control: Control) -> Tensor:
    return values[: values.shape[0] - control.passengers].square().mean(0).sqrt()


def _order(method: Method) -> int:
    main = method.explicit or method.implicit
    assert main is not None
    return main.order


def _propose(method: Method, step: Tensor, error: Tensor, accept: Tensor, finite: Tensor, previous: Tensor) -> Tensor:
    """The next step size: proportional-integral control after acceptance, plain after refusal."""
    order = _order(method)
    grow = _SAFETY * error ** (-0.85 / order) * previous ** (0.2 / order)
    shrink = (_SAFETY * error ** (-1.0 / order)).clamp(max=1.0)
    factor = torch.where(accept, grow, shrink).clamp(_SHRINK, _GROW)
    return step * torch.where(finite, factor, 0.1)


def _reconsider(method: Method, walk: Walk, judged: Tensor, stiffness: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A subject turns stiff when stability, not accuracy, bounds its explicit steps for long.

    It turns back when its fastest rate is harmless for long, the longer the more often it has turned.
    """
    if method.explicit is None or method.implicit is None:
        return walk.stiff, walk.streak, walk.switches
    limit = method.explicit.limit
    contrary = torch.where(walk.stiff, stiffness < 0.3 * limit, stiffness > 0.7 * limit)
    streak = torch.where(contrary, walk.streak + 1, (walk.streak - 1).clamp(min=0))
    streak = torch.where(judged, streak, walk.streak)
    turn = judged & (streak >= torch.where(walk.stiff, 5 * walk.switches, 10))
    return walk.stiff ^ turn, torch.where(turn, 0, streak), walk.switches + turn


def _cost(method: Method, walk: Walk) -> Tensor | int:
    """Evaluations of the vector field in one attempt; a Jacobian counts as one per state and one for time."""
    explicit = 0 if method.explicit is None else len(method.explicit.stages)
    implicit = 0 if method.implicit is None else len(method.implicit.nodes) + walk.state.shape[0] + 1
    return torch.where(walk.stiff, implicit, explicit)
