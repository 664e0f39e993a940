"""Subjects of whom nothing was observed: their rows say when to predict."""

import numpy as np
from numpy.typing import NDArray

from nlme_torch.data.events.events import Event
from nlme_torch.data.records.table import Table


def to_predict(table: Table) -> NDArray[np.bool_]:
    """Return ``(row,)``, True on the rows without a dose of subjects of whom nothing was observed.

    Args:
        table: the table.
    """
    seen = np.zeros(len(table.ids), dtype=bool)
    seen[table.subject[table.observations.observed]] = True
    looks = np.isin(table.event, (int(Event.OBSERVATION), int(Event.OTHER)))
    return looks & ~seen[table.subject]
