"""One tqdm line for anything long."""

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm


class Progress:
    """A progress line with a phase and a few numbers.

    Args:
        total: Expected number of iterations.
        label: What is being done.
        show: Whether anything is printed.
    """

    def __init__(self, total: int, label: str, show: bool) -> None:
        self._bar = tqdm(total=total, desc=label, disable=not show, dynamic_ncols=True, leave=True)

    def advance(self, phase: str, numbers: dict[str, float] | None = None, count: int = 1) -> None:
        """Move on by one iteration or several; numbers are shown from time to time."""
        self._bar.update(count)
        if numbers is not None and not self._bar.disable:
            self._bar.set_description_str(phase, refresh=False)
            self._bar.set_postfix_str(
                "  ".join(f"{name} {value:.4g}" for name, value in numbers.items()), refresh=False
            )

    def expect(self, total: int) -> None:
        """Change the number of iterations that are expected."""
        self._bar.total = total
        self._bar.refresh()

    def finish(self, phase: str, total: int) -> None:
        """End the line at the number of iterations that were really done."""
        self._bar.set_description_str(phase, refresh=False)
        self._bar.total = total
        self._bar.refresh()
        self._bar.close()


@contextmanager
def progress_line(total: int, label: str, show: bool) -> Iterator[Progress]:
    """Open a progress line and close it whatever happens."""
    line = Progress(total, label, show)
    try:
        yield line
    finally:
        line._bar.close()
