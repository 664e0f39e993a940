"""Compiling generated C++ once per text: shared libraries kept in the user's cache directory."""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

SOURCES = Path(__file__).parent / "source"
_FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
    "-fPIC",
    "-shared", "-pthread", "-w",
)  # fmt: skip
_log = logging.getLogger(__name__)


@functools.cache
def compiler() -> str | None:
    """The C++ compiler, from CXX or the path; None if there is none (or it is not GCC- or Clang-like)."""
    if platform.system() == "Windows":
        return None
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        found = shutil.which(name) if name else None
        if found:
            return found
    return None


def cache_directory() -> Path:
    """Where compiled kernels are kept: NLME_TORCH_CACHE, or nlme_torch in the user's cache directory."""
    chosen = os.environ.get("NLME_TORCH_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nlme_torch"


def build(text: str) -> ctypes.CDLL:
    """Compile C++ text, or load what an earlier call compiled.

    Args:
        text: C++ that may include the drivers of this package.

    Returns:
        The loaded library.

    Raises:
        OSError: if the compiler fails or the cache cannot be written.
    """
    return ctypes.CDLL(str(_compile(text)))


@functools.cache
def _fingerprint() -> str:
    """What the machine code depends on besides the text: drivers, compiler, flags, processor."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.glob("*.h")):
        digest.update(path.read_bytes())
    version = subprocess.run([str(compiler()), "--version"], capture_output=True, check=False).stdout
    native = subprocess.run(
        [str(compiler()), "-march=native", "-dM", "-E", "-x", "c++", os.devnull],
        capture_output=True,
        check=False,
    ).stdout
    for part in (version, native, " ".join(_FLAGS).encode(), platform.machine().encode()):
        digest.update(part)
    return digest.hexdigest()


def _compile(text: str) -> Path:
    name = hashlib.sha256((_fingerprint() + text).encode()).hexdigest()[:24]
    folder = cache_directory()
    library = folder / f"{name}.so"
    if library.exists():
        return library
    started = time.perf_counter()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=folder)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"nlme_torch-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        library = folder / f"{name}.so"
        scratch = tempfile.TemporaryDirectory(dir=folder)
    with scratch as place:
        source, output = Path(place) / "kernel.cpp", Path(place) / "kernel.so"
        source.write_text(text)
        command = [str(compiler()), *_FLAGS, f"-I{SOURCES}", str(source), "-o", str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"{command[0]} failed: {done.stderr[-2000:]}")
        output.replace(library)
    _log.info("compiled a solver kernel in %.1f s: %s", time.perf_counter() - started, library)
    return library
