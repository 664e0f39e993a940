"""A data set as padded tensors: what a model, a solver and an estimation method read.

Every subject's records stand in one column, in time order, padded at the end to the longest subject. Padding
repeats the subject's last time (a zero-length record, in which nothing can happen) and is marked False in
``record_mask``. The subject axis is last, so one record of all subjects is contiguous.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from nlme_torch._typing import Bool, Float, Int
from nlme_torch.data.dosing.doses import Doses
from nlme_torch.data.table.row_names import RowNames
from nlme_torch.errors import DataError


@dataclass(frozen=True)
class Outcome:
    """One observed outcome at every record.

    Attributes:
        value: ``(record, subject)``, the observed value in the user's units; 0 where ``mask`` is False.
        mask: ``(record, subject)``, True where the outcome was observed.
        censoring: ``(record, subject)`` or None when nothing is censored: 0 observed, 1 left-censored (the
            truth lies below ``value``), -1 right-censored (above it): CENS of Monolix and nlmixr2.
        limit: ``(record, subject)`` or None: the other end of the interval in which a censored value lies,
            for a left-censored value its lower bound; -inf (left) or inf (right) where none was given.
    """

    value: Float[Tensor, "record subject"]
    mask: Bool[Tensor, "record subject"]
    censoring: Int[Tensor, "record subject"] | None = None
    limit: Float[Tensor, "record subject"] | None = None

    @property
    def n_observations(self) -> int:
        """Number of observed values."""
        return int(self.mask.sum())


@dataclass(frozen=True)
class Batch:
    """A data set as padded tensors, ``(record, subject)`` with the subject axis last.

    Attributes:
        subjects: the subjects' ids, in order of appearance in the table.
        times: ``(record, subject)``, in the user's time unit, non-decreasing along each subject's records
            (file order is kept at equal times) and repeated from the last record on padding.
        record_mask: ``(record, subject)``, False on padding.
        rows: ``(record, subject)``, 0-based position of the record in the source table; -1 on padding and on
            records that no row of the table stands for (repeats of an ADDL dose).
        covariates: name to ``(subject,)`` for a covariate constant within subjects, or ``(record, subject)``
            for a time-varying one (its value at each record; see ``interpolation``).
        outcomes: output name to :class:`Outcome`.
        doses: the dosing events, or None when the table has none.
        occasion: ``(record, subject)``, the 0-based occasion within the subject in order of appearance, or
            None.
        time_shift: ``(record, subject)`` or None: ``times - time_shift`` is the table's own time, where its
            clock was set back at a reset (EVID 3, 4); the two differ by a constant from one reset to the
            next.
        interpolation: time-varying covariate name to the rule that holds between record r and r+1: ``"locf"``
            (the value at r), ``"nocb"`` (the value at r+1) or ``"linear"`` (the straight line between them).
        start: the time at which subjects begin whose first row is later, where the user said so.
        categories: text covariate to its levels: level k is the number k in ``covariates``.
        unused: column of the table that is no covariate, to the reason.
        row_names: what the rows of the table are called in messages.

    Example:
        >>> import nlme_torch as nlme
        >>> batch = nlme.examples.theophylline().batch()
        >>> batch.times.shape, sorted(batch.covariates)
        (torch.Size([11, 12]), ['Dose', 'Wt'])
    """

    subjects: tuple[Any, ...]
    times: Float[Tensor, "record subject"]
    record_mask: Bool[Tensor, "record subject"]
    rows: Int[Tensor, "record subject"]
    covariates: Mapping[str, Float[Tensor, "subject"] | Float[Tensor, "record subject"]]
    outcomes: Mapping[str, Outcome]
    doses: Doses | None = None
    occasion: Int[Tensor, "record subject"] | None = None
    time_shift: Float[Tensor, "record subject"] | None = None
    interpolation: Mapping[str, str] = field(default_factory=dict)
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    start: float | None = None
    unused: Mapping[str, str] = field(default_factory=dict)
    row_names: RowNames = field(default_factory=RowNames, compare=False)

    def __post_init__(self) -> None:
        for name in ("covariates", "outcomes", "interpolation", "categories", "unused"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __reduce__(self) -> tuple[Any, ...]:
        # a mapping proxy can be neither pickled nor deep-copied, so both go through the constructor
        values = (getattr(self, name) for name in self.__dataclass_fields__)
        return Batch, tuple(dict(v) if isinstance(v, MappingProxyType) else v for v in values)

    @property
    def n_subjects(self) -> int:
        """Number of subjects."""
        return len(self.subjects)

    @property
    def n_records(self) -> int:
        """Number of records of the longest subject: the length of the record axis."""
        return self.times.shape[0]

    @property
    def n_observations(self) -> int:
        """Number of observed values, all outcomes together."""
        return sum(outcome.n_observations for outcome in self.outcomes.values())

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of times, covariates, values and doses."""
        return self.times.dtype

    @property
    def device(self) -> torch.device:
        """Device that holds the tensors."""
        return self.times.device

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Batch":
        """The same batch on another device or in another floating-point type.

        Args:
            device: where the tensors go; None leaves them where they are.
            dtype: floating-point type of the real-valued tensors; masks and indices keep theirs.

        Returns:
            A new batch (tensors that need no change are shared).
        """

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        return self._map(move)

    def select(self, index: Sequence[int] | Tensor) -> "Batch":
        """The batch of some of the subjects, padded anew to the longest of them.

        Args:
            index: ``(subject,)``, 0-based positions in ``subjects``, in the order wanted; repeats are
                allowed.

        Returns:
            A batch with ``len(index)`` subjects.

        Raises:
            DataError: if ``index`` is empty or points outside the batch.
        """
        columns = torch.as_tensor(index, dtype=torch.long, device=self.device)
        if columns.ndim != 1 or columns.numel() == 0:
            raise DataError("Batch.select needs a non-empty one-dimensional list of subject positions.")
        if int(columns.min()) < 0 or int(columns.max()) >= self.n_subjects:
            raise DataError(
                f"Batch.select was given positions {columns.min()}..{columns.max()}, but the batch has "
                f"subjects 0..{self.n_subjects - 1}."
            )
        length = int(self.record_mask[:, columns].sum(0).max())

        def take(tensor: Tensor) -> Tensor:
            return tensor[columns] if tensor.ndim == 1 else tensor[:length, columns]

        return replace(self._map(take), subjects=tuple(self.subjects[i] for i in columns.tolist()))

    def starting_at(self, start: float) -> "Batch":
        """The batch with a record at ``start``, at which nothing happens, for every subject whose first is later.

        Args:
            start: when subjects begin, in the unit of ``times``.

        Returns:
            A batch with one more record at most; covariates and occasion of the new records are those of the first.
        """
        late = self.times[0] > start
        if not bool(late.any()):
            return replace(self, start=start)
        record = torch.arange(self.n_records + 1, device=self.device)[:, None]
        index = torch.where(late, (record - 1).clamp_min(0), record.clamp_max(self.n_records - 1))
        new = late & (record == 0)
        empty = new | (~late & (record == self.n_records))

        def shift(tensor: Tensor) -> Tensor:
            return tensor if tensor.ndim == 1 else tensor.gather(0, index)

        def clear(tensor: Tensor, value: float) -> Tensor:
            return torch.where(empty, torch.full_like(tensor, value), tensor)

        moved = self._map(shift)
        outcomes = {
            name: Outcome(
                clear(o.value, 0.0), o.mask & ~empty, None if o.censoring is None else clear(o.censoring, 0),
                None if o.limit is None else clear(o.limit, -math.inf),
            )
            for name, o in moved.outcomes.items()
        }  # fmt: skip
        length = int((self.record_mask.sum(0) + late).max())
        return replace(
            moved,
            times=torch.where(new, torch.full_like(moved.times, start), moved.times),
            record_mask=(moved.record_mask & ~empty) | new,
            rows=clear(moved.rows, -1),
            outcomes=outcomes,
            doses=None if moved.doses is None else moved.doses.without(empty),
            start=start,
        )._map(lambda tensor: tensor if tensor.ndim == 1 else tensor[:length])

    def _map(self, function: Any) -> "Batch":
        """A batch with ``function`` applied to every tensor."""

        def apply(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else function(tensor)

        return Batch(
            subjects=self.subjects,
            times=function(self.times),
            record_mask=function(self.record_mask),
            rows=function(self.rows),
            covariates={name: function(value) for name, value in self.covariates.items()},
            outcomes={
                name: Outcome(function(o.value), function(o.mask), apply(o.censoring), apply(o.limit))
                for name, o in self.outcomes.items()
            },
            doses=None if self.doses is None else self.doses.map(function),
            occasion=apply(self.occasion),
            time_shift=apply(self.time_shift),
            interpolation=self.interpolation,
            categories=self.categories,
            start=self.start,
        )
