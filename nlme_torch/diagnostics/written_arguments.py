"""The arguments of a call as they are written in the source."""

import ast
import linecache
import re
from types import FrameType


def written_arguments(frame: FrameType) -> list[str] | None:
    """Return the text of every argument of the call that a frame is in; None where the source is not known.

    ``p.net(y.central / p.v, p.z)`` has the arguments ``central / v`` and ``z``.

    Args:
        frame: The caller's frame.
    """
    positions = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    first, last, start, end = positions
    if first is None or last is None or start is None or end is None:
        return None
    lines = [linecache.getline(frame.f_code.co_filename, number).encode() for number in range(first, last + 1)]
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][start:]
    try:
        call = ast.parse(f"({b''.join(lines).decode()})", mode="eval").body
    except (SyntaxError, UnicodeDecodeError):
        return None
    if not isinstance(call, ast.Call) or any(isinstance(argument, ast.Starred) for argument in call.args):
        return None
    return [re.sub(r"\b(?:p|y|cov|self)\.", "", ast.unparse(argument)) for argument in call.args]
