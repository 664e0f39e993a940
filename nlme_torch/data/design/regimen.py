"""Dosing regimens for simulation: doses written down once and added up."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import pandas as pd

from nlme_torch.data.events.events import Event
from nlme_torch.errors import DataError

Number: TypeAlias = float | int
Modelled: TypeAlias = Literal["modelled"]


@dataclass(frozen=True)
class Dose:
    """One dose and its repeats: one dosing row of a NONMEM table.

    Attributes:
        amount: in the user's unit of mass.
        time: of the first dose.
        compartment: a state's name or its number from 1.
        every: interval between repeats; 0 without.
        additional: number of repeats.
        rate: of an infusion, mass per time, or ``"modelled"``; 0 for a bolus.
        duration: of an infusion, time, or ``"modelled"``; 0 for a bolus.
        steady_state: 0 none, 1 replaces the state, 2 adds to it.
    """

    amount: Number
    time: Number
    compartment: int | str
    every: Number
    additional: int
    rate: Number | Modelled
    duration: Number | Modelled
    steady_state: int


class Regimen:
    """Doses to be given; regimens are added with ``+``.

    A dose is a bolus unless ``rate`` or ``duration`` is given; ``"modelled"`` leaves it to the model's
    ``dosing``.

    Args:
        amount: of every dose, in the user's unit of mass.
        time: of the first dose, in the user's unit of time.
        compartment: a state's name or its number from 1.
        every: interval between doses.
        additional: number of doses after the first; needs ``every``.
        rate: rate of an infusion, mass per time; with ``amount`` 0 and ``steady_state`` an infusion that has
            gone on for ever and ends at ``time``.
        duration: duration of an infusion.
        steady_state: True (or 1) if the first dose finds the steady state of doses given ``every`` so often;
            2 to add that steady state to what is there.

    Raises:
        DataError: if the doses cannot be meant.

    Example:
        >>> import nlme_torch.data as data
        >>> loading = data.Regimen(300.0, compartment="depot")
        >>> maintenance = data.Regimen(100.0, time=12.0, compartment="depot", every=12.0, additional=5)
        >>> loading + maintenance
        Regimen(300 into depot at 0, 100 into depot at 12 and 5 more every 12)
    """

    __slots__ = ("doses",)

    doses: tuple[Dose, ...]

    def __init__(
        self,
        amount: Number,
        time: Number = 0.0,
        compartment: int | str = 1,
        *,
        every: Number = 0.0,
        additional: int = 0,
        rate: Number | Modelled = 0.0,
        duration: Number | Modelled = 0.0,
        steady_state: bool | int = False,
    ) -> None:
        dose = Dose(amount, time, compartment, every, additional, rate, duration, int(steady_state))
        _check(dose)
        object.__setattr__(self, "doses", (dose,))

    def __add__(self, other: "Regimen") -> "Regimen":
        if not isinstance(other, Regimen):
            return NotImplemented
        return _regimen((*self.doses, *other.doses))

    def delayed(self, by: Number) -> "Regimen":
        """The same doses, all of them later by a time."""
        if not _is_number(by):
            raise DataError(f"Regimen.delayed: {by!r:.60} is no time.")
        return _regimen(tuple(replace(dose, time=dose.time + by) for dose in self.doses))

    def scaled(self, factor: Number) -> "Regimen":
        """The same doses with amounts and rates times a factor, e.g. a body weight for doses per kg."""
        if not _is_number(factor) or not factor >= 0:
            raise DataError(f"Regimen.scaled: {factor!r:.60} is no factor for a dose.")
        return _regimen(
            tuple(
                replace(d, amount=d.amount * factor, rate=d.rate if isinstance(d.rate, str) else d.rate * factor)
                for d in self.doses
            )
        )

    def to_frame(self) -> pd.DataFrame:
        """The doses as NONMEM rows in order of time: TIME, AMT, EVID, CMT, RATE, DUR, II, ADDL, SS."""
        return pd.DataFrame(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """The rows of :meth:`to_frame` as dictionaries."""
        return [
            {
                "TIME": float(dose.time),
                "AMT": float(dose.amount),
                "EVID": int(Event.DOSE),
                "CMT": dose.compartment,
                "RATE": _rate_code(dose),
                "DUR": 0.0 if isinstance(dose.duration, str) else float(dose.duration),
                "II": float(dose.every),
                "ADDL": dose.additional,
                "SS": dose.steady_state,
            }
            for dose in sorted(self.doses, key=lambda dose: dose.time)
        ]

    def __iter__(self) -> Iterator[Dose]:
        return iter(self.doses)

    def __len__(self) -> int:
        return len(self.doses)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Regimen) and self.doses == other.doses

    def __hash__(self) -> int:
        return hash(self.doses)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("A Regimen does not change: make a new one, or add one to it.")

    def __reduce__(self) -> tuple[object, ...]:
        return _regimen, (self.doses,)

    def __repr__(self) -> str:
        return f"Regimen({', '.join(map(_describe, self.doses))})"


def _regimen(doses: tuple[Dose, ...]) -> Regimen:
    made = object.__new__(Regimen)
    object.__setattr__(made, "doses", doses)
    return made


def _rate_code(dose: Dose) -> float:
    """RATE of the dose: -1 for a modelled rate, -2 for a modelled duration."""
    if isinstance(dose.duration, str):
        return -2.0
    return -1.0 if isinstance(dose.rate, str) else float(dose.rate)


def _check(dose: Dose) -> None:
    """What the constructor can tell without a table; the rest is checked where the regimen is used."""
    for name in ("amount", "time", "every", "additional", "rate", "duration"):
        value = getattr(dose, name)
        if isinstance(value, str):
            if name not in ("rate", "duration") or value != "modelled":
                raise DataError(f"Regimen: {name}={value!r} is not a number.")
        elif not _is_number(value) or (name != "time" and value < 0):
            raise DataError(f"Regimen: {name}={value!r} must be a finite number, not negative.")
    if dose.rate and dose.duration:
        raise DataError(f"Regimen: give rate={dose.rate!r} or duration={dose.duration!r}, not both.")
    if dose.additional != int(dose.additional):
        raise DataError(f"Regimen: additional={dose.additional!r} must be a whole number.")
    if dose.additional and not dose.every:
        raise DataError(f"Regimen: additional={dose.additional} needs the interval every=.")
    if dose.steady_state not in (0, 1, 2):
        raise DataError(f"Regimen: steady_state={dose.steady_state!r} must be False, True or 2.")
    endless = dose.amount == 0 and bool(dose.rate)
    if dose.steady_state and not dose.every and not endless:
        raise DataError("Regimen: steady_state needs the interval every= of the doses that led to it.")
    if endless and (not dose.steady_state or dose.every):
        raise DataError("Regimen: a rate with amount 0 is an infusion without end: steady_state=True, without every=.")


def _is_number(value: object) -> bool:
    """Whether it is one finite number, of Python, NumPy or PyTorch."""
    try:
        return math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False


def _describe(dose: Dose) -> str:
    text = f"{dose.amount:g} into {dose.compartment} at {dose.time:g}"
    if dose.rate:
        text += f", rate {dose.rate}"
    if dose.duration:
        text += f", duration {dose.duration}"
    if dose.additional:
        text += f" and {dose.additional} more every {dose.every:g}"
    if dose.steady_state:
        text += f", steady state {dose.steady_state}" + (f" of every {dose.every:g}" if dose.every else "")
    return text
