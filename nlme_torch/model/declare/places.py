"""Where something stands in the user's code: file, line, and the line itself."""

import ast
import inspect
import linecache
import os
import textwrap


def place(owner: str, method: str, path: str, line: int) -> str:
    """Return a place in the code of a model as the first lines of a message.

    Args:
        owner: Name of the model's class.
        method: Name of the method.
        path: The file.
        line: Number of the line.
    """
    source = linecache.getline(path, line).strip()
    shown = path
    if "ipykernel" in path or path.startswith("<"):  # a cell of a notebook, or what was typed at a prompt
        shown = "the code entered"
    elif os.path.abspath(path).startswith(os.path.abspath(os.curdir) + os.sep):
        shown = os.path.relpath(path)
    return f"{owner}.{method}, line {line} of {shown}:\n" + (f"    {source}\n" if source else "")


def place_of_definition(kind: type, method: str) -> str:
    """Return the place of a method's first line, ``def ...`` without its decorators."""
    code = getattr(inspect.unwrap(getattr(kind, method)), "__code__", None)
    if code is None:
        return f"{kind.__name__}.{method}: "
    return place(kind.__name__, method, code.co_filename, code.co_firstlineno)


def place_of_return(kind: type, method: str) -> str:
    """Return the place of a method's ``return``, or of the method where it has none or several."""
    function = inspect.unwrap(getattr(kind, method))
    try:
        lines, first = inspect.getsourcelines(function)
        returns = _returns(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError, TypeError):  # without a file, or a lambda in the middle of a line
        returns = []
    if len(returns) != 1:
        return place_of_definition(kind, method)
    return place(kind.__name__, method, function.__code__.co_filename, first + returns[0] - 1)


def _returns(source: str) -> list[int]:
    """Lines of the ``return`` statements of a function, without those of functions inside it."""
    (function,) = ast.parse(source).body[:1]
    found: list[int] = []
    left: list[ast.AST] = list(getattr(function, "body", []))
    while left:
        node = left.pop()
        if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(node, ast.Return):
            found.append(node.lineno)
        left += ast.iter_child_nodes(node)
    return found
