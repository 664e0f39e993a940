"""Compiling generated C++ once per text: shared libraries kept in the user's cache directory."""

import ctypes
import functools
import hashlib
import importlib.util
import logging
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nlme_torch.errors import SolveError

SOURCES = Path(__file__).parent / "source"
_FLAGS = (
    "-std=c++17", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared",
    "-pthread", "-w",
)  # fmt: skip
# of GCC's -O3 these three passes are what makes these programs fast; the whole of it takes 1.7 times as long to compile
_BY_GCC = ("-O2", "-funswitch-loops", "-fpeel-loops", "-fipa-cp-clone")
_BY_CLANG = ("-O3", "-fno-sanitize=undefined")
SLOWER = "seven to a thousand times slower"
"""What compiled solves gain over tensor operations and torchdiffeq (``benchmarks/README.md``)."""
_LEAST_SPACE = 4 << 20  # bytes; with less a failure of the compiler is the disk's
_log = logging.getLogger(__name__)


@functools.cache
def compiler() -> tuple[str, ...] | None:
    """The command of the C++ compiler; None if there is none (or it is not GCC- or Clang-like).

    It is CXX, or what the path has, or the Clang of the package ``ziglang`` (``pip install nlme_torch[compiler]``).
    """
    if platform.system() == "Windows":
        _log.warning("equations and likelihoods are not compiled on Windows: tensor operations, %s", SLOWER)
        return None
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        found = shutil.which(name) if name else None
        if found:
            return (found,)
    if importlib.util.find_spec("ziglang") is not None:
        return sys.executable, "-m", "ziglang", "c++"
    _log.warning(
        "no C++ compiler was found (CXX, g++, clang++): equations and likelihoods run as tensor operations, %s. "
        "Install one, or: pip install nlme_torch[compiler]",
        SLOWER,
    )
    return None


def named(command: tuple[str, ...] | None) -> str:
    """A command as it is typed."""
    return " ".join(command or ("(none)",))


class BuildError(SolveError):
    """Equations could not be compiled for reasons outside the model: the compiler, the disk, or permissions."""


def cache_directory() -> Path:
    """Where compiled kernels are kept: NLME_TORCH_CACHE, or nlme_torch in the user's cache directory."""
    chosen = os.environ.get("NLME_TORCH_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nlme_torch"


def build(text: str) -> ctypes.CDLL:
    """Compile C++ text, or load what an earlier call compiled.

    Machine code is only loaded from a folder that belongs to the user and that nobody else may write to, and only if
    it is, byte for byte, what was compiled: its name holds the hash of the text and the hash of the code.

    Args:
        text: C++ that may include the drivers of this package.

    Returns:
        The loaded library.

    Raises:
        BuildError: if the compiler fails or no folder can be written.
    """
    name = hashlib.sha256((_fingerprint() + text).encode()).hexdigest()[:24]
    failures = []
    for find_folder in (_own_folder, _private_folder):
        try:
            folder = find_folder()
            return ctypes.CDLL(str(_kept(folder, name) or _compile(text, folder, name)))
        except OSError as error:  # a disk that is full or read-only, a folder of somebody else
            failures.append(str(error))
            _warn(f"compiled equations are not kept for later: {error}")
    raise BuildError(
        f"compiled equations can be kept nowhere: {'; '.join(failures)}. This is no fault of the model: free disk "
        "space, set NLME_TORCH_CACHE to a folder of your own, or solve without compiling, solver=Auto(compile=False)."
    )


@functools.cache
def _warn(message: str) -> None:
    _log.warning(message)


def _own_folder() -> Path:
    """The cache folder, made for this user alone; an OSError if it is somebody else's or open to others."""
    folder = cache_directory() / "kernels"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_ours(folder):
        raise PermissionError(f"{folder} belongs to another user or may be written by others")
    return folder


def _private_folder() -> Path:
    """A folder for this process alone, removed when it ends."""
    return Path(_temporary_folder().name)


@functools.cache
def _temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="nlme_torch-")


def _is_ours(path: Path) -> bool:
    found = path.lstat()
    return found.st_uid == os.getuid() and not found.st_mode & 0o022 and not stat.S_ISLNK(found.st_mode)


def _kept(folder: Path, name: str) -> Path | None:
    """The library that was compiled earlier, if it is whole; damaged ones are removed."""
    for library in sorted(folder.glob(f"{name}-*.so")):
        if _is_ours(library) and library.stem == f"{name}-{_digest(library)}":
            return library
        library.unlink(missing_ok=True)
    return None


def _digest(library: Path) -> str:
    return hashlib.sha256(library.read_bytes()).hexdigest()[:24]


@functools.cache
def _fingerprint() -> str:
    """What the machine code depends on besides the text: drivers, compiler, flags, processor."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.glob("*.h")):
        digest.update(path.read_bytes())
    version = _version()
    native = _run(["-march=native", "-dM", "-E", "-x", "c++", os.devnull]).stdout
    for part in (version, native, " ".join(_flags()), platform.machine()):
        digest.update(part.encode())
    return digest.hexdigest()


@functools.cache
def _version() -> str:
    return _run(["--version"]).stdout


def _flags() -> tuple[str, ...]:
    return (*_FLAGS, *(_BY_CLANG if "clang" in _version() else _BY_GCC))


def _compile(text: str, folder: Path, name: str) -> Path:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        source, output = Path(place) / "kernel.cpp", Path(place) / "kernel.so"
        source.write_text(text)
        done = _run([*_flags(), f"-I{SOURCES}", str(source), "-o", str(output)])
        if done.returncode:
            if shutil.disk_usage(folder).free < _LEAST_SPACE:
                raise OSError(f"no space is left in {folder}")
            raise BuildError(
                f"the C++ compiler {named(compiler())} failed (exit status {done.returncode}) on equations that the "
                "library wrote out. This is no fault of the model: check the compiler, choose another by the variable "
                f"CXX, or solve without compiling, solver=Auto(compile=False). It said: {done.stderr[-2000:]}"
            )
        # whoever compiles the same at the same time puts the same under the same name, at once and whole
        library = output.replace(folder / f"{name}-{_digest(output)}.so")
    _log.info("compiled a solver kernel in %.1f s: %s", time.perf_counter() - started, library)
    return library


def _run(arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run([*(compiler() or ()), *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(
            f"the C++ compiler {named(compiler())} cannot be started: {error}. Choose another by the variable CXX, or "
            "solve without compiling, solver=Auto(compile=False)."
        ) from error
