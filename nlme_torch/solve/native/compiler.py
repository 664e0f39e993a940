"""Building and loading C++: once per source, kept on disk, never fatal."""

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

logger = logging.getLogger(__name__)

_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-pthread",
          "-march=native", "-w")  # fmt: skip


class CompilerError(Exception):
    """No compiler, or it failed; the message says which and why."""


def build(source: str, name: str) -> ctypes.CDLL:
    """Compile C++ source to a shared library, unless that was done before, and load it.

    Libraries are kept in ``$NLME_TORCH_CACHE``, else in the user's cache directory, under a digest of the source, the
    compiler and the processor's instruction set.

    Args:
        source: the C++ text.
        name: a word for the file's name and the log.

    Returns:
        The library.

    Raises:
        CompilerError: if there is no working compiler.
    """
    compiler, target = _compiler()
    digest = hashlib.sha256("\0".join((source, target, *_FLAGS)).encode()).hexdigest()[:32]
    library = _directory() / f"{name}-{digest}.so"
    if not library.exists():
        _compile(compiler, source, library)
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise CompilerError(f"{library} cannot be loaded: {error}") from error


def _compile(compiler: str, source: str, library: Path) -> None:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        text, result = Path(scratch, "kernel.cpp"), Path(scratch, "kernel.so")
        text.write_text(source)
        command = [compiler, *_FLAGS, str(text), "-o", str(result)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CompilerError(f"{compiler} failed: {error}") from error
        if done.returncode:
            raise CompilerError(f"{compiler} failed:\n{done.stderr[:2000]}")
        os.replace(result, library)
    logger.info("compiled %s in %.1f s", library.name, time.perf_counter() - began)


@functools.lru_cache(maxsize=1)
def _compiler() -> tuple[str, str]:
    """The compiler and a text that changes with it and with the processor."""
    for candidate in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        found = candidate and shutil.which(candidate)
        if not found:
            continue
        command = [found, "-march=native", "-dM", "-E", "-x", "c++", os.devnull]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return found, done.stdout
    raise CompilerError("no C++ compiler (g++ or clang++) was found on the path; install one or set CXX")


@functools.lru_cache(maxsize=1)
def _directory() -> Path:
    chosen = os.environ.get("NLME_TORCH_CACHE")
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    for directory in (Path(chosen) if chosen else Path(caches, "nlme_torch"), Path(tempfile.gettempdir(), f"nlme_torch_{os.getuid()}")):
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryFile(dir=directory):
                return directory
        except OSError:
            continue
    return Path(tempfile.mkdtemp(prefix="nlme_torch_"))
