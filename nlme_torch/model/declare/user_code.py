"""Mistakes in the code of a model are told by file and line, with the line itself and what to write instead."""

import inspect
import linecache
import os
import re
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, TracebackType

import torch

from nlme_torch.errors import ModelError
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.places import place, place_of_return
from nlme_torch.model.declare.remedies import remedy
from nlme_torch.model.declare.signatures import SIGNATURES

MISTAKES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NameError, NotImplementedError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip
"""What Python and PyTorch raise where code is wrong; a full memory, an interrupt or an exit is none of it."""
_INSTALLED = tuple({sysconfig.get_paths()[kind] + os.sep for kind in ("stdlib", "purelib", "platlib")})


@contextmanager
def told_by_line(model: Model) -> Iterator[None]:
    """While active, what is wrong in a method of a model is a ModelError that quotes the user's line.

    Args:
        model: The model.

    Raises:
        ModelError: A method raised an exception, took a number out of a tensor, or returned something wrong.
    """
    try:
        yield
    except ModelError as error:
        if error.placed:
            raise
        found = users_frame(model, error.__traceback__)
        if found is not None:
            raise _placed(_where(model, *found), str(error) + _plain_attribute(model, found[1])) from error
        if error.method is not None:
            raise _placed(place_of_return(type(model), error.method), str(error)) from None
        raise
    except MISTAKES as error:
        found = None if isinstance(error, torch.OutOfMemoryError) else users_frame(model, error.__traceback__)
        if found is None:
            raise
        said = f"{error}".strip().split("\n")[0].rstrip(".") or "the condition does not hold"
        method, frame, line = found
        advice = remedy(model, method, error, linecache.getline(frame.f_code.co_filename, line))
        raise _placed(_where(model, *found), f"{type(error).__name__}: {said}. {advice}") from error


def users_frame(model: Model, traceback: TracebackType | None) -> tuple[str, FrameType, int] | None:
    """Return the method, the innermost frame and the line of the user's code in a traceback, if there is any."""
    codes = methods_by_code(model)
    found: tuple[str, FrameType, int] | None = None
    while traceback is not None:
        frame = traceback.tb_frame
        method = codes.get(frame.f_code)
        if method is not None:
            found = (method, frame, traceback.tb_lineno)
        elif found is not None and not in_library(frame, found[1]):
            found = (found[0], frame, traceback.tb_lineno)
        traceback = traceback.tb_next
    return found


def methods_by_code(model: Model) -> dict[CodeType, str]:
    """Return the code of every method that a user wrote for a model, to the method's name."""
    found: dict[CodeType, str] = {}
    for kind in type(model).__mro__:
        if kind is Model:
            break
        for method in SIGNATURES:
            code = getattr(inspect.unwrap(kind.__dict__[method]), "__code__", None) if method in kind.__dict__ else None
            if code is not None:
                found[code] = method
    return found


def _placed(where: str, message: str) -> ModelError:
    error = ModelError(where + message)
    error.placed = True
    return error


def _where(model: Model, method: str, frame: FrameType, line: int) -> str:
    return place(type(model).__name__, method, frame.f_code.co_filename, line)


def in_library(frame: FrameType, method: FrameType) -> bool:
    """Whether a frame is of this package, of Python or of what was installed, the method's own package apart."""
    package = package_of(frame)
    if package == "nlme_torch":
        return True
    return package != package_of(method) and frame.f_code.co_filename.startswith((*_INSTALLED, "<@"))


def package_of(frame: FrameType) -> str:
    """Return the name of the package to which the code of a frame belongs."""
    return str(frame.f_globals.get("__name__", "")).split(".")[0]


def _plain_attribute(model: Model, frame: FrameType) -> str:
    """What to say where p lacks what the model itself has as a plain Python attribute."""
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    plain = [
        name
        for name, value in vars(model).items()
        if not name.startswith("_") and isinstance(value, int | float) and re.search(rf"\bp\.{name}\b", line)
    ]
    if not plain:
        return ""
    return f" self.{plain[0]} is a plain number: declare it in __init__ as nlme.Fixed(...), or write self.{plain[0]}."
