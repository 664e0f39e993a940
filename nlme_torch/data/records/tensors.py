"""From records to padded tensors."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nlme_torch.data.covariates.covariates import value_between
from nlme_torch.data.dosing.doses import DoseKind, Doses
from nlme_torch.data.records.batch import Batch, Outcome
from nlme_torch.data.records.records import Records, expand
from nlme_torch.data.records.table import Table


def to_batch(table: Table, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Batch:
    """Expand a table's events and pad its subjects to the longest.

    Args:
        table: a table without errors.
        dtype: floating-point type of the real-valued tensors.
        device: where the tensors go.
    """
    records = expand(table)
    padding = _Padding(table, records)

    def real(values: NDArray[Any], fill: float | int | None = 0.0) -> Tensor:
        return torch.tensor(padding.spread(values, fill), dtype=dtype, device=device)

    def whole(values: NDArray[Any], fill: int | None = 0) -> Tensor:
        return torch.tensor(padding.spread(values, fill), dtype=torch.long, device=device)

    def flag(values: NDArray[Any]) -> Tensor:
        return torch.tensor(padding.spread(values, False), dtype=torch.bool, device=device)

    first = np.flatnonzero(np.diff(table.subject, prepend=-1))
    covariates: dict[str, Tensor] = {}
    for name, values in table.covariates.values.items():
        rule = table.covariates.interpolation.get(name)
        if rule is None:
            covariates[name] = torch.tensor(values[first], dtype=dtype, device=device)
        else:
            covariates[name] = real(
                value_between(values, table.time, records.time, records.before, records.after, rule), None
            )
    outcomes: dict[str, Outcome] = {}
    for name, values in table.observations.values.items():
        value = np.where(records.repeat, np.nan, values[records.row])
        seen = np.isfinite(value)
        outcome = Outcome(real(np.where(seen, value, 0.0)), flag(seen))
        censoring = table.observations.censoring
        if censoring is not None and censoring.code[np.isfinite(values)].any():
            code, limit = np.where(seen, censoring.code[records.row], 0), censoring.limit[records.row]
            nowhere = np.where(code == -1, np.inf, -np.inf)
            limit = np.where((code != 0) & np.isfinite(limit), limit, nowhere)
            outcome = replace(outcome, censoring=whole(code), limit=real(limit, -np.inf))
        outcomes[name] = outcome
    return Batch(
        subjects=table.ids,
        times=real(records.time, None),
        record_mask=flag(np.ones(len(records.row), dtype=bool)),
        rows=whole(np.where(records.repeat, -1, records.row), -1),
        covariates=covariates,
        outcomes=outcomes,
        doses=_doses(table, records, real, whole, flag),
        occasion=None if table.occasion is None else whole(table.occasion[records.before], None),
        time_shift=None if table.shift is None else real(table.shift[records.before], None),
        interpolation=dict(table.covariates.interpolation),
        categories=dict(table.covariates.categories),
    )


class _Padding:
    """Where every record goes in the ``(record, subject)`` rectangle."""

    def __init__(self, table: Table, records: Records) -> None:
        self.column = table.subject[records.row]
        counts = np.bincount(self.column, minlength=len(table.ids))
        self.start = np.cumsum(counts) - counts
        self.line = np.arange(len(self.column)) - self.start[self.column]
        self.last = self.start + counts - 1
        self.shape = (int(counts.max()), len(table.ids))

    def spread(self, values: NDArray[Any], fill: float | int | bool | None) -> NDArray[Any]:
        """``(entry,)`` to ``(record, subject)``; padding holds ``fill``, the subject's last entry if None."""
        rectangle = np.empty(self.shape, dtype=values.dtype)
        rectangle[:] = values[self.last] if fill is None else fill
        rectangle[self.line, self.column] = values
        return rectangle


def _doses(table: Table, records: Records, real: Any, whole: Any, flag: Any) -> Doses | None:
    rows = table.doses
    if rows is None:
        return None
    row, first = records.row, ~records.repeat
    steady = np.where(first, rows.steady_state[row], 0)
    event = (rows.kind[row] != DoseKind.NONE) | rows.reset[row]
    return Doses(
        amount=real(rows.amount[row]),
        kind=whole(rows.kind[row], int(DoseKind.NONE)),
        rate=real(rows.rate[row]),
        duration=real(rows.duration[row]),
        compartment=whole(rows.compartment[row], -1),
        compartments=rows.compartments,
        steady_state=whole(steady),
        interval=real(np.where(steady != 0, rows.interval[row], 0.0)),
        reset=flag(rows.reset[row] & first),
        source=whole(np.where(event, row, -1), -1),
    )
