r"""The state that a dose, repeated at equal intervals since ever, has led to: a fixed point, found by Newton's method.

.. math:: x^* = \Phi(x^*, \theta), \qquad x \leftarrow x + (I - \Phi_x)^{-1} (\Phi(x) - x)

:math:`\Phi` moves the states from one interval before the dose's row to the row. However slowly the drug accumulates, a
linear equation takes one step. Derivatives: further steps with the same matrix, from the fixed point, give one order of
them each.

References:
    Aprille, Trick (1972), Steady-state analysis of nonlinear circuits with periodic inputs, doi:10.1109/PROC.1972.8912.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Bool, Float
from nlme_torch.solve import Events, Solution

Advance = Callable[[Tensor, Tensor, Events | None], Solution]
Slope = Callable[[Tensor, Tensor], Tensor]

MOST_STEPS = 60
"""Newton steps towards a steady state at most: each does the work of very many repeats."""
SMALL_STEP, NOISE = 1e-6, 1e-4
"""Relative steps at which it is reached, and below which one that no longer shrinks is the solver's error."""
ORDERS = 3
"""Each step with the matrix held makes one further order of derivatives exact; modes and their curvature need three."""
DOUBLINGS = 24
"""Of the time that a constant infusion is followed: from one unit to 8 million."""
RUNAWAY = 1e12
"""Times the first amounts, beyond which nothing is expected to come to rest."""


@dataclass(frozen=True)
class Cycle:
    """A dose and the interval at which it is repeated.

    A lag belongs to every repeat: the last one before the dose's row acted at ``time + lag - interval``. An infusion
    that outlasts the interval is a constant one, as often as it fills the interval, and what is left of it. A constant
    infusion has an arbitrary interval.

    Attributes:
        time: ``(*batch)`` [time], of the row with the steady-state dose.
        interval: ``(*batch)`` [time], between repeats; ignored for a constant infusion.
        lag: ``(*batch)`` [time], not above the interval.
        amount: ``(state, *batch)`` [mass], entering at once at the start of a cycle.
        rate: ``(state, *batch)`` [mass / time], from the start of a cycle; None without infusions.
        duration: ``(*batch)`` [time] of the infusion, below the interval.
        overlaps: ``(*batch)``, how many more infusions run at any time, because they outlast the interval.
        constant: Whether the infusion never stops.
    """

    time: Float[Tensor, "*batch"]
    interval: Float[Tensor, "*batch"]
    lag: Float[Tensor, "*batch"]
    amount: Float[Tensor, "state *batch"]
    rate: Float[Tensor, "state *batch"] | None
    duration: Float[Tensor, "*batch"]
    overlaps: Float[Tensor, "*batch"]
    constant: bool

    def detached(self) -> "Cycle":
        """The same without gradients."""
        return Cycle(
            time=self.time.detach(),
            interval=self.interval.detach(),
            lag=self.lag.detach(),
            amount=self.amount.detach(),
            rate=None if self.rate is None else self.rate.detach(),
            duration=self.duration.detach(),
            overlaps=self.overlaps.detach(),
            constant=self.constant,
        )


class SteadyState(NamedTuple):
    """A steady state.

    Attributes:
        state: ``(state, *batch)``, just before the dose's row.
        settled: ``(*batch)``, where there is one.
        keeps: ``(state, *batch)``, True for a state that takes up all of the dose and keeps it.
    """

    state: Float[Tensor, "state *batch"]
    settled: Bool[Tensor, "*batch"]
    keeps: Bool[Tensor, "state *batch"]


def one_cycle(advance: Advance, cycle: Cycle, state: Tensor) -> Solution:
    """Move states through the interval that ends with the row of the dose.

    Args:
        advance: Moves states ``(state, *batch)`` through times ``(record, *batch)`` and events.
        cycle: The dose.
        state: ``(state, *batch)`` one interval before the row.
    """
    batch = state.shape[1:]
    begin, interval, lag = cycle.time - cycle.interval, cycle.interval, cycle.lag
    nothing = torch.zeros_like(state)
    amount = cycle.amount.expand_as(state)
    if cycle.rate is None:
        offsets = [torch.zeros_like(interval), lag, interval]
        amounts, rates = [nothing, amount, nothing], None
    else:
        # the infusion of the cycle before may still run
        left = (cycle.duration + lag - interval).clamp(min=0.0)
        end = torch.minimum(lag + cycle.duration, interval)
        offsets = [torch.zeros_like(interval), left, lag, end, interval]
        amounts = [nothing, nothing, amount, nothing, nothing]
        pulse = cycle.rate.expand_as(state)
        base = cycle.overlaps * pulse
        rates = torch.stack([base + pulse, base, base + pulse, base, base])
    times = torch.stack([(begin + offset).expand(batch) for offset in offsets])
    # rounding must not put a stop before the one that precedes it
    times = torch.cat([times[:1], torch.maximum(times[1:], times[:-1])]) if len(offsets) < 4 else _sorted(times)
    return advance(state, times, Events(torch.stack(amounts), rates))


