"""A table whose outcomes are replaced by simulated ones."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nlme_torch.data.dataset.dataset import Dataset
from nlme_torch.data.events.events import Event
from nlme_torch.errors import DataError

_OBSERVED = ("dv", "dvid", "mdv", "cens", "limit", "lloq")


def with_outcomes(data: Dataset, values: Mapping[str, NDArray[np.float64]]) -> Dataset:
    """The same doses, times and covariates with other observations, one column for each outcome.

    Args:
        data: the data set.
        values: outcome name to ``(row,)`` values, NaN where it is not observed.

    Returns:
        A data set read from the changed table.

    Raises:
        DataError: if an outcome has another length than the table, or the name of a column with another part, or a
            subject is left without observations.
    """
    frame, table, columns = data._frame, data._table, data._columns
    replaced = {columns.parts[part] for part in _OBSERVED if part in columns.parts}
    if columns.outputs is not None:
        replaced |= {str(column) for column in columns.outputs.values() if str(column) in frame}
    kept = frame.drop(columns=[name for name in frame if name in replaced])
    for name, value in values.items():
        if len(value) != len(frame):
            raise DataError(f"outcome {name!r} has {len(value)} values for the {len(frame)} rows of the table.")
        if name in kept:
            raise DataError(f"outcome {name!r} has the name of another column of the table; rename one.")
        kept[name] = value
    seen = ~np.isnan(np.stack(list(values.values()))).all(0)
    evid = columns.get("evid")
    if evid is not None:
        code = kept[evid].to_numpy()
        kept[evid] = np.where(seen & (table.event == Event.OTHER), int(Event.OBSERVATION), code)
        code = kept[evid].to_numpy()
        kept[evid] = np.where(~seen & (table.event == Event.OBSERVATION), int(Event.OTHER), code)
    elif not seen.all():
        kept["MDV"] = (~seen).astype(int)
    parts = {part: name for part, name in columns.parts.items() if part not in _OBSERVED}
    settings: dict[str, Any] = {
        **parts,
        "outputs": list(values),
        "covariates": [name for name in table.covariates.values if name not in table.covariates.interpolation],
        "time_varying": dict(table.covariates.interpolation),
        "ignore": [name for name in columns.ignore if name in kept],
        "start": columns.start,
        "levels": {name: list(order) for name, order in table.covariates.categories.items()},
        "units": {name: unit for name, unit in columns.units.items() if name in ("time", *values, *kept)},
    }
    return Dataset.from_frame(kept, **settings)
