"""What a data set holds, in numbers: counts, what was left out and why, covariates."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nlme_torch.data.dosing.doses import DoseKind
from nlme_torch.data.dosing.dosing import DOSE_PARTS
from nlme_torch.data.events.events import Event
from nlme_torch.data.records.records import expand
from nlme_torch.data.records.table import Table
from nlme_torch.data.table.columns import MEANINGS, Columns


@dataclass(frozen=True, repr=False)
class Description:
    """The contents of a data set.

    Attributes:
        counts: what is counted to how many.
        observations: for each output its column, number of values, subjects observed, censored values, and
            minimum, median and maximum in the output's unit.
        covariates: for each covariate its rule (constant, locf, nocb, linear), minimum, median and maximum
            over subjects (time-varying: over rows), or its levels; and, where any were missing, how they were filled.
        ignored: rows and repeats that do not count, with the reason, how many, and the first row: ``line 12``
            of a file, ``row 10`` of the index of a data frame.
        unused: columns that play no part, with the reason.
    """

    counts: pd.Series
    observations: pd.DataFrame
    covariates: pd.DataFrame
    ignored: pd.DataFrame
    unused: pd.DataFrame

    def __repr__(self) -> str:
        blocks = [self.counts.to_string()]
        for name in ("observations", "covariates", "ignored", "unused"):
            table = getattr(self, name)
            if len(table):
                blocks.append(f"{name}\n{table.to_string(index=False)}")
        return "\n\n".join(blocks)


def _short(reason: str) -> str:
    return reason.split(" (")[0]


def overview(table: Table, start: float | None = None, units: Mapping[str, str] | None = None) -> str:
    """A data set in a few lines."""
    values, rules = table.observations.values, table.covariates.interpolation
    censoring = table.observations.censoring
    counts = []
    for name, value in values.items():
        seen = np.isfinite(value)
        below = 0 if censoring is None else int((censoring.code[seen] != 0).sum())
        counts.append(f"{name} {int(seen.sum())}" + (f" ({below} censored)" if below else ""))
    lines = [
        f"Dataset of {len(table.ids)} subjects, {table.n_rows} rows",
        f"  observations  {', '.join(counts)}",
    ]
    if table.doses is not None:
        lines.append(f"  doses         {int((table.doses.kind != DoseKind.NONE).sum())} rows")
    names = [f"{name} ({rules[name]})" if name in rules else name for name in table.covariates.values]
    if names:
        lines.append(f"  covariates    {', '.join(names)}")
    if table.covariates.filled:
        lines.append(f"  missing       {'; '.join(f'{k} {v}' for k, v in table.covariates.filled.items())}")
    if units:
        lines.append(f"  units         {', '.join(f'{name} [{unit}]' for name, unit in units.items())}")
    if start is not None:
        lines.append(f"  begins at     {start:g}, or at the first row if that is earlier")
    kept = ("named in ignore=", "not among covariates=", "is empty")
    asked = table.covariates.questions
    idle = [f"{k} ({_short(v)})" for k, v in table.covariates.unused.items() if v not in kept or k in asked]
    if idle:
        lines.append(f"  unused        {', '.join(idle)}")
    return "\n".join(lines)


def why_no_covariate(table: Table, columns: Columns) -> dict[str, str]:
    """Every column that is no covariate, to the part that it plays or the reason why it plays none."""
    parts = {name: f"means {MEANINGS[part]}" for part, name in columns.parts.items()}
    outputs = {column: f"is the outcome {name!r}" for name, column in table.observations.sources.items()}
    left_out = {
        "not among covariates=": "is not among covariates= (name it there)",
        "named in ignore=": "is in ignore=",
    }
    idle = {name: left_out.get(reason, reason) for name, reason in table.covariates.unused.items()}
    return {**idle, **outputs, **parts}


def describe(table: Table, columns: Columns) -> Description:
    """Count everything in a table; nothing that was left out goes unmentioned."""
    return Description(
        _counts(table), _observations(table), _covariates(table), _ignored(table), _unused(table, columns)
    )


def _counts(table: Table) -> pd.Series:
    counts = {
        "subjects": len(table.ids),
        "rows": table.n_rows,
        "rows with an observation": int(table.observations.observed.sum()),
        "observed values": int(sum(np.isfinite(v).sum() for v in table.observations.values.values())),
    }
    if table.doses is not None:
        doses, kind = table.doses, table.doses.kind
        counts |= {
            "dose rows": int((kind != DoseKind.NONE).sum()),
            "  boluses": int((kind == DoseKind.BOLUS).sum()),
            "  infusions": int(np.isin(kind, (DoseKind.RATE, DoseKind.DURATION)).sum()),
            "  modelled rate": int((kind == DoseKind.MODELLED_RATE).sum()),
            "  modelled duration": int((kind == DoseKind.MODELLED_DURATION).sum()),
            "  at steady state": int((doses.steady_state > 0).sum()),
            "repeats by ADDL": int(expand(table).repeat.sum()),
            "resets": int(doses.reset.sum()),
        }
    if table.shift is not None:
        counts["rows after the clock was set back"] = int((table.shift > 0).sum())
    counts["rows of EVID 2"] = int((table.event == Event.OTHER).sum())
    if table.occasion is not None:
        counts["occasions, at most"] = int(table.occasion.max()) + 1
    always = ("subjects", "rows", "rows with an observation", "observed values")
    shown = {name: count for name, count in counts.items() if count or name in always}
    return pd.Series(shown, dtype="int64")


def _observations(table: Table) -> pd.DataFrame:
    censoring = table.observations.censoring
    rows = []
    for output, values in table.observations.values.items():
        seen = np.isfinite(values)
        value = pd.Series(values[seen], dtype=float)
        censored = 0 if censoring is None else int((censoring.code[seen] != 0).sum())
        subjects = len(np.unique(table.subject[seen]))
        source = table.observations.sources[output]
        rows.append((output, source, len(value), subjects, censored, value.min(), value.median(), value.max()))
    return pd.DataFrame(rows, columns=["output", "column", "values", "subjects", "censored", "min", "median", "max"])


def _covariates(table: Table) -> pd.DataFrame:
    first = np.flatnonzero(np.diff(table.subject, prepend=-1))
    rows = []
    for name, values in table.covariates.values.items():
        rule = table.covariates.interpolation.get(name)
        value = pd.Series(values if rule else values[first], dtype=float)
        levels = ", ".join(f"{code} = {level}" for code, level in enumerate(table.covariates.categories.get(name, ())))
        filled = table.covariates.filled.get(name, "")
        rows.append((name, rule or "constant", value.min(), value.median(), value.max(), levels, filled))
    found = pd.DataFrame(rows, columns=["covariate", "rule", "min", "median", "max", "levels", "missing"])
    return found if table.covariates.filled else found.drop(columns="missing")


def _ignored(table: Table) -> pd.DataFrame:
    rows: list[tuple[str, int, str | None]] = [
        (reason, int(mask.sum()), table.names.name(int(np.flatnonzero(mask)[0])))
        for reason, mask in table.observations.ignored.items()
        if mask.any()
    ]
    records = expand(table)
    if records.dropped:
        rows.append(("ADDL repeat after the subject's last row", records.dropped, None))
    if records.cancelled:
        rows.append(("ADDL repeat cancelled by a reset or an SS 1 dose", records.cancelled, None))
    return pd.DataFrame(rows, columns=["reason", "count", "first row"])


def _unused(table: Table, columns: Columns) -> pd.DataFrame:
    idle = dict(table.covariates.unused)
    if columns.get("dv") not in table.observations.sources.values():
        idle |= _named(columns, ("dv", "dvid"), "the outputs stand in other columns")
    if columns.get("amt") is None and columns.get("evid") is None:
        idle |= _named(columns, (*DOSE_PARTS, "cmt"), "the table has neither AMT nor EVID")
    if columns.get("cens") is None:
        idle |= _named(columns, ("limit",), "the table has no CENS")
    return pd.DataFrame(list(idle.items()), columns=["column", "reason"])


def _named(columns: Columns, parts: Iterable[str], reason: str) -> dict[str, str]:
    return {columns.parts[part]: reason for part in parts if part in columns.parts}