def _sorted(times: Tensor) -> Tensor:
    rows = [times[0]]
    for row in times[1:]:
        rows.append(torch.maximum(row, rows[-1]))
    return torch.stack(rows)


def periodic_state(advance: Advance, held: Advance, initial: Tensor, cycle: Cycle, states: int) -> SteadyState:
    """Find the state to which a repeated dose leads, with its derivatives.

    Cycles end at the dose's time, so that dynamics which depend on time have to repeat with the interval. A state that
    nothing depends on and that never settles, such as an area under the curve, is held at its initial value.

    Args:
        advance: Moves states through times and events.
        held: The same without gradients of parameters.
        initial: ``(state, *batch)``; what follows the model's states is carried along.
        cycle: The dose.
        states: Number of the model's states.

    Returns:
        The steady state of the model's states.
    """
    carried = initial[states:].detach()
    fixed = cycle.detached()

    def move(state: Tensor) -> tuple[Tensor, Tensor]:
        solution = one_cycle(held, fixed, torch.cat([state, carried]))
        return solution.states[-1, :states], solution.status == 0

    given = cycle.amount if cycle.rate is None else cycle.amount + cycle.rate
    given = given[:states].detach().expand_as(initial[:states]) > 0
    search = _newton(move, initial[:states].detach(), given)
    state = search.state
    if torch.is_grad_enabled():
        for _ in range(ORDERS):
            after = one_cycle(advance, cycle, torch.cat([state, initial[states:]])).states[-1, :states]
            state = state + _applied(search.inverse, after - state)
        state = torch.where(search.kept, state, initial[:states])
    return SteadyState(state, search.settled, search.keeps)


def constant_state(
    advance: Advance, slope: Slope, held: Slope, initial: Tensor, cycle: Cycle, states: int
) -> SteadyState:
    """Find the state under an infusion that never stops: near it by time, then by Newton's method.

    Args:
        advance: Moves states through times and events, without gradients of parameters.
        slope: The vector field of time and states.
        held: The same without gradients of parameters.
        initial: ``(state, *batch)``.
        cycle: The infusion.
        states: Number of the model's states.

    Returns:
        The steady state of the model's states.
    """
    assert cycle.rate is not None
    rate = cycle.rate.expand_as(initial)
    begin, carried, steps = initial.detach(), initial[states:].detach(), rate.detach()
    with torch.no_grad():
        ends = 2.0 ** torch.arange(DOUBLINGS, dtype=begin.dtype, device=begin.device)
        times = torch.cat([torch.zeros_like(ends[:1]), ends]).reshape(-1, *(1,) * (begin.ndim - 1))
        times = (cycle.time.detach() + times - ends[-1]).expand(-1, *begin.shape[1:])
        looks = advance(begin, times, Events(rates=steps.expand(len(times), *steps.shape))).states[:, :states]
        usable = torch.isfinite(looks).all(1)
        last = usable.long().cumprod(0).sum(0) - 1
        start = looks.gather(0, last.clamp(min=0).expand(1, *looks.shape[1:]))[0]
    now = cycle.time.expand(begin.shape[1:])

    def move(state: Tensor) -> tuple[Tensor, Tensor]:
        change = held(now.detach(), torch.cat([state, carried]))[:states] + steps[:states]
        return state + change, torch.isfinite(change).all(0)

    search = _newton(move, start, steps[:states] > 0, reset=begin[:states])
    state = search.state
    if torch.is_grad_enabled():
        for _ in range(ORDERS):
            change = slope(now, torch.cat([state, initial[states:]]))[:states] + rate[:states]
            state = state + _applied(search.inverse, change)
        state = torch.where(search.kept, state, initial[:states])
    return SteadyState(state, search.settled, search.keeps)


class _Search(NamedTuple):
    state: Tensor
    inverse: Tensor
    settled: Tensor
    kept: Tensor
    keeps: Tensor


