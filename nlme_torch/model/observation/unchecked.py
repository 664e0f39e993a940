"""Distributions without the checks of their arguments."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributions import Distribution


@contextmanager
def unchecked() -> Iterator[None]:
    """Let distributions take any arguments for a while.

    The checks cost as much as the density, and raise for a whole batch when one draw is extreme.
    """
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
