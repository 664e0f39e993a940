"""Small tables for the tests of the data package."""

import pandas as pd


def table(**columns):
    """Subject 1 with one value at each time, unless columns say otherwise."""
    size = len(next(iter(columns.values())))
    base = {"ID": [1] * size, "TIME": [float(k) for k in range(size)], "DV": [1.0] * size}
    return pd.DataFrame({**base, **columns})


def dosed(**columns):
    """A dose of 100 at time 0, then two observations; columns override."""
    base = {
        "ID": [1, 1, 1], "TIME": [0.0, 1.0, 2.0], "DV": [".", 5.0, 3.0], "EVID": [1, 0, 0], "AMT": [100.0, 0.0, 0.0],
    }  # fmt: skip
    return pd.DataFrame({**base, **columns})
