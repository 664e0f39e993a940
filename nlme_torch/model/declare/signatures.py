"""The methods that users write, and how each of them is called."""

import inspect
from typing import Any

from nlme_torch.errors import ModelError
from nlme_torch.model.declare.places import place_of_definition

SIGNATURES = {
    "individual": ("p", "cov"),
    "dosing": ("p",),
    "initial": ("p",),
    "dynamics": ("t", "y", "p"),
    "compartments": ("p",),
    "predict": ("t", "p", "cov"),
    "observe": ("t", "y", "p"),
}
MEANINGS = {
    "t": "the time",
    "y": "the states, or what predict returned",
    "p": "the parameters",
    "cov": "the covariates",
}


def as_written(method: str) -> str:
    """Return the line that begins a method.

    Example:
        >>> as_written("predict")
        'def predict(self, t, p, cov):'
    """
    return f"def {method}(self, {', '.join(SIGNATURES[method])}):"


def check_signature(model: Any, base: type, method: str) -> None:
    """Refuse a method that cannot be called as the library calls it, or that names one argument as another.

    Args:
        model: The model.
        base: The class whose own methods need no look.
        method: Name of the method.

    Raises:
        ModelError: It takes another number of arguments, or ``t``, ``y``, ``p`` or ``cov`` in another's place.
    """
    if getattr(type(model), method) is getattr(base, method):
        return
    wanted, owner, where = SIGNATURES[method], type(model).__name__, place_of_definition(type(model), method)
    signature = inspect.signature(getattr(model, method))
    instead = f"write {as_written(method)}"
    try:
        signature.bind(*(None,) * len(wanted))
    except TypeError:
        count = len(wanted)
        raise ModelError(
            f"{where}{owner}.{method} must take {count} argument{'s' if count > 1 else ''} beside self, not "
            f"{signature}; {instead}"
        ) from None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    given = [name for name, parameter in signature.parameters.items() if parameter.kind in kinds]
    for place, name in enumerate(given[: len(wanted)]):
        if name in MEANINGS and name != wanted[place] and not (name == "y" and "y" not in wanted):
            raise ModelError(
                f"{where}{name!r} stands where {owner}.{method} is given {MEANINGS[wanted[place]]}; {instead}"
            )
