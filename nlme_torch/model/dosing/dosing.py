"""How doses enter the states of one subject: what ``Model.dosing`` returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from nlme_torch.errors import ModelError


@dataclass(frozen=True)
class Dosing:
    r"""How doses enter one state; each entry may depend on individual parameters and covariates.

    .. math:: \text{amount} = F \cdot AMT, \quad \text{from } t + \text{lag}

    Where the table gives RATE, an infusion lasts F AMT / RATE; where it gives a duration D, its rate is F AMT / D.

    Attributes:
        lag: Time from the dose's row to the moment when it acts [time], not negative; None means 0. Of a steady-state
            dose, a lag of II or more leaves the row with the state just after a dose, as in NONMEM.
        bioavailability: Fraction F of the amount that enters, not negative; None means 1.
        rate: Rate of infusions whose row says RATE -1 [amount / time], positive.
        duration: Duration of infusions whose row says RATE -2 [time], positive.

    Example:
        >>> import nlme_torch as nlme
        >>> class Tablet(nlme.Model):
        ...     states = ("depot", "central")
        ...     def dosing(self, p):
        ...         return {"depot": nlme.Dosing(lag=p.tlag, bioavailability=p.f)}
    """

    lag: Tensor | float | None = None
    bioavailability: Tensor | float | None = None
    rate: Tensor | float | None = None
    duration: Tensor | float | None = None


NAMES = tuple(entry.name for entry in fields(Dosing))


def check_dosing(dosing: Any, states: Sequence[str]) -> None:
    """Raise a ModelError unless this is what ``Model.dosing`` may return: a dict of state name to ``Dosing``."""
    if not isinstance(dosing, Mapping):
        raise ModelError(
            f"dosing must return a dict of state name to nlme.Dosing, got {type(dosing).__name__}.", method="dosing"
        )
    for state, entry in dosing.items():
        if state not in states:
            known = f"the states are {', '.join(states)}"
            raise ModelError(f"dosing names {state!r}, which is no state; {known}.", method="dosing")
        if not isinstance(entry, Dosing):
            kind = type(entry).__name__
            raise ModelError(f"dosing must give nlme.Dosing(...) for {state!r}, not a {kind}.", method="dosing")
        for name in NAMES:
            if not isinstance(getattr(entry, name), Tensor | Real | None):
                kind = type(getattr(entry, name)).__name__
                raise ModelError(f"dosing gives a {kind} as {name} of {state!r}; give a number of one subject.")


def dosing_value(dosing: Mapping[str, Dosing], state: str, name: str, like: Tensor) -> Tensor:
    """One entry of ``dosing``, ``(record or 1, chain, start, subject)``, each axis possibly of length 1.

    Args:
        dosing: What the model's ``dosing`` returned.
        state: Name of the state.
        name: ``"lag"``, ``"bioavailability"``, ``"rate"`` or ``"duration"``; it must be given.
        like: ``(record, 1, 1, subject)``.

    Raises:
        ModelError: If it is not one number for each subject.
    """
    given = getattr(dosing[state], name)
    value = given if isinstance(given, Tensor) else torch.as_tensor(float(given), dtype=like.dtype, device=like.device)
    value = value.to(like.dtype).reshape((1,) * (4 - value.dim()) + value.shape) if value.dim() <= 4 else value
    fits = value.dim() == 4 and value.shape[0] in (1, like.shape[0]) and value.shape[-1] in (1, like.shape[-1])
    if not fits:
        raise ModelError(
            f"dosing gives {name} of {state!r} in shape {tuple(value.shape)}, which is not one number per subject; "
            "write plain arithmetic on scalars."
        )
    return value
