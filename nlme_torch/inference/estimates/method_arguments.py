"""What the public functions are handed as a method, looked at before anything is done with it."""

from typing import Any

from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.fitted import Fitted

APPROXIMATIONS = ("FO", "FOCE", "FOCEI", "Laplace", "Quadrature")

PURPOSES = {
    "estimate": ("estimation method", (*APPROXIMATIONS, "SAEM", "Pooled")),
    "approximation": ("approximation of the likelihood", (*APPROXIMATIONS, "Pooled")),
    "information": ("method for standard errors", ("StochasticInformation",)),
    "log_marginal": (
        "method for a likelihood",
        ("ImportanceSampling", "AnnealedImportanceSampling", "LaplaceLikelihood", "QuadratureLikelihood"),
    ),
}
"""What a method is asked for: what one that can do it is called, and which may be meant by their name."""


def check_fit(place: str, fit: Any) -> None:
    """Refuse what is no fit, such as a model.

    Args:
        place: The public function.
        fit: What stands for the fit.

    Raises:
        FitError: It is none.
    """
    if not isinstance(fit, Fitted):
        raise FitError(
            f"{place}: a fit is needed and a {type(fit).__name__} was given; write what nlme.fit(model, data) or "
            "nlme.load(path, model, data) returned."
        )


def check_method(place: str, method: Any, operations: tuple[str, ...], example: str) -> None:
    """Refuse what is no method for a purpose, such as its name or its class.

    Args:
        place: The public function, and its argument where that is not ``method``.
        method: What stands for the method, or None.
        operations: What it is asked for, any of :data:`PURPOSES`; the first gives the message its words.
        example: A method that would do.

    Raises:
        FitError: It is none.

    Example:
        >>> check_method("fit", "saem", ("estimate",), "nlme.FOCEI()")
        Traceback (most recent call last):
        ...
        nlme_torch.errors.FitError: fit: 'saem' is no estimation method; write one with its settings: nlme.SAEM().
    """
    if method is None:
        return
    if not isinstance(method, type | str) and any(hasattr(method, operation) for operation in operations):
        return
    text = method if isinstance(method, str) else getattr(method, "__name__", "")
    named = [name for operation in operations for name in PURPOSES[operation][1]]
    meant = [f"nlme.{name}()" for name in named if name.casefold() == text.casefold().removesuffix("()")]
    raise FitError(
        f"{place}: {method!r} is no {PURPOSES[operations[0]][0]}; write one with its settings: {[*meant, example][0]}."
    )
