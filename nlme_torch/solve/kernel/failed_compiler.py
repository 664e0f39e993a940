"""What a compiler that fails late costs: one repetition, never a result."""

from collections.abc import Callable
from typing import TypeVar

from nlme_torch.solve.kernel import BuildError

_ATTEMPTS = 4  # a model's equations, their steady state and a closed form are compiled apart
Found = TypeVar("Found")


def despite_compiler(compute: Callable[[], Found]) -> Found:
    """Return what a computation gives; again from its beginning if a compiler failed in its midst.

    Second derivatives are compiled when they are first asked for, in the midst of a backward pass, where there is no
    other way to them. What was compiled remembers that a derivative of it could not be, and the next time gradients
    are of tensor operations, with one line in the log.

    Args:
        compute: The computation; it must do the same when it is called again.

    Raises:
        BuildError: The compiler fails every time.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return compute()
        except BuildError:
            continue
    return compute()
