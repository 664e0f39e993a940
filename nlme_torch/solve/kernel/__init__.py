"""Vector fields written out in C++ for single subjects and compiled with their solver.

A solve of a small system costs far less than the launching of tensor operations. So the field is called once on
operands, what it does is written as scalar arithmetic on vectors of subjects, and one compiled call walks every subject
from its first record to its last, each lane with its own step size. Whatever cannot be compiled runs as plain
tensor operations.
"""

from nlme_torch.solve.kernel.build import BuildError as BuildError
from nlme_torch.solve.kernel.differentiate import Solve as Solve
from nlme_torch.solve.kernel.find import find_kernel as find_kernel
from nlme_torch.solve.kernel.kernel import Kernel as Kernel
from nlme_torch.solve.kernel.library import Limits as Limits
from nlme_torch.solve.kernel.library import Outcome as Outcome
