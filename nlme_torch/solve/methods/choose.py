"""Solvers by name."""

from nlme_torch.errors import SolveError
from nlme_torch.solve.methods.auto import Auto
from nlme_torch.solve.methods.fixed import RK4
from nlme_torch.solve.methods.rodas5p import Rodas5P
from nlme_torch.solve.methods.torch_diff_eq import TorchDiffEq
from nlme_torch.solve.methods.tsit5 import Tsit5
from nlme_torch.solve.problem.problem import Solver

_NAMED: dict[str, type[Auto | Tsit5 | Rodas5P | RK4 | TorchDiffEq]] = {
    "auto": Auto,
    "tsit5": Tsit5,
    "rodas5p": Rodas5P,
    "rk4": RK4,
    "torchdiffeq": TorchDiffEq,
}


def choose_solver(solver: Solver | str | None) -> Solver:
    """Return a solver: as given, by its name with its defaults, or ``Auto()``.

    Args:
        solver: A solver, "auto", "tsit5", "rodas5p", "rk4", "torchdiffeq", or None.

    Raises:
        SolveError: No solver has this name.

    Example:
        >>> choose_solver("rk4").steps
        10
    """
    if solver is None:
        return Auto()
    if not isinstance(solver, str):
        return solver
    if solver not in _NAMED:
        raise SolveError(
            f"no solver is called {solver!r}; use one of {', '.join(_NAMED)}, or an object such as Tsit5()"
        )
    return _NAMED[solver]()