def _newton(
    move: Callable[[Tensor], tuple[Tensor, Tensor]], state: Tensor, given: Tensor, reset: Tensor | None = None
) -> _Search:
    """The fixed point of ``move``, each subject by itself; a step that cannot be evaluated gives way to a plain one."""
    start = state if reset is None else reset
    alive = torch.ones_like(state[0], dtype=torch.bool)
    settled, before = torch.zeros_like(alive), torch.full_like(state[0], torch.inf)
    after, jacobian, alive = _linearised(move, state)
    kept = _kept(jacobian)
    state = torch.where(kept, state, start)
    keeps = _keeps(jacobian, kept, given, after - state) & alive
    alive = alive & ~keeps.any(0)
    limit = RUNAWAY * torch.maximum(state.abs(), after.abs()).nan_to_num(0.0, 0.0, 0.0).amax(0)
    inverse = torch.zeros_like(jacobian)
    for _ in range(MOST_STEPS):
        active = alive & ~settled
        if not bool(active.any()):
            break
        inverse = torch.where(active, _inverse(jacobian, kept), inverse)
        step = _inside(state, after, _applied(inverse, after - state))
        scale = torch.maximum(state.abs(), after.abs())
        scale = torch.maximum(scale, 1e-12 * scale.amax(0))
        size = (step.abs() / torch.where(scale > 0, scale, 1.0)).amax(0)
        # the error left is the square of a small step, or what the solver's own error makes of it: that does not shrink
        arrived = active & ((size <= SMALL_STEP) | ((size < NOISE) & (size > 0.3 * before)))
        possible = active & torch.isfinite(step).all(0)
        trial = torch.where(possible, state + step, state)
        state = torch.where(arrived, trial, state)
        settled, active = settled | arrived, active & ~arrived
        if not bool(active.any()):
            break
        found, turned, good = _linearised(move, trial)
        retreat = active & ~(good & possible)
        if bool(retreat.any()):
            plain = torch.where(kept & torch.isfinite(after).all(0), after, start)
            trial = torch.where(retreat, plain, trial)
            other, bent, fine = _linearised(move, trial)
            found, turned = torch.where(retreat, other, found), torch.where(retreat, bent, turned)
            good = torch.where(retreat, fine, good)
        state = torch.where(active & good, trial, state)
        after, jacobian = torch.where(active, found, after), torch.where(active, turned, jacobian)
        before = torch.where(active, torch.where(retreat, torch.inf, size), before)
        alive = alive & (settled | (good & (state.abs().amax(0) <= limit)))
    settled = settled & torch.isfinite(state).all(0) & torch.isfinite(inverse).all(0).all(0)
    return _Search(
        torch.where(settled, state, start), torch.where(settled, inverse, 0.0), settled, kept | ~settled, keeps
    )


def _linearised(move: Callable[[Tensor], tuple[Tensor, Tensor]], state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the states move, the Jacobian of that, ``(after, before, *batch)``, and where both could be evaluated."""
    with torch.enable_grad():
        leaf = state.detach().requires_grad_()
        after, good = move(leaf)
        rows = [torch.autograd.grad(row.sum(), leaf, retain_graph=True)[0] for row in after.unbind(0)]
    jacobian = torch.stack(rows)
    good = good & torch.isfinite(after.detach()).all(0) & torch.isfinite(jacobian).all(0).all(0)
    return after.detach(), jacobian, good


def _kept(jacobian: Tensor) -> Tensor:
    """``(state, *batch)``, False for a state that only adds up what others do: neither it nor others depend on it."""
    count = len(jacobian)
    unit = torch.eye(count, dtype=jacobian.dtype, device=jacobian.device)
    moved = (jacobian - unit.reshape(count, count, *(1,) * (jacobian.ndim - 2))).abs() > 1e-12
    kept = torch.ones_like(jacobian[0], dtype=torch.bool)
    for _ in range(count):
        kept = kept & (moved & kept.unsqueeze(1)).any(0)
    return kept


def _keeps(jacobian: Tensor, kept: Tensor, given: Tensor, change: Tensor) -> Tensor:
    """``(state, *batch)``, True for a state, not kept, that takes up all that leaves the others: no elimination."""
    remaining = torch.where(kept.unsqueeze(1), jacobian, 0.0).sum(0)
    direct = given & (change != 0)
    total = ((remaining + jacobian - 1).abs() < 1e-9) & (given & kept).unsqueeze(0) & (jacobian.abs() > 1e-9)
    return ~kept & (direct | (total.any(1) & (change != 0)))


def _inverse(jacobian: Tensor, kept: Tensor) -> Tensor:
    """(I - J)^-1 among the states that are kept, 0 elsewhere; not finite where singular."""
    count = len(jacobian)
    unit = torch.eye(count, dtype=jacobian.dtype, device=jacobian.device)
    both = (kept.unsqueeze(1) & kept.unsqueeze(0)).movedim((0, 1), (-2, -1))
    matrix = torch.where(both, unit - jacobian.movedim((0, 1), (-2, -1)), unit)
    inverse, failed = torch.linalg.inv_ex(matrix.nan_to_num(0.0, 0.0, 0.0))
    inverse = torch.where((failed == 0)[..., None, None], inverse, torch.nan)
    return torch.where(both, inverse, 0.0).movedim((-2, -1), (0, 1))


def _applied(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix * vector).sum(1)


def _inside(state: Tensor, after: Tensor, step: Tensor) -> Tensor:
    """The step, shortened where it would make a state negative that is not and whose next value is not."""
    lowest = 0.1 * torch.minimum(state, after)
    bounded = (state > 0) & (after > 0) & (state + step < lowest)
    share = torch.where(bounded, (lowest - state) / torch.where(bounded, step, 1.0), 1.0)
    return step * share.amin(0)
