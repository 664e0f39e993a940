"""Integration of many small initial-value problems at once, each from record to record."""

import warnings
from typing import TYPE_CHECKING

from nlme_torch.solve.integrate import solve as solve
from nlme_torch.solve.kernel.failed_compiler import despite_compiler as despite_compiler
from nlme_torch.solve.methods.auto import Auto as Auto
from nlme_torch.solve.methods.choose import choose_solver as choose_solver
from nlme_torch.solve.methods.fixed import RK4 as RK4
from nlme_torch.solve.methods.rodas5p import Rodas5P as Rodas5P
from nlme_torch.solve.methods.torch_diff_eq import TorchDiffEq as TorchDiffEq
from nlme_torch.solve.methods.tsit5 import Tsit5 as Tsit5
from nlme_torch.solve.problem.events import Events as Events
from nlme_torch.solve.problem.problem import Problem as Problem
from nlme_torch.solve.problem.problem import Solver as Solver
from nlme_torch.solve.problem.solution import Solution as Solution
from nlme_torch.solve.problem.solution import Statistics as Statistics
from nlme_torch.solve.problem.solution import Status as Status

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Find what had another name before."""
        if name == "Adaptive":
            warnings.warn(
                "nlme_torch.solve.Adaptive is TorchDiffEq now.",
                DeprecationWarning,
                stacklevel=2,
            )
            return TorchDiffEq
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
