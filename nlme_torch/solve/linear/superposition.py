"""Amounts at any times after any doses, by the superposition of single doses."""

import torch
from torch import Tensor

from nlme_torch.solve.linear.system import Linear


def superposition(
    system: Linear,
    times: Tensor,
    dose_times: Tensor,
    amounts: Tensor,
    durations: Tensor | None = None,
) -> Tensor:
    r"""Return the amounts in all compartments at given times, the sum over doses of what each has become.

    .. math:: y(t) = \sum_d [t \ge t_d] \; e^{A (t - t_d - D_d)_+} \int_0^{\min(t - t_d, D_d)} e^{A s} ds \, a_d / D_d

    (a bolus, D = 0, contributes :math:`e^{A (t - t_d)} a_d`). A lag is part of ``dose_times``, the bioavailability part
    of ``amounts``. The cost grows with records times doses: for long histories take
    :func:`nlme_torch.solve.linear.solve_linear`.

    Args:
        system: a linear system.
        times: (record, *batch-broadcastable) [time], in any order.
        dose_times: (dose, *batch-broadcastable) [time].
        amounts: (dose, state, *batch-broadcastable) [amount].
        durations: (dose, *batch-broadcastable) [time] of infusions, 0 for a bolus; None if all are boluses.

    Returns:
        (record, state, *batch) [amount]; a bolus at the very time counts.

    Example:
        >>> import torch
        >>> from nlme_torch.solve.linear import OneCompartment
        >>> number = lambda *values: torch.tensor(values, dtype=torch.float64)
        >>> system = OneCompartment(clearance=1.0, volume=10.0)
        >>> given = superposition(system, number(0.0, 6.0, 12.0), number(0.0, 6.0), number(100.0, 100.0)[:, None])
        >>> [round(value, 3) for value in given[:, 0].tolist()]
        [100.0, 154.881, 85.001]
    """
    batch = torch.broadcast_shapes(system.batch(), times.shape[1:], dose_times.shape[1:], amounts.shape[2:])
    times = _aligned(times, 1, batch)
    total = torch.zeros(times.shape[0], amounts.shape[1], *batch, dtype=times.dtype, device=times.device)
    for dose in range(dose_times.shape[0]):
        since = times - _aligned(dose_times[dose], 0, batch)
        given, amount = since >= 0, _aligned(amounts[dose], 1, batch)
        since = torch.where(given, since, 0.0)
        duration = None if durations is None else _aligned(durations[dose], 0, batch)
        if duration is None or not bool((duration > 0).any()):
            single = (system.transition(since) * amount).sum(2)
        else:
            single = _infused(system, since, amount, duration)
        total = total + torch.where(given[:, None], single, 0.0)
    return total


def _infused(system: Linear, since: Tensor, amount: Tensor, duration: Tensor) -> Tensor:
    """(record, state, *batch) what one dose has become, infused where its duration is positive."""
    infusion = duration > 0
    length = torch.where(infusion, duration, 1.0)
    running = torch.where(infusion, torch.where(since < length, since, length), 0.0)
    given = (system.response(running) * (amount / length)).sum(2)
    given = torch.where(infusion, given, amount)
    return (system.transition(since - running) * given[:, None]).sum(2)


def _aligned(value: Tensor, leading: int, batch: torch.Size) -> Tensor:
    """The value with its batch axes expanded to the batch."""
    own = value.shape[leading:]
    value = value.reshape((*value.shape[:leading], *(1,) * (len(batch) - len(own)), *own))
    return value.expand((*value.shape[:leading], *batch))
