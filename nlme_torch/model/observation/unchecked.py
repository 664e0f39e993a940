"""Distributions without checks of their arguments, for the time of an evaluation, in any number of threads."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributions import Distribution

_lock = threading.Lock()
_inside: list[bool] = []  # what was set when the first evaluation began, once for each that has not ended


@contextmanager
def unchecked() -> Iterator[None]:
    """Switch off the checks of distributions' arguments, and restore what was set when the last evaluation ends.

    They cost as much as the density, and raise for a whole batch when one draw is extreme. PyTorch keeps the switch in
    one place for all threads, so that evaluations which overlap share it.
    """
    with _lock:
        _inside.append(_inside[0] if _inside else Distribution._validate_args)
        Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        with _lock:
            before = _inside.pop()
            if not _inside:
                Distribution.set_default_validate_args(before)
