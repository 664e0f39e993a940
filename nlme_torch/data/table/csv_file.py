"""Reading a text file without changing what it says."""

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nlme_torch.data.table.cells import MISSING_TOKENS, as_number
from nlme_torch.errors import DataError

Header = int | Sequence[str] | None
"""The line of names among those that are left, or the names of a file without such a line."""


def read_csv(
    path: Any,
    *,
    sep: str = ",",
    decimal: str = ".",
    thousands: str | None = None,
    encoding: str = "utf-8",
    comment: str | None = None,
    skip_rows: int | Iterable[int] = 0,
    header: Header = 0,
) -> pd.DataFrame:
    """Read a text file; empty cells, ``.`` and ``NA`` are missing. The index holds the lines of the file, from 1.

    The header is read apart from the rows, because pandas would give a second column of the same name a new one in
    silence, and lines that NONMEM leaves out are dropped before anything is read.

    Args:
        path: the file.
        sep: what separates columns.
        decimal: the decimal point.
        thousands: what marks thousands.
        encoding: of the file.
        comment: NONMEM's IGNORE: ``"@"`` (lines that begin with a letter or ``@``), or the character in the first
            place of the lines to leave out.
        skip_rows: how many lines at the top to leave out, or which lines of the file (from 0).
        header: which of the remaining lines holds the names, or the names.

    Raises:
        DataError: if the file is absent, empty or no table.
    """
    lines = _lines(path, encoding)
    skipped = set(range(skip_rows)) if isinstance(skip_rows, int) else set(skip_rows)
    places = [number for number, line in enumerate(lines) if number not in skipped and line.strip()]
    kept = [lines[number] for number in places]
    if not any(line.strip() for line in lines):
        raise DataError(f"The file {path} is empty.")
    if isinstance(header, int):
        position = header if comment is None else _header(kept, comment, sep, header)
        if position >= len(kept):
            raise DataError(f"The file {path} has {len(kept)} lines below skip_rows; header={header} is none of them.")
        heading, rows, places = kept[position], kept[position + 1 :], places[position + 1 :]
        names = _names(heading, sep, path)
        names[0] = names[0].lstrip("#@") if comment is not None else names[0]
    elif header is None:
        raise DataError(f"The file {path} has no names of columns: give them, header=['ID', 'TIME', ...].")
    else:
        rows, names = kept, [str(name) for name in header]
    if comment is not None:
        places = [number for number, line in zip(places, rows, strict=True) if not is_comment(line, comment)]
        rows = [lines[number] for number in places]
    if isinstance(header, int) and all(_is_value(name) for name in names):
        raise DataError(
            f"The file {path}: the first line holds numbers, {','.join(names[:6])}, and no names. Give them, "
            "header=['ID', 'TIME', ...]."
        )
    if not rows:
        return pd.DataFrame(columns=pd.Index(names))
    frame = _values(rows, path, sep, decimal, thousands)
    found = _named(frame, names, path, sep)
    if len(found) == len(places):  # else a cell went over several lines
        found.index = pd.Index(places) + 1
    return found


def is_comment(line: str, character: str) -> bool:
    """Whether NONMEM's ``IGNORE=character`` leaves a line out."""
    if character == "@":
        first = line.strip()[:1]
        return first == "@" or (first.isascii() and first.isalpha())
    return line[:1] == character


def _lines(path: Any, encoding: str) -> list[str]:
    try:
        file = Path(path)
        if not file.is_file():
            what = "is a directory" if file.is_dir() else "does not exist"
            raise DataError(f"There is no file {path}: it {what}.")
        raw = file.read_bytes()
    except (OSError, TypeError, ValueError) as error:
        raise DataError(f"The file {path!r} cannot be opened: {error}") from error
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        encoding = "utf-8-sig"  # a mark of byte order is no part of the first name
    try:
        text = raw.decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
        raise DataError(
            f"The file {path} cannot be read as text in {encoding} ({error}). Give its encoding, such as "
            "encoding='latin-1' or 'utf-16'."
        ) from error
    if "\x00" in text:
        raise DataError(f"The file {path} holds binary data, not text (or its encoding is another, such as 'utf-16').")
    return re.split(r"\r\n|\n|\r", text)


def _header(lines: Sequence[str], comment: str, sep: str, header: int) -> int:
    """The line of names: with comments dropped, the first that is as wide as the rows and holds no number."""
    left = [number for number, line in enumerate(lines) if not is_comment(line, comment)]
    if header or not left:
        return left[header] if header < len(left) else 0 if not left else len(lines)
    width = len(_cells(lines[left[0]], sep))
    for number in (left[0], *range(len(lines))):
        cells = _cells(lines[number], sep)
        if len(cells) == width and all(cell and not _is_value(cell) for cell in cells):
            return number
    return left[0]


def _cells(line: str, sep: str) -> list[str]:
    if sep in (",", ";", "\t", "|"):
        return [cell.strip().strip('"').strip() for cell in line.rstrip("\r\n").split(sep)]
    return re.split(sep, line.strip())


def _names(line: str, sep: str, path: Any) -> list[str]:
    try:
        found = pd.read_csv(io.StringIO(line), header=None, dtype=str, skipinitialspace=True, keep_default_na=False,
                            **_separator(sep))  # fmt: skip
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError, re.error) as error:
        raise DataError(f"The file {path} has no line of names that can be read with sep={sep!r}: {error}") from error
    return [str(name).strip() for name in found.iloc[0]]


def _separator(sep: str) -> dict[str, Any]:
    blank = sep in (r"\s+", " +", " ")
    return {"sep": r"\s+" if blank else sep, "engine": "c" if blank or len(sep) == 1 else "python"}


def _values(rows: Sequence[str], path: Any, sep: str, decimal: str, thousands: str | None) -> pd.DataFrame:
    settings = _separator(sep)
    if settings["engine"] == "c":
        settings["low_memory"] = False  # or a column could hold numbers in one part of the file and text in another
    try:
        return pd.read_csv(
            io.StringIO("\n".join(line.strip(" ") for line in rows)), header=None, na_values=["."],
            skipinitialspace=True, decimal=decimal, thousands=thousands, **settings,
        )  # fmt: skip
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError, OverflowError, re.error) as error:
        raise DataError(f"The file {path} cannot be read with separator {sep!r}: {error}") from error


def _named(frame: pd.DataFrame, names: list[str], path: Any, sep: str) -> pd.DataFrame:
    """The values under their names, without empty columns at the end."""
    width = max(frame.shape[1], len(names))
    names = names + [""] * (width - len(names))
    while frame.shape[1] and names[frame.shape[1] - 1] == "" and _is_empty(frame.iloc[:, -1]):
        frame = frame.iloc[:, :-1]
    while len(names) > frame.shape[1] and names[-1] == "":
        names = names[:-1]
    if len(names) != frame.shape[1] or "" in names:
        raise DataError(
            f"The file {path} has {len([name for name in names if name])} column names but {frame.shape[1]} columns of "
            f"values. Check its separator (sep={sep!r} was used) and its header."
        )
    frame.columns = pd.Index(names)
    return frame


def _is_value(name: str) -> bool:
    """Whether what should be a name is a number or a missing value."""
    return name.lower() in MISSING_TOKENS or as_number(name) == as_number(name)


def _is_empty(column: pd.Series) -> bool:
    return all(str(cell).strip().lower() in MISSING_TOKENS for cell in column)
