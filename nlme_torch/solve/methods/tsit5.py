"""Tsitouras' explicit 5(4) pair with a step size per subject."""

from dataclasses import dataclass

from nlme_torch.solve.methods.per_subject import PerSubjectSolver
from nlme_torch.solve.tableau import TSITOURAS, Method


@dataclass(frozen=True)
class Tsit5(PerSubjectSolver):
    """Explicit Runge-Kutta 5(4) in which every subject has its own time, step size and record.

    Each subject walks from record to record and hits every one; a finished subject rests. Its solution does
    not depend on who else is in the batch. Gradients (backward, forward, twice) replay the accepted steps,
    whose sizes are constants.

    Attributes:
        rtol: relative tolerance of the local error of each subject.
        atol: absolute tolerance [state]; "auto" takes 1e-8 (a hundredth of rtol below 1e-6), and less for a subject
            whose states are small, in proportion to what each of them visits.
        max_steps: attempted steps of a subject between two records before it is given up.
        compile: run the whole walk as compiled code where that is possible (CPU, a C++ compiler, a vector
            field of elementary operations); the first solve of a new vector field then takes seconds, once
            per machine.
        max_batch: columns (subjects times chains times starts) that are solved at a time by tensor operations, where
            there is no compiled code; "auto" takes what a quarter of the device's free memory can hold.

    Example:
        >>> import torch
        >>> from nlme_torch.solve import solve
        >>> times = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> start = torch.ones(1, dtype=torch.float64)
        >>> y = solve(lambda t, y, p: -y, start, times, solver=Tsit5(rtol=1e-9)).states
        >>> bool((y[1] - torch.exp(torch.tensor(-1.0))).abs().max() < 1e-8)
        True

    References:
        Tsitouras (2011), Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying
        assumption, doi:10.1016/j.camwa.2011.06.002.
    """

    method = Method(TSITOURAS, None)
