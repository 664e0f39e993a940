"""What a saved fit's files hold, read so that damage is an error that says what and where."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nlme_torch.errors import FitError

Number = (int, float)


def damaged(folder: Path, what: str) -> FitError:
    """Return the error of a saved fit that is not what was saved.

    Args:
        folder: Of the fit.
        what: Which file or entry, and what is wrong with it.
    """
    return FitError(f"{folder} cannot be read ({what}); it is damaged, save the fit again.")


class Entries:
    """A JSON object whose entries are asked for by their type.

    Args:
        folder: Of the fit, for messages.
        where: Which part of ``fit.json`` it is, for messages.
        values: The object.

    Raises:
        FitError: It is no object.
    """

    def __init__(self, folder: Path, where: str, values: Any) -> None:
        self.folder, self.where = folder, where
        if not isinstance(values, dict):
            raise damaged(folder, f"{where} is no object but {type(values).__name__}")
        self.values: dict[str, Any] = values

    def take(self, name: str, kind: type | tuple[type, ...]) -> Any:
        """Return an entry.

        Args:
            name: Of the entry.
            kind: What it must be an instance of; a truth value is no number.

        Raises:
            FitError: It is missing or something else.
        """
        if name not in self.values:
            raise damaged(self.folder, f"{self.where} has no entry {name!r}")
        value = self.values[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise damaged(self.folder, f"{self.where}: {name!r} is {value!r:.40}, of the wrong type")
        return value

    def part(self, name: str) -> "Entries":
        """Return an entry that is an object itself."""
        return Entries(self.folder, f"{self.where}: {name}", self.take(name, dict))

    def texts(self, name: str) -> tuple[str, ...]:
        """Return an entry that is a list of texts."""
        found = self.take(name, list)
        if not all(isinstance(text, str) for text in found):
            raise damaged(self.folder, f"{self.where}: {name!r} holds something that is no text")
        return tuple(found)


class Tensors:
    """The tensors of a saved fit, asked for by name and shape.

    Args:
        folder: Of the fit, for messages.
        values: Name to tensor.
    """

    def __init__(self, folder: Path, values: Mapping[str, Tensor]) -> None:
        self.folder, self.values = folder, dict(values)

    def take(self, name: str, shape: Sequence[int | None]) -> Tensor:
        """Return a tensor.

        Args:
            name: Of the tensor.
            shape: Its axes; None for one of any length.

        Raises:
            FitError: It is missing, of another shape, or holds no floating-point numbers.
        """
        if name not in self.values:
            raise damaged(self.folder, f"tensors.safetensors has no {name!r}")
        value = self.values[name]
        fits = len(shape) == value.ndim and all(a is None or a == b for a, b in zip(shape, value.shape, strict=True))
        if not fits or not value.is_floating_point():
            raise damaged(self.folder, f"tensors.safetensors: {name!r} is {value.dtype} of shape {tuple(value.shape)}")
        return value


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        FitError: The file is missing or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path.parent, f"{path.name}: {error}") from error
    return Entries(path.parent, path.name, found).values


def read_tensors(path: Path) -> Tensors:
    """Return the tensors of a file.

    Raises:
        FitError: The file is missing or damaged.
    """
    try:
        return Tensors(path.parent, load_file(path))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise damaged(path.parent, f"{path.name}: {error}") from error


def read_table(path: Path) -> pd.DataFrame:
    """Return a table whose numbers are bit for bit what was written, whatever the version of pandas.

    Raises:
        FitError: The file is missing or no table.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise damaged(path.parent, f"{path.name}: {error}") from error
    return table.apply(_numbers)


def _numbers(column: pd.Series) -> pd.Series:
    for number in (int, float):
        try:
            return column.map(lambda cell, number=number: number(cell or "nan"))
        except (TypeError, ValueError):  # a cell that is no such number, or that a shortened row lacks
            continue
    return column


def checksum(content: bytes) -> str:
    """Return the SHA-256 of some bytes in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def entry_checksum(value: Any) -> str:
    """Return the SHA-256 of a JSON value, which its spaces and the order of its entries do not change."""
    return checksum(json.dumps(value, sort_keys=True).encode())


def file_checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a folder."""
    return {path.name: checksum(path.read_bytes()) for path in sorted(folder.iterdir())}


def check_files(folder: Path, sums: Entries) -> None:
    """Compare the files of a folder with their checksums.

    Args:
        folder: Of the fit.
        sums: File name to SHA-256.

    Raises:
        FitError: A file is missing or not as it was saved; names it.
    """
    for name in sums.values:
        try:
            content = (folder / name).read_bytes()
        except (OSError, ValueError) as error:
            raise damaged(folder, f"{name}: {error}") from error
        if checksum(content) != sums.take(name, str):
            raise damaged(folder, f"{name} is not as it was saved: its checksum differs")
