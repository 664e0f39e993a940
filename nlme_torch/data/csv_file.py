"""Reading a text file without changing what it says."""

from pathlib import Path

import pandas as pd

from ..errors import DataError


def read_csv(path: str | Path, sep: str = ",") -> pd.DataFrame:
    """Read a text file with one header line; empty cells, ``.`` and ``NA`` are missing.

    The header is read apart from the rows, because pandas would give a second column of the same name a new
    one in silence.

    Args:
        path: the file.
        sep: what separates columns.

    Raises:
        DataError: if the file is absent, empty or no table.
    """
    if not Path(path).is_file():
        raise DataError(f"There is no file {path}.")
    try:
        header = pd.read_csv(path, sep=sep, header=None, nrows=1, dtype=str, skipinitialspace=True)
    except pd.errors.EmptyDataError:
        raise DataError(f"The file {path} is empty.") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"The file {path} cannot be read as text in columns: {error}") from error
    names = pd.Index([str(name).strip() for name in header.iloc[0]])
    try:
        frame = pd.read_csv(path, sep=sep, header=None, skiprows=1, na_values=["."], skipinitialspace=True)
    except pd.errors.EmptyDataError:
        return pd.DataFrame(columns=names)
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"The file {path} cannot be read with separator {sep!r}: {error}") from error
    if len(names) != frame.shape[1]:
        raise DataError(
            f"The file {path} has {len(names)} column names but {frame.shape[1]} columns of values. Check "
            f"its separator (sep={sep!r} was used) and its header."
        )
    frame.columns = names
    return frame
