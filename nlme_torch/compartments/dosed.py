"""Amounts in the compartments under a regimen."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from nlme_torch.data.design.regimen import Dose, Regimen
from nlme_torch.errors import SolveError
from nlme_torch.solve.linear import Linear, steady_state, superposition

Modifiers = Mapping[str, Tensor | float]

_MOST_OVERLAPS = 100
"""Intervals that an infusion at steady state may last: each is one more superposed solution."""


def amounts(
    system: Linear,
    times: Tensor,
    regimen: Regimen,
    lag: Modifiers | None = None,
    bioavailability: Modifiers | None = None,
) -> Tensor:
    """Return the amounts in all compartments at given times after the doses of a regimen.

        y(t) = sum over doses of what F_d amount_d, given at t_d + lag_d, has become at t

    Args:
        system: a linear system, such as ``OneCompartment``.
        times: (record, *batch-broadcastable) [time], in any order.
        regimen: boluses, infusions, repeats and steady states.
        lag: (*batch) [time] by which doses into a compartment are delayed, by the compartment's name.
        bioavailability: (*batch) fraction of a dose into a compartment that arrives; it shortens an infusion of
            given rate, and lowers the rate of one of given duration.

    Returns:
        (record, state, *batch) [amount]; divide by a volume for a concentration.

    Raises:
        SolveError: if a dose goes into an unknown compartment, leaves its rate or duration to a model, or is an
            infusion without end, or an infusion at steady state of more than 100 intervals.

    Example:
        >>> import torch
        >>> import nlme_torch as nlme
        >>> oral = nlme.compartments.OneCompartment(clearance=2.8, volume=32.0, absorption=1.5)
        >>> tablets = nlme.Regimen(100.0, compartment="depot", every=12.0, additional=3)
        >>> times = torch.tensor([0.0, 2.0, 38.0], dtype=torch.float64)
        >>> found = nlme.compartments.amounts(oral, times, tablets, lag={"depot": 0.5})
        >>> [round(value, 2) for value in found[:, 1].tolist()]
        [0.0, 81.94, 129.93]
    """
    lag, bioavailability = _checked(system, lag or {}), _checked(system, bioavailability or {})
    kind = times.new_zeros(())
    total: Tensor | None = None
    for dose in sorted(regimen, key=lambda dose: dose.time):
        compartment = _compartment(system, dose)
        name = system.states[compartment]
        delay = kind + lag.get(name, 0.0)
        fraction = kind + bioavailability.get(name, 1.0)
        amount, duration = _given(dose, fraction, kind)
        unit = kind.new_zeros(len(system.states))
        unit[compartment] = 1.0
        batch = torch.broadcast_shapes(system.batch(), amount.shape, duration.shape, delay.shape)
        vector = unit.reshape(-1, *(1,) * len(batch)) * amount.expand(batch)
        starts = torch.stack(
            [(kind + dose.time + repeat * dose.every + delay).expand(batch) for repeat in _repeats(dose)]
        )
        durations = duration.expand(starts.shape) if dose.rate or dose.duration else None
        became = superposition(system, times, starts, vector.expand(len(starts), *vector.shape), durations)
        if dose.steady_state:
            before = _settled(system, dose, vector, duration, kind)
            became = became + superposition(system, times, starts[:1], before[None])
            older = _still_running(system, times, dose, starts[0], vector, duration)
            became = became if older is None else became + older
        if total is not None and dose.steady_state == 1:
            gone = times.reshape(len(times), *(1,) * (1 + len(batch) - times.ndim), *times.shape[1:]) >= starts[0]
            total = torch.where(gone.unsqueeze(1), 0.0, total)
        total = became if total is None else total + became
    assert total is not None
    return total


def _repeats(dose: Dose) -> range:
    return range(int(dose.additional) + 1)


def _given(dose: Dose, fraction: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
    """The amount that arrives and the time that its infusion takes, 0 for a bolus."""
    if isinstance(dose.rate, str) or isinstance(dose.duration, str):
        raise SolveError("a dose leaves its rate or duration to a model: give numbers, or simulate a Model instead")
    if dose.rate and not dose.amount:
        raise SolveError("an infusion without end has no amount: take steady_state(system, rates=...) instead")
    amount = fraction * dose.amount
    return amount, amount / dose.rate if dose.rate else kind + dose.duration


def _settled(system: Linear, dose: Dose, vector: Tensor, duration: Tensor, kind: Tensor) -> Tensor:
    """The state just before a dose that finds a steady state."""
    every = kind + dose.every
    if not (dose.rate or dose.duration):
        return steady_state(system, every, amounts=vector)
    return steady_state(system, every, rates=vector / duration, duration=duration)


def _still_running(
    system: Linear, times: Tensor, dose: Dose, start: Tensor, vector: Tensor, duration: Tensor
) -> Tensor | None:
    """What infusions of a steady state still give after its dose, because they outlast their interval."""
    if not (dose.rate or dose.duration):
        return None
    longest = float((duration.detach() / dose.every).max())
    if not longest <= _MOST_OVERLAPS:
        raise SolveError(f"an infusion at steady state lasts longer than {_MOST_OVERLAPS} intervals of {dose.every:g}")
    total = None
    for older in range(1, math.ceil(longest)):
        left = (duration - older * dose.every).clamp(min=0.0).expand_as(start)
        runs = left > 0
        amounts = torch.where(runs, vector * left / duration, 0.0)
        became = superposition(system, times, start[None], amounts[None], torch.where(runs, left, 1.0)[None])
        total = became if total is None else total + became
    return total


def _compartment(system: Linear, dose: Dose) -> int:
    names = system.states
    if isinstance(dose.compartment, str) and dose.compartment in names:
        return names.index(dose.compartment)
    if isinstance(dose.compartment, int) and 1 <= dose.compartment <= len(names):
        return dose.compartment - 1
    raise SolveError(f"a dose goes into {dose.compartment!r}; {type(system).__name__} has {', '.join(names)}")


def _checked(system: Linear, modifiers: Modifiers) -> Modifiers:
    for name in modifiers:
        if name not in system.states:
            raise SolveError(f"{name!r} is no compartment; {type(system).__name__} has {', '.join(system.states)}")
    return modifiers
