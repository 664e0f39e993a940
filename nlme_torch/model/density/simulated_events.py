r"""Times of events drawn from a hazard that a model integrates.

.. math:: T = H^{-1}(E), \qquad E \sim \text{Exponential}(1)

The cumulative hazard H is solved at the records and, between the two where it passes E, at more and more times.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.data import Dataset
from nlme_torch.data.records.batch import Batch
from nlme_torch.errors import ModelError
from nlme_torch.model.density.density import Density
from nlme_torch.model.observation import IntervalCensoredEvent, TimeToEvent

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUNDS, POINTS = 4, 24  # the bracket shrinks by 25 in each, and a straight line goes on from there


@dataclass(frozen=True)
class DrawnEvent:
    """The event of every subject, in the rows of a table.

    Attributes:
        name: The outcome.
        column: ``(row,)``, 1 at the event, 0 before it or where there is none, NaN elsewhere.
        data: The data, with a row at every event whose time is exact.
        inserted: ``(row,)``, True on these rows.
        density: The model joined to these data; None where no row was added.
    """

    name: str
    column: "NDArray[np.float64]"
    data: Dataset
    inserted: "NDArray[np.bool_]"
    density: Density | None = None


def draw_event(density: Density, data: Dataset, effects: Tensor, observed: Mapping[str, Any]) -> DrawnEvent | None:
    """Draw the event of every subject by torch's global generator; None where no outcome is an event.

    Args:
        density: The model joined to the data.
        data: The data.
        effects: ``(effect, 1, 1, subject)``.
        observed: Outcome name to distribution.

    Raises:
        ModelError: There are several events, or the states begin anew within subjects.
    """
    batch = density.batch
    names = [name for name in batch.outcomes if isinstance(observed[name], TimeToEvent | IntervalCensoredEvent)]
    if not names:
        return None
    name = names[0]
    if len(names) > 1:
        raise ModelError(f"simulate draws the time of one event, and observe has {', '.join(names)}.")
    if batch.doses is not None and bool(batch.doses.reset.any()):
        raise ModelError(f"outcome {name!r}: no event can be drawn where states begin anew (EVID 3 or 4).")
    levels = torch.empty(batch.n_subjects, dtype=batch.times.dtype).exponential_()
    looked = looked_at(batch, name, data.prediction_rows)
    if isinstance(observed[name], IntervalCensoredEvent):
        passed = looked & (_cumulative_hazard(density, effects, name) >= levels)
        column = _in_rows(data.n_rows, batch, looked, passed & (passed.cumsum(0) == 1), passed)
        return DrawnEvent(name, column, data, np.zeros(data.n_rows, dtype=bool))
    if bool((batch.times[0] < data.batch().times[0]).any()):
        data = data.starting_at(0.0)  # where the density lets subjects begin, so that rows may stand before the first
    end = torch.where(looked, batch.times, -torch.inf).amax(0)
    happened = event_times(density, data, effects, name, end, levels)
    longer = data.with_times({data.subjects[k]: [happened[k]] for k in np.flatnonzero(np.isfinite(happened))})
    density = Density(density.model, longer.batch(), density.solver)
    batch, when = density.batch, torch.as_tensor(happened)
    record = torch.arange(batch.n_records)[:, None]
    there = (batch.rows >= 0) & (batch.times == when)
    event = there & (record == torch.where(there, record, -1).amax(0))  # a new row follows those at the same time
    inserted = np.zeros(longer.n_rows, dtype=bool)
    inserted[batch.rows[event].numpy()] = True
    looked = looked_at(batch, name, longer.prediction_rows & ~inserted) | event
    return DrawnEvent(
        name, _in_rows(longer.n_rows, batch, looked, event, batch.times >= when), longer, inserted, density
    )


def looked_at(batch: Batch, name: str, new: "NDArray[np.bool_]") -> Tensor:
    """Where an outcome is to be drawn, ``(record, subject)``: where it was observed, and at rows for predictions."""
    return (batch.outcomes[name].mask | torch.isin(batch.rows, torch.as_tensor(np.flatnonzero(new)))) & (
        batch.rows >= 0
    )


def _in_rows(rows: int, batch: Batch, looked: Tensor, event: Tensor, over: Tensor) -> "NDArray[np.float64]":
    """1 at the event and 0 where the outcome is looked at before it is over; NaN elsewhere."""
    column = np.full(rows, np.nan)
    kept = looked & (event | ~over)
    column[batch.rows[kept].numpy()] = event[kept].double().numpy()
    return column


def event_times(
    density: Density, data: Dataset, effects: Tensor, name: str, end: Float[Tensor, "subject"], levels: Tensor
) -> "NDArray[np.float64]":
    """Return when the cumulative hazard of every subject reaches a level, infinite where not until the end.

    Args:
        density: The model joined to the data.
        data: The data, beginning as the density does.
        effects: ``(effect, 1, 1, subject)``.
        name: The outcome.
        end: When subjects are last seen [time].
        levels: ``(subject,)``, of the cumulative hazard.
    """
    here = density
    for last in [False] * ROUNDS + [True]:
        times, hazard = here.batch.times, _cumulative_hazard(here, effects, name)
        passed = (hazard >= levels) & (times <= end)
        happens = passed.any(0)
        record = passed.int().argmax(0).clamp_min(1)
        (begin, until), (low, high) = (
            (values.gather(0, record[None] - 1)[0], values.gather(0, record[None])[0]) for values in (times, hazard)
        )
        if last or not bool(happens.any()):
            break
        inside = torch.linspace(0, 1, POINTS + 2, dtype=times.dtype)[1:-1]
        grids = (begin + (until - begin) * inside[:, None]).T.numpy()
        wanted = {data.subjects[k]: grids[k] for k in np.flatnonzero(happens.numpy())}
        here = Density(density.model, data.with_times(wanted).batch(), density.solver)
    share = ((levels - low) / (high - low).clamp_min(torch.finfo(low.dtype).tiny)).clamp(0.0, 1.0)
    return torch.where(happens, begin + share * (until - begin), torch.inf).numpy()


def _cumulative_hazard(density: Density, effects: Tensor, name: str) -> Float[Tensor, "record subject"]:
    batch = density.batch
    observed, _ = density.at().observe(effects)
    hazard: Any = observed[name]
    return hazard.cumulative_hazard.expand(batch.n_records, 1, 1, batch.n_subjects)[:, 0, 0]
