"""The public API is the list in tests/reference/public_api.txt; ``python tests/test_public_api.py`` writes it anew."""

import difflib
import enum
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIST = Path(__file__).parent / "reference" / "public_api.txt"
MODULES = (
    "nlme_torch",
    "nlme_torch.compartments",
    "nlme_torch.data",
    "nlme_torch.diagnostics",
    "nlme_torch.examples",
    "nlme_torch.model",
    "nlme_torch.model.observation",
    "nlme_torch.omega",
    "nlme_torch.plots",
    "nlme_torch.solve",
)


def exported(module: Any) -> list[str]:
    """The names that a module gives to the world: its ``__all__``, or what it re-exports under their own names."""
    names = getattr(module, "__all__", None)
    if names is None:
        own = {name for name, value in vars(module).items() if inspect.ismodule(value)}
        names = [name for name in vars(module) if not name.startswith("_") and name not in own | {"TYPE_CHECKING"}]
    return sorted(names)


def parameters(function: Any) -> str:
    """Parameters with their defaults, without types: ``(model, data, method=None, *, seed=0)``."""
    signature = inspect.signature(function)
    plain = [
        parameter.replace(
            annotation=inspect.Parameter.empty,
            default="..." if parameter.default is not inspect.Parameter.empty else inspect.Parameter.empty,
        )
        for parameter in signature.parameters.values()
        if parameter.name not in ("self", "cls")
    ]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty)).replace("='...'", "=...")


def members(kind: type) -> Iterator[str]:
    """Attributes and methods that a class of this package has of its own or by inheritance within the package."""
    if issubclass(kind, enum.Enum):
        yield from (f".{member.name}" for member in kind)
        return
    names: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("nlme_torch"):
            names |= {name: value for name, value in vars(base).items() if not name.startswith("_")}
            names |= {name: None for name in inspect.get_annotations(base) if not name.startswith("_")}
    for name, value in sorted(names.items()):
        bound = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        yield f".{name}" + (parameters(bound) if inspect.isfunction(bound) else "")


def public_api() -> list[str]:
    """One line for each name, and for each member of each class, in the module where it is defined for users."""
    lines = []
    for path in MODULES:
        module = importlib.import_module(path)
        shown = path.replace("nlme_torch.model.observation", "nlme_torch.observation")
        for name in exported(module):
            value = getattr(module, name)
            if inspect.ismodule(value):
                lines.append(f"{shown}.{name}")
            elif path != "nlme_torch" and getattr(importlib.import_module("nlme_torch"), name, None) is value:
                lines.append(f"{shown}.{name} is nlme_torch.{name}")
            elif isinstance(value, type):
                own = "" if issubclass(value, enum.Enum | Exception) else parameters(value)
                lines.append(f"{shown}.{name}{own}")
                lines += [f"{shown}.{name}{member}" for member in members(value)]
            else:
                lines.append(f"{shown}.{name}{parameters(value) if callable(value) else ''}")
    return lines


def test_the_public_api_is_the_committed_list():
    difference = list(difflib.unified_diff(LIST.read_text().splitlines(), public_api(), "committed", "found", n=0))
    assert not difference, "\n".join(["if this is meant: python tests/test_public_api.py", *difference])


if __name__ == "__main__":
    LIST.write_text("\n".join(public_api()) + "\n")
