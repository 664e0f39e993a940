"""A stricter version of a solver, to see what its error is."""

from dataclasses import replace

from nlme_torch.solve.methods.fixed import RK4
from nlme_torch.solve.methods.per_subject import PerSubjectSolver
from nlme_torch.solve.methods.torch_diff_eq import TorchDiffEq
from nlme_torch.solve.problem.problem import Solver
from nlme_torch.solve.problem.tolerance import AbsoluteTolerance

_STRICTER = 1e-2
"""Share of the tolerance of a solve by which another is judged: the difference is the other's error then."""
_SHARPER = 1e-3
"""Likewise of a steady state, at which a whole solution begins."""
_FLOOR = 1e-12
"""Relative tolerance below which rounding adds up to more."""


def refine(solver: Solver) -> Solver | None:
    """Return the same solver with a local error of a hundredth.

    Args:
        solver: Any.

    Returns:
        Tolerances of a hundredth (not below 1e-12 relative), or four times the steps; None for another kind of solver.

    Example:
        >>> refine(RK4(5)).steps
        20
    """
    if isinstance(solver, PerSubjectSolver | TorchDiffEq):
        return replace(solver, rtol=max(solver.rtol * _STRICTER, _FLOOR), atol=_stricter(solver.atol))
    if isinstance(solver, RK4):
        return replace(solver, steps=4 * solver.steps)
    return None


def sharpen(solver: Solver) -> Solver:
    """Return the same solver with a thousandth of the local error, where it has one.

    Args:
        solver: Any.

    Returns:
        Tolerances of a thousandth (not below 1e-12 relative); fixed steps and other kinds of solver as they are.
    """
    if isinstance(solver, PerSubjectSolver | TorchDiffEq):
        atol = solver.atol if solver.atol == "auto" else solver.atol * _SHARPER
        return replace(solver, rtol=max(solver.rtol * _SHARPER, _FLOOR), atol=atol)
    return solver


def _stricter(atol: AbsoluteTolerance) -> AbsoluteTolerance:
    """A hundredth; "auto" follows the relative tolerance."""
    return atol if atol == "auto" else atol * _STRICTER
