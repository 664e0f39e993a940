"""Dosing events record by record: what the table says, before any model gives it a meaning."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from nlme_torch._typing import Bool, Float, Int
from nlme_torch.data.table.row_names import RowNames
from nlme_torch.errors import DataError


class DoseKind(IntEnum):
    """How a dose enters its compartment. With bioavailability F the amount that enters is F·AMT.

    The infusion's length follows from whichever of rate and duration the table fixes, as in NONMEM.
    """

    NONE = 0
    """No dose at this record."""
    BOLUS = 1
    """At once: RATE 0, missing or absent, and no DUR."""
    RATE = 2
    """Infusion at the rate given (RATE > 0) over the time F·AMT / RATE."""
    DURATION = 3
    """Infusion over the time given (DUR > 0) at the rate F·AMT / DUR."""
    MODELLED_RATE = 4
    """RATE -1: infusion at the rate that the model's ``dosing`` gives."""
    MODELLED_DURATION = 5
    """RATE -2: infusion over the duration that the model's ``dosing`` gives."""


@dataclass(frozen=True)
class Doses:
    """The dosing events of a batch, one entry for every record.

    **Expanded here**, because it depends on the table alone: every repeat of an ADDL dose is a record of its
    own at TIME + k·II, before the rows of the table that stand at the same time. A reset and a dose with
    SS=1 cancel the repeats due after them; repeats after the subject's last record are left out, because
    nothing can see them (lengthen the table with :meth:`Dataset.with_times` to look further).

    **Left to the model and the solver**, because it depends on parameters:

    * the lag time of the compartment: a dose acts at ``times`` + lag, which is no record unless the lag is 0
      (a dose that still lags at a reset, or at a dose with SS=1, is lost with the state);
    * bioavailability F: what enters is F·``amount``;
    * the end of an infusion, which is no record either: after F·amount / rate where ``kind`` is RATE, after
      ``duration`` (at the rate F·amount / duration) where it is DURATION, and by the model's rate or duration
      where it is MODELLED_RATE or MODELLED_DURATION; a reset and a dose with SS=1 end what still runs;
    * steady state: the state that doses like this one, repeated every ``interval`` since ever, have led to just
      before this dose; then the dose itself. Infusions may outlast the interval: those given before go on. A lag
      time is that of all these doses: the last one acted at TIME + lag - II (with a lag of II or more the record has
      the state just after a dose, as in NONMEM). Where ``interval`` is 0 it is the state under a constant infusion at
      ``rate``, which ends at this record, as in NONMEM.

    **At one record** the order is: reset, steady state, dose; an observation at the same time sees the dose
    if and only if its row comes later in the file.

    Attributes:
        amount: ``(record, subject)``, AMT in the user's unit of mass; 0 where there is no dose.
        kind: ``(record, subject)``, a :class:`DoseKind`.
        rate: ``(record, subject)``, mass per time where ``kind`` is RATE, else 0.
        duration: ``(record, subject)``, time where ``kind`` is DURATION, else 0.
        compartment: ``(record, subject)``, index into ``compartments``; -1 where there is no dose.
        compartments: the compartments as the table names them: a state's name or its 1-based number.
        steady_state: ``(record, subject)``, 0 none; 1 the state is replaced by the steady state of this dose;
            2 it is added to the state.
        interval: ``(record, subject)``, II in time units where ``steady_state`` is not 0 (0 there means a
            constant infusion that ends here), else 0.
        reset: ``(record, subject)``, True where all states return to their initial value and every infusion
            stops before the record's dose, if any, is given (EVID 3 and 4).
        source: ``(record, subject)``, 0-based row of the table from which the event stems (for an ADDL repeat
            the row of its first dose); -1 where there is no event.
    """

    amount: Float[Tensor, "record subject"]
    kind: Int[Tensor, "record subject"]
    rate: Float[Tensor, "record subject"]
    duration: Float[Tensor, "record subject"]
    compartment: Int[Tensor, "record subject"]
    compartments: tuple[int | str, ...]
    steady_state: Int[Tensor, "record subject"]
    interval: Float[Tensor, "record subject"]
    reset: Bool[Tensor, "record subject"]
    source: Int[Tensor, "record subject"]

    @property
    def mask(self) -> Bool[Tensor, "record subject"]:
        """``(record, subject)``, True where a dose is given."""
        return self.kind != DoseKind.NONE

    def state_index(self, states: Sequence[str], names: RowNames | None = None) -> Int[Tensor, "record subject"]:
        """The state that each dose enters.

        A name is matched exactly, failing that without regard to case; a number counts from 1.

        Args:
            states: the model's state names, in order.
            names: what the rows of the table are called; None counts them from 0.

        Returns:
            ``(record, subject)``, 0-based state index; -1 where there is no dose.

        Raises:
            DataError: if a dose enters a compartment that is not among ``states``; names the first such row.
        """
        indices = [find_state(compartment, states) for compartment in self.compartments]
        for position, (compartment, index) in enumerate(zip(self.compartments, indices, strict=True)):
            here = self.compartment == position
            if index is None and bool(here.any()):
                row = (names or RowNames()).name(int(self.source[here].min()))
                raise DataError(
                    f"The table, {row}: a dose enters compartment {compartment!r}, but the model's states are "
                    f"{', '.join(f'{i + 1} = {name}' for i, name in enumerate(states))}. Mend the CMT "
                    "column or rename the state."
                )
        lookup = torch.tensor([-1 if i is None else i for i in indices] + [-1], device=self.compartment.device)
        return lookup[self.compartment]

    def without(self, where: Bool[Tensor, "record subject"]) -> "Doses":
        """The same doses with no event on some records."""
        nothing = {"kind": int(DoseKind.NONE), "compartment": -1, "source": -1}

        def clear(name: str) -> Tensor:
            tensor: Tensor = getattr(self, name)
            return torch.where(where, torch.full_like(tensor, nothing.get(name, 0)), tensor)

        names = [name for name in self.__dataclass_fields__ if name != "compartments"]
        changed: dict[str, Any] = {name: clear(name) for name in names}
        return replace(self, **changed)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Doses":
        """The same doses with ``function`` applied to every tensor (to move, select or repeat records)."""
        names = [name for name in self.__dataclass_fields__ if name != "compartments"]
        changed: dict[str, Any] = {name: function(getattr(self, name)) for name in names}
        return replace(self, **changed)


def find_state(compartment: int | str, states: Sequence[str]) -> int | None:
    """0-based position of a compartment among the states, or None."""
    if isinstance(compartment, int):
        return compartment - 1 if 1 <= compartment <= len(states) else None
    if compartment in states:
        return list(states).index(compartment)
    folded = [name.casefold() for name in states]
    return folded.index(compartment.casefold()) if folded.count(compartment.casefold()) == 1 else None
