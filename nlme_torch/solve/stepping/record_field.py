"""The vector field in rescaled time, watching each subject for failure."""

import torch
from torch import Tensor

from nlme_torch.solve.problem.problem import Problem, check_derivative
from nlme_torch.solve.problem.solution import Status

_SMALLEST_STEP = 1e-11
"""Share of a record: a rejected step that is shorter will not be followed by a better one."""
_LARGEST_SLOPE = 1e100
"""Beyond, its square in a norm overflows soon."""


class RecordField:
    """dy/ds for one run of records, s from 0 to ``length``, as torchdiffeq calls it.

    torchdiffeq reports a failure of any subject as an assertion about the whole batch. Here a non-finite
    derivative is replaced by zero and counts as an unbounded error, so that the step shrinks; when it cannot
    shrink further, or ``max_steps`` attempts were spent on one record, the subjects responsible are frozen
    and the others go on.

    Attributes:
        status: (*batch) a ``Status`` per subject.
        failed_at: (*batch) for a failed subject, the last record (from the segment's first) that it reached.
        last_step: size of the last accepted step, for the next segment to start with.
        accepted: accepted steps, and likewise ``rejected`` and ``evaluations``.
    """

    def __init__(self, problem: Problem, first: int, last: int, status: Tensor, max_steps: int) -> None:
        self.length = last - first
        self.status = status
        self.failed_at = torch.zeros_like(status)
        self.last_step = problem.initial.new_tensor(0.1)
        self.accepted = self.rejected = self.evaluations = 0
        self._problem = problem
        self._starts = problem.times[first : last + 1].unbind(0)
        self._rates = None if problem.rates is None else problem.rates[first:last].unbind(0)
        self._rest = problem.initial.detach()
        self._any_frozen = bool((status > 0).any())
        self._frozen = status > 0
        self._suspect = torch.zeros_like(self._frozen)
        self._error = torch.zeros_like(problem.initial[0])
        self._max_steps = self._budget = max_steps
        self._attempts, self._record, self._last_rejected = 0, 0, False

    def differentiable(self) -> tuple[Tensor, ...]:
        """Every tensor whose gradient a continuous adjoint has to collect."""
        tensors = (*self._problem.parameters, *self._starts, *(self._rates or ()))
        return tuple(tensor for tensor in tensors if tensor.requires_grad)

    def __call__(self, s: Tensor, state: Tensor) -> Tensor:
        """(state, *batch) derivative with respect to rescaled time s (a number)."""
        self.evaluations += 1
        record = min(int(s), self.length - 1)
        start = self._starts[record]
        length = self._starts[record + 1] - start
        if self._any_frozen:
            state = torch.where(self._frozen, self._rest, state)
        slope = self._problem.vector_field(start + (s - record) * length, state, self._problem.parameters)
        slope = check_derivative(slope, state)
        if self._rates is not None:
            slope = slope + self._rates[record]
        bad = ~(slope.detach().abs() < _LARGEST_SLOPE).all(0)
        if self._any_frozen:
            bad = bad | self._frozen
        self._suspect = self._suspect | bad
        return torch.where(bad, 0.0, slope * length)

    def norm(self, scaled_error: Tensor) -> Tensor:
        """Largest root-mean-square error of any subject that is still alive."""
        judged = scaled_error[: scaled_error.shape[0] - self._problem.passengers]
        error = torch.nan_to_num(judged.detach().pow(2).mean(0).sqrt(), nan=1e30, posinf=1e30)
        error = torch.where(self._suspect, 1e30, error)
        self._error = torch.where(self._frozen, 0.0, error) if self._any_frozen else error
        return self._error.max()

    def callback_step(self, s: Tensor, state: Tensor, step: Tensor) -> None:
        """Before each attempted step: give up on subjects that hold the batch back."""
        record = int(s)
        if record != self._record:
            self._record, self._attempts, self._budget = record, 0, self._max_steps
        self._attempts += 1
        if self._last_rejected and float(step) < _SMALLEST_STEP:
            self._freeze(self._error > 1, state, Status.STEP_UNDERFLOW)
        elif self._attempts > self._budget:
            self._freeze(self._error >= 1e-3 * self._error.max(), state, Status.MAX_STEPS)
            self._attempts, self._budget = 0, self._budget // 2
        self._suspect = torch.zeros_like(self._suspect)

    def callback_accept_step(self, s: Tensor, state: Tensor, step: Tensor) -> None:
        """After an accepted step."""
        self.accepted += 1
        self._last_rejected = False
        if self.accepted == 1 or float(step) > 1e-3 * float(self.last_step):
            self.last_step = step.detach().clamp(max=1.0)

    def callback_reject_step(self, s: Tensor, state: Tensor, step: Tensor) -> None:
        """After a rejected step."""
        self.rejected += 1
        self._last_rejected = True

    def _freeze(self, offenders: Tensor, state: Tensor, reason: Status) -> None:
        offenders = offenders & ~self._frozen
        status = torch.where(offenders & self._suspect, int(Status.NONFINITE), int(reason))
        self.status = torch.where(offenders, status, self.status)
        self.failed_at = torch.where(offenders, self._record, self.failed_at)
        self._rest = torch.where(offenders, state.detach(), self._rest)
        self._frozen = self._frozen | offenders
        self._any_frozen = True
