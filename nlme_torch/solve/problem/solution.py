"""What a solve returns: states at records, and for each subject a status and what it cost."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from nlme_torch._typing import Bool, Float, Int
from nlme_torch.errors import SolveError


class Status(IntEnum):
    """How the solve of one subject ended; ``message`` says what to do about it."""

    OK = 0
    INVALID_START = 1
    NONFINITE = 2
    STEP_UNDERFLOW = 3
    MAX_STEPS = 4

    @property
    def message(self) -> str:
        """One sentence with the remedy."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.OK: "solved",
    Status.INVALID_START: (
        "the initial state, a parameter, a time or the derivative at the start is not finite; check initial, "
        "the starting values and divisions by zero at the first time"
    ),
    Status.NONFINITE: (
        "the state or its derivative became infinite or NaN; check signs and divisions in `dynamics`, the "
        "starting values, and bound the parameters"
    ),
    Status.STEP_UNDERFLOW: (
        "the step size shrank to rounding error: the solution is singular or far too stiff; check dynamics, "
        "loosen rtol, or use Auto() or Rodas5P()"
    ),
    Status.MAX_STEPS: (
        "more than max_steps steps between two records: the system is stiff or rtol too tight; use Auto() or "
        "Rodas5P(), loosen rtol, or raise max_steps"
    ),
}


@dataclass(frozen=True)
class Statistics:
    """What the solve of each subject cost.

    Attributes:
        accepted: (*batch) accepted steps.
        rejected: (*batch) rejected steps.
        evaluations: (*batch) evaluations of the vector field that this subject needed; a Jacobian counts as
            one for each state and one for time.
        switches: (*batch) changes between the explicit and the implicit method.
    """

    accepted: Int[Tensor, "*batch"]
    rejected: Int[Tensor, "*batch"]
    evaluations: Int[Tensor, "*batch"]
    switches: Int[Tensor, "*batch"]


@dataclass(frozen=True)
class Solution:
    """States at the records of every subject.

    Attributes:
        states: (record, state, *batch) the state at each record with the record's own event applied; NaN
            from the first record that a failed subject did not reach.
        status: (*batch) a ``Status`` per subject, 0 where the solve succeeded.
        reached: (*batch) index of the last record that each subject reached.
        statistics: cost per subject.

    Example:
        >>> import torch
        >>> from nlme_torch.solve import RK4, solve
        >>> times = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        >>> solution = solve(lambda t, y, p: -y, torch.ones(1, 1, dtype=torch.float64), times, solver=RK4(20))
        >>> bool(solution.ok.all()), round(float(solution.states[-1, 0, 0]), 6)
        (True, 0.367879)
    """

    states: Float[Tensor, "record state *batch"]
    status: Int[Tensor, "*batch"]
    reached: Int[Tensor, "*batch"]
    statistics: Statistics

    @property
    def ok(self) -> Bool[Tensor, "*batch"]:
        """(*batch) True where the solve succeeded."""
        return self.status == 0

    @property
    def stats(self) -> Statistics:
        """The statistics, by the name that other solver libraries use."""
        return self.statistics

    def raise_for_status(self, subjects: tuple[object, ...] = (), times: Tensor | None = None) -> None:
        """Raise one SolveError that names every kind of failure, its subjects and the last time reached.

        Args:
            subjects: ids along the last batch axis; positions are named where it is empty.
            times: (record, *batch-broadcastable) the record times, to say how far a subject came.

        Raises:
            SolveError: if any subject failed.
        """
        if bool(self.ok.all()):
            return
        lines = []
        for status in Status:
            where = torch.nonzero(self.status == status)
            if status is Status.OK or not len(where):
                continue
            named = ", ".join(self._name(index, subjects, times) for index in where[:5])
            more = f" and {len(where) - 5} more" if len(where) > 5 else ""
            lines.append(f"{named}{more}: {status.message}")
        raise SolveError("; ".join(lines))

    def _name(self, index: Tensor, subjects: tuple[object, ...], times: Tensor | None) -> str:
        position = tuple(index.tolist())
        subject = subjects[position[-1]] if subjects and position else position[-1] if position else 0
        record = int(self.reached[position])
        if times is None:
            return f"subject {subject} after record {record}"
        aligned = times.reshape(times.shape[0], *(1,) * (1 + self.status.ndim - times.ndim), *times.shape[1:])
        time = aligned.expand(times.shape[0], *self.status.shape)[(record, *position)]
        return f"subject {subject} after time {float(time):.6g}"
