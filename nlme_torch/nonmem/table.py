"""Data files as NONMEM reads them."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nlme_torch.data.table.csv_file import is_comment
from nlme_torch.data.table.row_rules import matching_rows
from nlme_torch.errors import DataError

_TIMES = ("TIME", "DATE", "DAT1", "DAT2", "DAT3")


def read_table(
    path: str | Path | pd.DataFrame,
    columns: str | Sequence[str],
    *,
    ignore: str | Sequence[str] = (),
    accept: str | Sequence[str] = (),
    rows: int | None = None,
) -> pd.DataFrame:
    r"""Read a data file as NONMEM does: cells are set apart by commas, blanks or tabs, and empty ones are 0.

    Args:
        path: The file; or a table with such columns, whose missing cells become 0.
        columns: Names of its columns in order, in one text or several; ``-`` or ``-NAME`` for a column that is
            dropped, the latter after rows were left out by its values. Further columns are not read.
        ignore: Lines that are left out: ``"@"``, ``"#"``, ``"C"`` or another character that they begin with, and
            conditions such as ``"DVID.EQ.2"``, of which they meet one.
        accept: Conditions, of which a row that is kept meets one.
        rows: How many rows there are; None for all.

    Returns:
        The table; times of day and dates as text, everything else as numbers.

    Raises:
        DataError: The file is absent, or a cell is no number.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "data.txt"
        >>> _ = file.write_text("C comment\n1  0  100 .\n1, 2.5, ., 7.1\n")
        >>> read_table(file, "ID TIME AMT DV", ignore="@")["AMT"].tolist()
        [100.0, 0.0]
    """
    names = columns.split() if isinstance(columns, str) else list(columns)
    rules = [ignore] if isinstance(ignore, str) else list(ignore)
    if isinstance(path, pd.DataFrame):
        wanted = [name.removeprefix("-") for name in names if name != "-"]
        absent = [name for name in wanted if name not in path]
        if absent:
            raise DataError(f"the table has no column {absent[0]}; it has {', '.join(map(str, path))}.")
        frame, source = path[wanted].fillna(0.0), "the table"
    else:
        frame, source = _read_file(Path(path), names, [rule for rule in rules if len(rule) == 1], rows)
    conditions = [rule for rule in rules if len(rule) > 1]
    chosen = ~matching_rows(frame, conditions, "ignore") if conditions else np.ones(len(frame), dtype=bool)
    if len(accept):
        chosen &= matching_rows(frame, accept, "accept")
    frame = frame.loc[chosen, [name for name in names if not name.startswith("-")]]
    if not len(frame):
        raise DataError(f"{source}: no row of the data is kept.")
    return _numbers(frame, source).reset_index(drop=True)


def _read_file(file: Path, names: list[str], marks: list[str], rows: int | None) -> tuple[pd.DataFrame, str]:
    """The cells of a file as text, by lines, and its name."""
    if not file.is_file():
        raise DataError(f"There is no data file {file}.")
    cells: list[list[str]] = []
    lines: list[int] = []
    text = file.read_bytes().decode("utf-8-sig", errors="replace")
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        if not line.strip() or any(is_comment(line, mark) for mark in marks or "#"):
            continue
        if rows is not None and len(cells) == rows:
            break
        found = _cells(line)
        cells.append((found + [""] * len(names))[: len(names)])
        lines.append(number)
    if not cells:
        raise DataError(f"The data file {file.name} has no rows.")
    kept = [place for place, name in enumerate(names) if name != "-"]
    frame = pd.DataFrame(
        {names[place].removeprefix("-"): [row[place] for row in cells] for place in kept}, index=pd.Index(lines)
    )
    return frame, file.name


def _cells(line: str) -> list[str]:
    """Cells of a line: a comma ends one, so do blanks without a comma."""
    line = line.replace("\t", " ") if "," in line else re.sub(r" *\t *", ",", line.strip(" "))
    return [cell.strip('"').strip() for cell in re.split(r"\s*,\s*|\s+", line.strip())]


def _numbers(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    read: dict[str, object] = {}
    for name in frame:
        column = frame[name]
        if column.dtype.kind in "iufb":
            read[str(name)] = column.astype(float)
            continue
        if name in _TIMES and column.str.contains(r"[:/]|\d-", regex=True).any():
            read[str(name)] = column
            continue
        empty = column.isin(["", "."])
        value = pd.to_numeric(column.mask(empty, "0").str.replace(r"[dD]", "E", regex=True), errors="coerce")
        wrong = value.isna().to_numpy()
        if wrong.any():
            line, cell = frame.index[wrong][0], column[wrong].iloc[0]
            raise DataError(
                f"{source}, line {line}: {cell!r} in column {name} is no number. Lines that begin with letters are "
                "left out with IGNORE=@, columns of text with DROP."
            )
        read[str(name)] = value.astype(float)
    return pd.DataFrame(read, index=frame.index)
