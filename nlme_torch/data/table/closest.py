"""The name that was probably meant."""

import difflib
from collections.abc import Iterable


def closest(name: str, names: Iterable[str]) -> str | None:
    """Return the known name that was probably meant, without regard to case, or None.

    Example:
        >>> closest("CLR", ["cl", "v"])
        'cl'
    """
    lower = {known.lower(): known for known in names}
    found = difflib.get_close_matches(name.lower(), lower, n=1)
    return lower[found[0]] if found else None
