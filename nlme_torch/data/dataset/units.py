"""Units of what a table holds, by the names that pictures and prints use."""

from collections.abc import Mapping

from nlme_torch.data.records.table import Table
from nlme_torch.data.table.closest import closest
from nlme_torch.data.table.columns import Columns
from nlme_torch.errors import DataError


def named_units(units: Mapping[str, str] | None, table: Table, columns: Columns) -> dict[str, str]:
    """Return units of the time, the outputs, the covariates and the other parts.

    Args:
        units: column, output or covariate to unit; that of a value column is that of all outputs read from it.
        table: the table.
        columns: the parts of its columns.

    Returns:
        ``"time"``, output, covariate or column of another part to unit.

    Raises:
        DataError: a name is none of the table's, or a unit is no text.
    """
    if units is None:
        return {}
    if not isinstance(units, Mapping) or not all(isinstance(unit, str) for unit in units.values()):
        raise DataError(f"units={units!r:.60} is no dictionary of texts: write {{'TIME': 'h', 'DV': 'mg/L'}}.")
    sources, time = table.observations.sources, columns.parts["time"]
    others = {*table.covariates.values, *columns.parts.values()} - {time}
    found: dict[str, str] = {}
    for name, unit in units.items():
        outputs = [output for output, column in sources.items() if column == name]
        if name in sources or name in others or outputs:
            found |= {output: unit for output in outputs if output not in units}
        if name in sources or (name in others and not outputs):
            found[name] = unit
        elif name in (time, "time"):
            found["time"] = unit
        elif not outputs:
            known = [time, *sources, *others]
            near = closest(name, known)
            guess = f" Did you mean {near!r}?" if near else ""
            raise DataError(f"units= names {name!r}, which is nothing of the table; it has {', '.join(known)}.{guess}")
    return found
