"""Small tables written as text, as a user's file would hold them."""

import io
from pathlib import Path

import pandas as pd
import pytest

from nlme_torch.data import Dataset

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def table(text: str) -> pd.DataFrame:
    """A table from lines of cells separated by blanks; cells stay as text where a column is not numeric."""
    return pd.read_csv(io.StringIO(text.strip()), sep=r"\s+", keep_default_na=False)


def read(text: str, **columns) -> Dataset:
    return Dataset.from_frame(table(text), **columns)


def shared(name: str) -> Path:
    """A file that is not bundled; the test is skipped where it is absent."""
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"{name} is not here")
    return path


ONE_DOSE = """
ID TIME AMT DV
1  0    100 .
1  1    0   5.0
1  4    0   3.0
2  0    150 .
2  2    0   6.0
"""
