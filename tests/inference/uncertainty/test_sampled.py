"""The table of a sample of estimates, against numbers counted by hand."""

import math

import pandas as pd
import pytest

from nlme_torch.inference.uncertainty.sampled import sample_table


def test_every_column_is_what_its_name_says():
    draws = pd.DataFrame(
        {"cl": [1.0, 2.0, 4.0, 9.0, 14.0], "beta": [-3.0, -1.0, -2.0, -5.0, -4.0], "none": [1.0, -1.0, 0.5, 0.0, -0.5]}
    )
    table = sample_table([4.0, -2.5, 0.0], draws, 0.5)
    assert list(table.columns) == ["estimate", "median", "se", "rse_percent", "lower", "upper"]
    assert table["estimate"].tolist() == [4.0, -2.5, 0.0] and table["median"].tolist() == [4.0, -3.0, 0.0]
    assert table.loc["cl", "se"] == pytest.approx(math.sqrt((25 + 16 + 4 + 9 + 64) / 4), rel=1e-14)
    assert table.loc["cl", "rse_percent"] == pytest.approx(100 * math.sqrt(118 / 4) / 4, rel=1e-14)
    assert table.loc["beta", "rse_percent"] == pytest.approx(100 * math.sqrt(2.5) / 2.5, rel=1e-14)
    assert math.isnan(table.loc["none", "rse_percent"])  # not infinite
    assert table.loc["cl", ["lower", "upper"]].tolist() == [2.0, 9.0]
    assert table.loc["beta", ["lower", "upper"]].tolist() == [-4.0, -2.0]
    narrow = sample_table([4.0, -2.5, 0.0], draws, 0.0)
    assert (narrow["lower"] == narrow["median"]).all() and (narrow["upper"] == narrow["median"]).all()
