"""Tsitouras' explicit 5(4) pair with a step size per subject."""

from dataclasses import dataclass

from nlme_torch.errors import SolveError
from nlme_torch.solve.per_subject import integrate_per_subject
from nlme_torch.solve.problem import Problem
from nlme_torch.solve.solution import Solution
from nlme_torch.solve.tableau import TSITOURAS, Method
from nlme_torch.solve.walk import Control


@dataclass(frozen=True)
class Tsit5:
    """Explicit Runge-Kutta 5(4) in which every subject has its own time, step size and record.

    Each subject walks from record to record and hits every one; a finished subject rests. Its solution does
    not depend on who else is in the batch. Gradients (backward, forward, twice) replay the accepted steps,
    whose sizes are constants.

    Attributes:
        rtol: relative tolerance of the local error of each subject.
        atol: absolute tolerance [state].
        max_steps: attempted steps of a subject between two records before it is given up.
        compile: run the whole walk as compiled code where that is possible (CPU, a C++ compiler, a vector
            field of elementary operations); the first solve of a new vector field then takes seconds, once
            per machine.

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

    rtol: float = 1e-6
    atol: float = 1e-8
    max_steps: int = 10_000
    compile: bool = True

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0 and self.max_steps > 0):
            raise SolveError("rtol, atol and max_steps must be positive")

    def integrate(self, problem: Problem) -> Solution:
        """Solve one problem; see ``nlme_torch.solve.solve``."""
        control = Control(self.rtol, self.atol, self.max_steps)
        return integrate_per_subject(problem, Method(TSITOURAS, None), control, self.compile)
