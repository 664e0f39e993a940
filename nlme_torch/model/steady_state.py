"""The state that a dose, repeated at equal intervals since ever, has led to: by repeating it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nlme_torch._typing import Bool, Float
from nlme_torch.solve import Events, Solution

Advance = Callable[[Tensor, Tensor, Events | None], Solution]

FIRST_CYCLES, MOST_CYCLES = 16, 2048
FIRST_DOUBLINGS, MOST_DOUBLINGS = 8, 32


@dataclass(frozen=True)
class Cycle:
    """A dose and the interval at which it is repeated.

    A lag belongs to every repeat: the last one before the dose's row acted at ``time + lag - interval``.
    A constant infusion is one whose repeats join: its duration is its interval, and its interval is arbitrary.

    Attributes:
        time: ``(*batch)`` [time], of the row with the steady-state dose.
        interval: ``(*batch)`` [time], between repeats; ignored for a constant infusion.
        lag: ``(*batch)`` [time], not above the interval.
        amount: ``(state, *batch)`` [mass], entering at once at the start of a cycle.
        rate: ``(state, *batch)`` [mass / time], from the start of a cycle; None without infusions.
        duration: ``(*batch)`` [time] of the infusion, not above the interval.
        constant: Whether the infusion never stops.
    """

    time: Float[Tensor, "*batch"]
    interval: Float[Tensor, "*batch"]
    lag: Float[Tensor, "*batch"]
    amount: Float[Tensor, "state *batch"]
    rate: Float[Tensor, "state *batch"] | None
    duration: Float[Tensor, "*batch"]
    constant: bool


def repeat_until_steady(
    advance: Advance, initial: Tensor, cycle: Cycle, *, rtol: float, atol: float
) -> tuple[Float[Tensor, "state *batch"], Bool[Tensor, "*batch"]]:
    r"""Repeat a dose from the initial state until a cycle changes nothing any more.

    .. math:: |x_n - x_{n-1}| \le \epsilon \max_k |x_k| + \epsilon_0,\quad x_n = \Phi(x_{n-1})

    The number of cycles is found for every subject without gradients; gradients then run through all of them. Cycles
    end at the dose's time, so that dynamics which depend on time have to repeat with the interval.

    Args:
        advance: Moves states ``(state, *batch)`` through times ``(record, *batch)`` and events.
        initial: ``(state, *batch)``.
        cycle: The dose.
        rtol: Relative tolerance of the solver: a state has settled when a cycle changes it by 1e-3 of that (but 1e-10
            at least), or by less than ten times that and no less than the cycle before.
        atol: Absolute tolerance of the solver [state], likewise.

    Returns:
        The states just before the row, and where they settled within 2048 cycles (a constant infusion: within 32
        doublings of the time).
    """
    number, most = (FIRST_DOUBLINGS, MOST_DOUBLINGS) if cycle.constant else (FIRST_CYCLES, MOST_CYCLES)
    with torch.no_grad():
        while True:
            looks, status = _run(advance, initial, cycle, number, None)
            settled = _settled(looks, rtol, atol)
            done = settled.any(0)
            if bool((done | (status != 0)).all()) or number >= most:
                break
            number = min(2 * number, most)
        cycles = torch.where(done, settled.int().argmax(0), number - 1)
    if torch.is_grad_enabled():
        looks, _ = _run(advance, initial, cycle, int(cycles.max()) + 1, cycles)
    state = looks.gather(0, cycles.expand(1, *looks.shape[1:]))[0]
    return state, done


def _run(advance: Advance, initial: Tensor, cycle: Cycle, number: int, last: Tensor | None) -> tuple[Tensor, Tensor]:
    """States at the end of every cycle, ``(cycle, state, *batch)``, and the status ``(*batch)`` of the solve.

    Args:
        advance: Moves states through times and events.
        initial: ``(state, *batch)``.
        cycle: The dose.
        number: Cycles to run.
        last: ``(*batch)``, the cycle that ends at the row's time, after which time stands still; None for the last.
    """
    batch = initial.shape[1:]
    index = torch.arange(number, device=initial.device).reshape(-1, *(1,) * len(batch)).to(initial.dtype)
    if cycle.constant:
        begin = (2.0**index - 1).expand(number, *batch)
        end = (2.0 ** (index + 1) - 1).expand(number, *batch)
        duration = lag = torch.zeros_like(begin)
        infusing = True
    else:
        begin = (index * cycle.interval).expand(number, *batch)
        end = ((index + 1) * cycle.interval).expand(number, *batch)
        duration, lag = cycle.duration.expand(number, *batch), cycle.lag.expand(number, *batch)
        infusing = cycle.rate is not None
    # rounding must not put a stop before the one that precedes it
    look = torch.maximum(end - lag, begin)
    stops = [begin, look]
    if cycle.constant:
        rates = [cycle.rate, None]
    elif infusing:
        # an infusion may end before or after the look; two of the four pieces have no length
        stop = torch.minimum(begin + duration, end)
        stops = [begin, torch.minimum(stop, look), look, torch.maximum(stop, look)]
        rates = [cycle.rate, None, cycle.rate, None]
    else:
        rates = []
    offsets = torch.stack([stop.expand(number, *batch) for stop in stops], 1)
    at_row = look[-1] if last is None else look.gather(0, last.expand(1, *batch))[0]
    offsets = torch.where(offsets > at_row, at_row, offsets)
    times = (cycle.time + offsets - at_row).flatten(0, 1)
    shape = (number, len(stops), *initial.shape)
    nothing = torch.zeros_like(initial)
    amount = [cycle.amount.expand_as(initial)] + [nothing] * (len(stops) - 1)
    amounts = torch.stack(amount).expand(shape).flatten(0, 1)
    pulses = [nothing if rate is None else rate.expand_as(initial) for rate in rates]
    events = Events(amounts, torch.stack(pulses).expand(shape).flatten(0, 1) if pulses else None)
    solution = advance(initial, times, events)
    states = solution.states.unflatten(0, (number, len(stops)))
    return states[:, 2 if len(stops) == 4 else 1], solution.status


def _settled(looks: Tensor, rtol: float, atol: float) -> Tensor:
    """``(cycle, *batch)``, True where the last cycle changed no state any more."""
    change = (looks[1:] - looks[:-1]).abs()
    scale = looks.abs().nan_to_num(0.0, 0.0, 0.0).amax(0)
    still = (change <= max(1e-3 * rtol, 1e-10) * scale + 0.1 * atol).all(1)
    # at the level of the solver's own error a change no longer shrinks
    noise = (change / (10 * (rtol * scale + atol))).amax(1)
    still[1:] |= (noise[1:] < 1) & (noise[1:] >= noise[:-1])
    return torch.cat([torch.zeros_like(still[:1]), still])
