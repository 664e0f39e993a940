"""One tqdm line for anything long: in place in a terminal and in a notebook, once a minute in a log file."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

IN_A_LOG = 60.0
"""Seconds between two lines where nothing can be overwritten."""
IN_A_NOTEBOOK = 0.5
"""Seconds between two updates of a notebook's output."""


class Progress:
    """A progress line with a phase and a few numbers.

    Args:
        total: Expected number of iterations.
        label: What is being done.
        show: Whether anything is printed.
    """

    def __init__(self, total: int, label: str, show: bool) -> None:
        cell = Cell.current() if show else None
        interval = IN_A_NOTEBOOK if cell is not None else 0.1 if sys.stderr.isatty() else IN_A_LOG
        wide = {"ncols": 100} if cell is not None else {"dynamic_ncols": True}
        self._bar = tqdm(
            total=total, desc=label, disable=not show, leave=True, file=cell, mininterval=interval,
            maxinterval=max(10.0, interval), **wide,
        )  # fmt: skip

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


class Cell:
    """The output of a notebook's cell as the file of progress lines: each overwrites the one before.

    Args:
        handle: What IPython's ``display`` returned; it has a method ``update``.
        number: Of the cell's execution.
    """

    _last: "Cell | None" = None

    def __init__(self, handle: Any, number: int) -> None:
        self._handle, self.number = handle, number

    @classmethod
    def current(cls) -> "Cell | None":
        """Return the output of the cell that is running, the same for all its lines; None outside of notebooks."""
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython is not None else None
        if shell is None or not hasattr(shell, "kernel"):
            return None
        if cls._last is None or cls._last.number != shell.execution_count:
            display = importlib.import_module("IPython.display").display
            cls._last = cls(display({"text/plain": ""}, raw=True, display_id=True), shell.execution_count)
        return cls._last

    def write(self, text: str) -> int:
        """Show a line in place of the one before."""
        line = text.strip("\r\n ")
        if line:
            self._handle.update({"text/plain": line}, raw=True)
        return len(text)

    def flush(self) -> None:
        """Do nothing: every line is shown at once."""


@contextmanager
def progress_line(total: int, label: str, show: bool) -> Iterator[Progress]:
    """Open a progress line and close it whatever happens."""
    line = Progress(total, label, show)
    try:
        yield line
    finally:
        line._bar.close()
