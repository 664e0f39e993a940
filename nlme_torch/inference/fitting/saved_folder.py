"""A directory that appears whole or not at all, whatever ends the process that writes it.

It is written beside its place, under a hidden name, and takes its place by renaming. What a process that was killed has
left behind is found by its name: the directory that it had moved away returns, the rest is removed.
"""

import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks; there a folder is given up when it is old
    fcntl = None  # type: ignore[assignment]

OLD_AFTER = 3600.0  # seconds


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``path`` at the end; after an exception nothing has changed.

    Args:
        path: The directory, which may exist.
    """
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.saving-", dir=path.parent))
    lock = _lock(scratch)
    new, old = scratch / "new", scratch / "old"
    try:
        new.mkdir()
        yield new
        if path.exists():
            path.rename(old)
        new.rename(path)
    finally:  # an interrupt may come between the renames
        _return(old, path)
        if not old.exists() or path.exists():
            shutil.rmtree(scratch, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def settle(path: Path) -> None:
    """Undo what processes that were killed while they replaced a directory have left.

    Args:
        path: The directory; it returns if it had been moved away.
    """
    for scratch in sorted(path.parent.glob(f".{glob.escape(path.name)}.saving-*")):
        if fcntl is None:
            if time.time() - scratch.stat().st_mtime < OLD_AFTER:
                continue
            lock = None
        else:
            lock = _lock(scratch)
            if lock is None:  # its process lives
                continue
        _return(scratch / "old", path)
        shutil.rmtree(scratch, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _return(old: Path, path: Path) -> None:
    if old.exists() and not path.exists():
        old.rename(path)


def _lock(scratch: Path) -> int | None:
    """Lock a folder until its descriptor is closed or the process ends; None where that cannot be had."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(scratch, os.O_RDONLY)
    except OSError:  # another process has just removed it
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
