"""Steinebach's linearly implicit 5(4) pair for stiff systems, with a step size per subject."""

from dataclasses import dataclass

from nlme_torch.solve.methods.per_subject import PerSubjectSolver
from nlme_torch.solve.tableau import RODAS5P, Method


@dataclass(frozen=True)
class Rodas5P(PerSubjectSolver):
    """Linearly implicit Rosenbrock method of order 5(4) in which every subject has its own step size.

        (I / (gamma h) - f_y) k_i = f(t + c_i h, y + sum_j a_ij k_j) + sum_j C_ij k_j / h + h d_i f_t

    Stable for stiff systems however large the step (L-stable). Each step needs the Jacobian, which is derived
    from the vector field, and one small linear system per subject. Gradients as for ``Tsit5``.

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
        >>> stiff = lambda t, y, p: -1e6 * (y - torch.cos(t))
        >>> y = solve(stiff, torch.ones(1, dtype=torch.float64), times, solver=Rodas5P()).states
        >>> bool((y[1] - torch.cos(torch.ones(()))).abs().max() < 1e-5)
        True

    References:
        Steinebach (2023), Construction of Rosenbrock-Wanner method Rodas5P and numerical benchmarks within
        the Julia Differential Equations package, doi:10.1007/s10543-023-00967-x.
    """

    method = Method(None, RODAS5P)
