"""Which doses act where: all that does not depend on parameters, found once for a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nlme_torch._typing import Bool, Float, Int
from nlme_torch.data.dosing.doses import DoseKind, Doses
from nlme_torch.data.records.batch import Batch
from nlme_torch.data.table.row_names import RowNames
from nlme_torch.errors import DataError
from nlme_torch.model.dosing.dosing import Dosing

INFUSIONS = (DoseKind.RATE, DoseKind.DURATION, DoseKind.MODELLED_RATE, DoseKind.MODELLED_DURATION)


@dataclass(frozen=True)
class Extras:
    """Records that no row of the table stands for: lagged doses, and the beginnings and ends of infusions.

    Attributes:
        origin: ``(extra, subject)``, record of the dose.
        bolus: ``(extra, 1, 1, subject)``, True where the dose's amount enters at once.
        sign: ``(extra, 1, 1, subject)``, 1 where the infusion's rate begins, -1 where it ends, else 0.
        ends: ``(extra, 1, 1, subject)``, True where the dose's duration has passed.
        tail: ``(extra, 1, 1, subject)``, True where what ends is an infusion given before a steady-state dose.
        limit: ``(extra, 1, 1, subject)`` [time], the next reset, or the subject's last record: nothing acts later.
    """

    origin: Int[Tensor, "extra subject"]
    bolus: Bool[Tensor, "extra 1 1 subject"]
    sign: Float[Tensor, "extra 1 1 subject"]
    ends: Bool[Tensor, "extra 1 1 subject"]
    tail: Bool[Tensor, "extra 1 1 subject"]
    limit: Float[Tensor, "extra 1 1 subject"]


@dataclass(frozen=True)
class SteadyDoses:
    """At most one steady-state dose of each of some subjects.

    Attributes:
        columns: ``(column,)``, the subjects.
        records: ``(column,)``, the record of each one's dose.
        replaces: ``(column,)``, True where the steady state replaces the state, False where it is added.
        constant: Whether these are constant infusions rather than repeated doses.
    """

    columns: Int[Tensor, "column"]
    records: Int[Tensor, "column"]
    replaces: Bool[Tensor, "column"]
    constant: bool


@dataclass(frozen=True)
class DosePlan:
    """The dosing of a batch for a model's states; every tensor is ``(record, 1, 1, subject)`` unless it says otherwise.

    Attributes:
        states: Names of the states.
        times: Record times [time].
        enters: ``(record, state, 1, 1, subject)``, 1 where a dose enters a state, else 0.
        amount: AMT [mass].
        kind: A :class:`DoseKind`.
        rate: RATE of the row [mass / time].
        duration: DUR of the row [time].
        interval: II of steady-state doses [time].
        resets: True where the state starts again, by a reset or by a steady state that replaces it; None without any.
        restarts: True where the state starts again from its initial value (EVID 3 and 4); None without any resets.
        bolus: True where an amount enters at the record itself.
        infusion: True where an infusion begins at the record itself.
        later: True where an amount enters after a lag.
        tail: True where infusions of the cycles before a steady-state dose may still run.
        extras: Further records, or None where there are none.
        steady: Steady-state doses, or an empty tuple.
        kinds: The kinds of dose that occur.
        used: Names of the states that receive doses.
    """

    states: tuple[str, ...]
    times: Float[Tensor, "record 1 1 subject"]
    enters: Float[Tensor, "record state 1 1 subject"]
    amount: Float[Tensor, "record 1 1 subject"]
    kind: Int[Tensor, "record 1 1 subject"]
    rate: Float[Tensor, "record 1 1 subject"]
    duration: Float[Tensor, "record 1 1 subject"]
    interval: Float[Tensor, "record 1 1 subject"]
    resets: Bool[Tensor, "record 1 1 subject"] | None
    restarts: Bool[Tensor, "record 1 1 subject"] | None
    bolus: Bool[Tensor, "record 1 1 subject"]
    infusion: Bool[Tensor, "record 1 1 subject"]
    later: Bool[Tensor, "record 1 1 subject"]
    tail: Bool[Tensor, "record 1 1 subject"]
    extras: Extras | None
    steady: tuple[SteadyDoses, ...]
    kinds: frozenset[int]
    used: tuple[str, ...]


def dose_plan(batch: Batch, states: Sequence[str], dosing: Mapping[str, Dosing]) -> DosePlan | None:
    """Find what doses do, as far as the table decides it.

    Args:
        batch: The data.
        states: The model's states.
        dosing: What the model's ``dosing`` returns, to see which entries are there.

    Returns:
        The plan; None where the table has no dosing events.

    Raises:
        DataError: If a dose enters no state, or its rate or duration is to be modelled and is not; names the row.
    """
    doses = batch.doses
    if doses is None:
        return None
    state = doses.state_index(states, batch.row_names)
    _check_modelled(batch.row_names, doses, state, states, dosing)
    _check_steady(batch.row_names, doses)
    numbers = torch.arange(len(states), device=state.device)
    lags = torch.tensor([name in dosing and dosing[name].lag is not None for name in states], device=state.device)
    lagged = lags[state] & doses.mask
    endless = (doses.steady_state > 0) & (doses.interval == 0)
    infusion = torch.isin(doses.kind, torch.tensor(INFUSIONS, device=state.device)) & ~endless
    bolus = (doses.kind == DoseKind.BOLUS) & ~endless
    tail = infusion & (doses.steady_state > 0)
    resets = doses.reset | (doses.steady_state == 1)

    def wide(value: Tensor) -> Tensor:
        return value[:, None, None, :]

    enters = (state[:, None] == numbers[:, None]) & doses.mask[:, None]
    return DosePlan(
        states=tuple(states),
        times=wide(batch.times),
        enters=enters[:, :, None, None, :].to(batch.dtype),
        amount=wide(doses.amount),
        kind=wide(doses.kind),
        rate=wide(doses.rate),
        duration=wide(doses.duration),
        interval=wide(doses.interval),
        resets=wide(resets) if bool(resets.any()) else None,
        restarts=wide(doses.reset & (doses.steady_state != 1)) if bool(resets.any()) else None,
        bolus=wide(bolus & ~lagged),
        infusion=wide(infusion & ~lagged),
        later=wide(bolus & lagged),
        tail=wide(tail),
        extras=_extras(batch, bolus & lagged, infusion & lagged, infusion, tail, resets),
        steady=(*_steady(doses, endless, True), *_steady(doses, endless, False)),
        kinds=frozenset(doses.kind.unique().tolist()),
        used=tuple(name for index, name in enumerate(states) if bool((state == index).any())),
    )


def _first(names: RowNames, rows: Tensor) -> str:
    """The first of some rows, as a sentence begins."""
    return f"The table, {names.name(int(rows.min()))} ({names.said})"


def _check_modelled(
    names: RowNames, doses: Doses, state: Tensor, states: Sequence[str], dosing: Mapping[str, Dosing]
) -> None:
    for kind, code, name in ((DoseKind.MODELLED_RATE, -1, "rate"), (DoseKind.MODELLED_DURATION, -2, "duration")):
        for index, state_name in enumerate(states):
            here = (doses.kind == kind) & (state == index)
            given = dosing[state_name] if state_name in dosing else Dosing()
            if bool(here.any()) and getattr(given, name) is None:
                raise DataError(
                    f"{_first(names, doses.source[here])}: RATE is {code}, so the model has to give the {name}, "
                    f"but its dosing(p) gives none for {state_name!r}. Return {{{state_name!r}: "
                    f"nlme.Dosing({name}=...)}} there, or write the rate into the table."
                )


def _check_steady(names: RowNames, doses: Doses) -> None:
    """A steady state of nothing would empty the states, which no table means."""
    empty = (doses.steady_state > 0) & (doses.amount == 0) & (doses.kind == DoseKind.BOLUS)
    if bool(empty.any()):
        raise DataError(
            f"{_first(names, doses.source[empty])}: SS is set, but AMT is 0 and there is no RATE: a steady state "
            "of nothing. Write the amount of the doses, or the RATE of a constant infusion, or leave SS 0."
        )


def _extras(batch: Batch, later: Tensor, begin: Tensor, end: Tensor, tail: Tensor, resets: Tensor) -> Extras | None:
    roles = [mask.nonzero() for mask in (later, begin, end, tail)]
    found = torch.cat(roles)
    if not len(found):
        return None
    role = torch.repeat_interleave(torch.arange(4), torch.tensor([len(part) for part in roles])).to(found.device)
    order = found[:, 1].argsort(stable=True)
    record, column, role = found[order, 0], found[order, 1], role[order]
    counts = torch.bincount(column, minlength=batch.n_subjects)
    line = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[column]
    # nothing that a dose does outlives the next reset, nor the subject's records
    horizon = torch.where(resets, batch.times, torch.inf)
    horizon = torch.cat([horizon[1:], torch.full_like(horizon[:1], torch.inf)])
    horizon = horizon.flip(0).cummin(0).values.flip(0).minimum(batch.times[-1])
    shape = (int(counts.max()), batch.n_subjects)

    def spread(values: Tensor, fill: Tensor) -> Tensor:
        rectangle = fill.to(values.dtype).expand(shape).clone()
        rectangle[line, column] = values
        return rectangle

    zero = torch.zeros((), device=order.device)
    limit = spread(horizon[record, column], batch.times[-1])
    sign = spread(torch.tensor([0.0, 1.0, -1.0, -1.0], device=order.device).to(batch.dtype)[role], zero)
    return Extras(
        origin=spread(record, zero),
        bolus=spread(role == 0, zero)[:, None, None],
        sign=sign[:, None, None],
        ends=spread(role >= 2, zero)[:, None, None],
        tail=spread(role == 3, zero)[:, None, None],
        limit=limit[:, None, None],
    )


def _steady(doses: Doses, endless: Tensor, constant: bool) -> list[SteadyDoses]:
    """Steady-state doses in groups of at most one for each subject."""
    here = (doses.steady_state > 0) & (endless == constant)
    rank = here.cumsum(0)
    groups = []
    for number in range(1, int(rank[-1].max()) + 1):
        record, column = (here & (rank == number)).nonzero(as_tuple=True)
        order = column.argsort()
        column, record = column[order], record[order]
        groups.append(SteadyDoses(column, record, doses.steady_state[record, column] == 1, constant))
    return groups
