"""Integration of many small initial-value problems at once, each from record to record."""

from .adaptive import Adaptive as Adaptive
from .auto import Auto as Auto
from .choose import choose_solver as choose_solver
from .events import Events as Events
from .failed_compiler import despite_compiler as despite_compiler
from .fixed import RK4 as RK4
from .integrate import solve as solve
from .problem import Problem as Problem
from .problem import Solver as Solver
from .rodas5p import Rodas5P as Rodas5P
from .solution import Solution as Solution
from .solution import Statistics as Statistics
from .solution import Status as Status
from .tsit5 import Tsit5 as Tsit5
