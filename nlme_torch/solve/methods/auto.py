"""Explicit or linearly implicit steps, as each subject needs."""

from dataclasses import dataclass

from nlme_torch.solve.methods.per_subject import PerSubjectSolver
from nlme_torch.solve.tableau import RODAS5P, TSITOURAS, Method


@dataclass(frozen=True)
class Auto(PerSubjectSolver):
    """Explicit steps (Tsit5), and linearly implicit ones (Rodas5P) for the subjects that are stiff.

    A subject whose explicit steps are bounded by stability rather than by accuracy for about ten attempts
    goes on implicitly, and returns once its fastest rate is harmless for the steps it takes. Others in the
    batch are not affected.

    Attributes:
        rtol: relative tolerance of the local error of each subject.
        atol: absolute tolerance [state]; "auto" takes 1e-8 (a hundredth of rtol below 1e-6), and less for a subject
            whose states are small, in proportion to what each of them visits.
        max_steps: attempted steps of a subject between two records before it is given up.
        compile: as for ``Tsit5``.
        max_batch: as for ``Tsit5``.

    Example:
        >>> import torch
        >>> from nlme_torch.solve import solve
        >>> times = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> rates = torch.tensor([1.0, 1e6], dtype=torch.float64)
        >>> relax = lambda t, y, p: -p[0] * (y - torch.cos(t))
        >>> start = torch.zeros(1, 2, dtype=torch.float64)
        >>> solution = solve(relax, start, times[:, None], (rates,), solver=Auto())
        >>> solution.statistics.switches.tolist()
        [0, 1]

    References:
        Hairer, Wanner (1996), Solving Ordinary Differential Equations II, section IV.2,
        doi:10.1007/978-3-642-05221-7.
    """

    method = Method(TSITOURAS, RODAS5P)
