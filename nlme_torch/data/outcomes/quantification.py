"""Limits of quantification: LLOQ, texts such as ``<0.5`` and BLQ, flags beside a limit; all become CENS."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nlme_torch.data.events.events import Event, read_events
from nlme_torch.data.outcomes.outputs import find_outputs
from nlme_torch.data.table.cells import as_number, is_missing, is_unquantified, parse_numbers
from nlme_torch.data.table.columns import Columns
from nlme_torch.data.table.problems import Problem

Floats = NDArray[np.float64]
Limit: TypeAlias = float | str | None
"""A limit of quantification: a number, a column, or none."""

FLAGS = ("BLQ", "BLOQ", "BQL", "BLLOQ")
LIMITS = ("LLOQ", "LOQ")
DROPPED, CENSORED = ("missing", "M1"), ("censored", "M3")


@dataclass(frozen=True)
class Quantification:
    """How values beyond a limit of quantification are written and read.

    Attributes:
        lloq: the lower limit: a number, a column, or either by output.
        blq: what texts in the value column mean: a number (the limit of texts that name none), ``"censored"`` or
            ``"M3"``, ``"missing"`` or ``"M1"``, or the text that stands for a value below ``lloq``; None: an error.
    """

    lloq: Limit | Mapping[str, Limit] = None
    blq: float | str | None = None


def read_quantification(
    frame: pd.DataFrame, columns: Columns, said: Quantification, problems: list[Problem]
) -> tuple[pd.DataFrame, Columns]:
    """Write what lies beyond a limit as NONMEM's M3 and Monolix want it: CENS 1 and the limit as the value.

    Args:
        frame: the table.
        columns: the parts of its columns.
        said: the user's limits.
        problems: receives limits that are missing or contradict the table.

    Returns:
        The table with values and CENS filled in, and the parts of its columns.
    """
    flag = _flag(frame, columns, said)
    if said.lloq is None and said.blq is None and flag is None:
        return frame, columns
    events = read_events(frame, columns, [])
    candidates = (events.code == Event.OBSERVATION) & ~events.no_value
    sources = find_outputs(frame, columns, candidates, [])
    frame = frame.copy()
    cens = columns.get("cens")
    given = None if cens is None else np.nan_to_num(parse_numbers(frame[cens]).value)
    code = np.zeros(len(frame)) if given is None else given.copy()
    if flag is not None:
        code = np.where(np.nan_to_num(parse_numbers(frame[flag]).value) == 1, 1.0, code)
    for output, (column, here) in sources.items():
        limit = _limit(frame, said, output, len(sources), here, problems)
        value = frame[column].astype(object).to_numpy().copy()
        _read_texts(value, here, limit, code, said, column, problems)
        number = np.asarray([as_number(cell) for cell in value])
        below = here & np.isfinite(limit) & (number < limit)
        if given is not None or flag is not None:
            for row in np.flatnonzero(below & (code == 0)):
                text = f"{number[row]:g} lies below the limit {limit[row]:g}, but is not marked as censored."
                problems.append(Problem("LLOQ", text, row=int(row), column=column))
        code = np.where(below & (code == 0), 1.0, code)
        for row in np.flatnonzero(here & (code == 1) & np.isfinite(limit) & (number > limit)):
            text = f"{number[row]:g} is marked as censored, but lies above the limit {limit[row]:g}."
            problems.append(Problem("LLOQ", text, row=int(row), column=column))
        if len(sources) == 1 and (flag is not None or said.lloq is not None):
            for row in np.flatnonzero(here & (code == 1) & ~np.isfinite(limit) & ~np.isfinite(number)):
                text = "the value is below a limit of quantification that is missing."
                problems.append(Problem("LLOQ", text, row=int(row), column=column))
        value[here & (code == 1) & np.isfinite(limit)] = limit[here & (code == 1) & np.isfinite(limit)]
        frame[column] = pd.Series(value, index=frame.index).infer_objects()
    gone = candidates & np.all([is_missing(frame[s.column]) for s in sources.values()], axis=0) if sources else None
    parts = dict(columns.parts)
    if isinstance(said.lloq, str) and said.lloq in frame:
        parts["lloq"] = said.lloq
    if gone is not None and said.blq in DROPPED and gone.any():
        parts.setdefault("mdv", _free("MDV", frame))
        before = frame.get(parts["mdv"], pd.Series(0, index=frame.index))
        frame[parts["mdv"]] = before.where(~gone, 1)
    if code.any() and (given is None or (code != given).any()):
        parts.setdefault("cens", _free("CENS", frame))
        frame[parts["cens"]] = code.astype(np.int64)
    return frame, replace(columns, parts=parts)


def _flag(frame: pd.DataFrame, columns: Columns, said: Quantification) -> str | None:
    """A column BLQ beside a limit, where nothing else says what is censored."""
    if columns.get("cens") is not None:
        return None
    taken = {*(columns.covariates or ()), *columns.time_varying, *columns.ignore, *columns.parts.values()}
    names = [name for name in map(str, frame) if name.upper() in FLAGS and name not in taken]
    has_limit = said.lloq is not None or any(name.upper() in LIMITS and name not in taken for name in map(str, frame))
    if len(names) != 1 or not has_limit:
        return None
    value, missing = parse_numbers(frame[names[0]])
    return names[0] if bool((missing | np.isin(value, (0, 1))).all()) else None


def _limit(
    frame: pd.DataFrame, said: Quantification, output: str, outputs: int, here: NDArray[np.bool_],
    problems: list[Problem],
) -> Floats:  # fmt: skip
    """``(row,)``, the lower limit of an output, NaN where it has none."""
    limit: Any = said.lloq
    if isinstance(limit, Mapping):
        limit = limit.get(output)
    elif limit is not None and outputs > 1 and not isinstance(limit, str):
        text = f"lloq={limit!r} is one limit for several outcomes. Give it by outcome: lloq={{{output!r}: {limit!r}}}."
        problems.append(Problem("LLOQ", text))
        return np.full(len(frame), np.nan)
    if limit is None and said.lloq is None:
        limit = next((name for name in map(str, frame) if name.upper() in LIMITS), None)
    if limit is None:
        return np.full(len(frame), np.nan)
    if isinstance(limit, str) and limit in frame:
        return np.where(here, parse_numbers(frame[limit]).value, np.nan)
    number = as_number(limit)
    if not np.isfinite(number):
        problems.append(Problem("LLOQ", f"lloq={limit!r} is neither a number nor a column."))
    return np.full(len(frame), number)


def _read_texts(
    value: NDArray[Any], here: NDArray[np.bool_], limit: Floats, code: Floats, said: Quantification, column: str,
    problems: list[Problem],
) -> None:  # fmt: skip
    """Replace texts such as ``<0.5`` by the limit (code 1 or -1) or by nothing, in place."""
    if said.blq is None:
        return
    words = said.blq.strip().casefold() if isinstance(said.blq, str) else ""
    common = as_number(said.blq)
    for row in np.flatnonzero(here):
        cell = value[row]
        if not isinstance(cell, str):
            continue
        text = cell.strip()
        if not (is_unquantified(text) or text.casefold() == words):
            continue
        if said.blq in DROPPED:
            value[row] = None
            continue
        own = as_number(text[1:].lstrip("=").strip()) if text[:1] in ("<", ">") else np.nan
        if text[:1] == ">" and not np.isfinite(own):
            problems.append(Problem("BLQ", f"{cell!r} names no upper limit.", row=int(row), column=column))
            continue
        found = next((x for x in (own, limit[row], common) if np.isfinite(x)), np.nan)
        if not np.isfinite(found):
            text = (
                f"{cell!r} names no limit: give it with lloq= (or blq= the number), or blq='missing' to leave it out."
            )
            problems.append(Problem("BLQ", text, row=int(row), column=column))
        code[row] = -1.0 if cell.strip()[:1] == ">" else 1.0
        value[row] = float(found)
        if code[row] == 1.0 and np.isfinite(own):
            limit[row] = own


def _free(name: str, frame: pd.DataFrame) -> str:
    return name if name not in frame else f"{name}_READ"
