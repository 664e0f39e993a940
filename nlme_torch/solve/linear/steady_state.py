"""The state that repeated doses settle into."""

import torch
from torch import Tensor

from nlme_torch.errors import SolveError
from nlme_torch.solve.linear.system import Linear


def steady_state(
    system: Linear,
    interval: Tensor | None = None,
    amounts: Tensor | None = None,
    rates: Tensor | None = None,
    duration: Tensor | None = None,
) -> Tensor:
    r"""Return the state just before a dose that has been given at equal intervals for ever.

    .. math:: y = e^{A \tau} (y + a) + e^{A (\tau - D)} \int_0^D e^{A s} ds \, r \quad \text{or} \quad 0 = A y + r

    Args:
        system: a linear system.
        interval: (*batch) [time] between doses, II; None for a constant infusion of ``rates``.
        amounts: (state, *batch) [amount] of the bolus doses, or None.
        rates: (state, *batch) [amount / time] of the infusions, which start with the dose, or None.
        duration: (*batch) [time] of each infusion; longer than the interval, infusions overlap.

    Returns:
        (state, *batch) [amount] before the bolus is added; not finite where a subject has no steady state.

    Raises:
        SolveError: if the arguments do not describe a dose.

    Example:
        >>> import torch
        >>> from nlme_torch.solve.linear import OneCompartment
        >>> dose, every = torch.tensor([100.0], dtype=torch.float64), torch.tensor(12.0, dtype=torch.float64)
        >>> trough = steady_state(OneCompartment(clearance=1.0, volume=10.0), every, amounts=dose)
        >>> round(trough.item(), 4)  # 100 / (exp(1.2) - 1)
        43.1013
    """
    if interval is None:
        if rates is None or amounts is not None or duration is not None:
            raise SolveError("a steady state without an interval is that of a constant infusion: give `rates` alone")
        return _solve(system.matrix(), -rates)
    if (amounts is None) == (rates is None) or (rates is None) != (duration is None):
        raise SolveError("give the repeated dose as `amounts`, or as `rates` with `duration`")
    cycle = system.exponential(interval)
    if amounts is not None:
        gained = (cycle * amounts).sum(1)
    else:
        assert rates is not None and duration is not None
        whole = torch.floor(duration / interval).detach()
        rest = duration - whole * interval
        part = (system.integral(rest) * rates).sum(1)
        gained = (system.exponential(interval - rest) * part).sum(1)
        gained = gained + whole * (system.integral(interval) * rates).sum(1)
    unit = torch.eye(cycle.shape[0], dtype=cycle.dtype, device=cycle.device)
    return _solve(unit.reshape((*unit.shape, *(1,) * (cycle.ndim - 2))) - cycle, gained)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """The solution of small systems, (state, *batch); not finite where a matrix is singular."""
    batch = torch.broadcast_shapes(matrix.shape[2:], right.shape[1:])
    rows = matrix.expand(*matrix.shape[:2], *batch).movedim((0, 1), (-2, -1))
    column = right.expand(right.shape[0], *batch).movedim(0, -1).unsqueeze(-1)
    return torch.linalg.solve_ex(rows, column)[0].squeeze(-1).movedim(-1, 0)
