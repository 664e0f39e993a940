"""Annotations checked at some calls instead of all: a check takes longer than most of the functions that it looks at.

The import hook of jaxtyping decorates every function of the package, those inside functions again at each call of the
outer one. In place of its decorator stands this one, which checks the calls 1, 2, 4, 8, ... of a function in each test,
so that none goes unchecked and late calls are seen too. Of functions inside functions it counts how often they are
made, in all tests. A function is made ready for checks when it is first checked, so that importing the package stays
fast.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from types import CodeType
from typing import Any

import jaxtyping

AT_EVERY_CALL = jaxtyping.jaxtyped
_made: dict[CodeType, int] = {}
_test = 0


def begin_test() -> None:
    """Count the calls of every function from one again, but not how often inner ones are made."""
    global _test
    _test += 1


def checked(target: Any = None, *, typechecker: Any) -> Any:
    """Check the arguments and the result of a function, or the arguments that make a dataclass, at some calls."""
    if target is None:
        return functools.partial(checked, typechecker=typechecker)
    if inspect.isfunction(target):
        return _checked_function(target, typechecker)
    if inspect.isclass(target):
        if dataclasses.is_dataclass(target) and "__init__" in vars(target):
            target.__init__ = _checked_function(target.__init__, typechecker)
        return target
    return AT_EVERY_CALL(target, typechecker=typechecker)


def _checked_function(function: Callable[..., Any], typechecker: Any) -> Callable[..., Any]:
    if hasattr(function, "looks_at_calls"):
        return function
    if "<locals>" in function.__qualname__:
        made = _made[function.__code__] = _made.get(function.__code__, 0) + 1
        if made & (made - 1):
            return function
    every: Callable[..., Any] | None = None
    test, calls, checks_at = 0, 0, 1

    @functools.wraps(function)
    def at_some_calls(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        nonlocal every, test, calls, checks_at
        if test != _test:
            test, calls, checks_at = _test, 0, 1
        calls += 1
        if calls < checks_at:
            return function(*args, **kwargs)
        checks_at *= 2
        every = every or AT_EVERY_CALL(function, typechecker=typechecker)
        return every(*args, **kwargs)

    # a frame that the package's own look at user code passes by, as it does those of jaxtyping's decorator
    at_some_calls.__code__ = at_some_calls.__code__.replace(co_filename="<@checked calls>")
    at_some_calls.looks_at_calls = True  # type: ignore[attr-defined]
    return at_some_calls
