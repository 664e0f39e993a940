"""Limits of quantification: lloq=, texts in the value column, a flag beside a limit; all become CENS at the limit."""

import numpy as np
import pandas as pd
import pytest
from support.data_tables import read, shared

from nlme_torch import DataError
from nlme_torch.data import Dataset

BY_HAND = "ID TIME DV CENS\n1 0 5 0\n1 1 0.5 1\n1 2 0.7 0\n2 0 0.5 1\n2 1 9 0\n"


def same(data):
    """Whether a data set is censored as the one written by hand."""
    found, expected = data.batch().outcomes["DV"], read(BY_HAND).batch().outcomes["DV"]
    return (
        found.value.equal(expected.value)
        and found.mask.equal(expected.mask)
        and found.censoring.equal(expected.censoring)
        and Dataset.from_frame(data.to_frame(), ignore=[n for n in ("BLQ", "LLOQ", "Q") if n in data.frame]) == data
    )


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("ID TIME DV\n1 0 5\n1 1 0.2\n1 2 0.7\n2 0 0\n2 1 9", {"lloq": 0.5}),
        ("ID TIME DV Q\n1 0 5 .5\n1 1 0.2 .5\n1 2 0.7 .5\n2 0 0 .5\n2 1 9 .5", {"lloq": "Q"}),
        ("ID TIME DV\n1 0 5\n1 1 0.2\n1 2 0.7\n2 0 0\n2 1 9", {"lloq": {"DV": 0.5}}),
        ("ID TIME DV CENS\n1 0 5 0\n1 1 0 1\n1 2 0.7 0\n2 0 . 1\n2 1 9 0", {"lloq": 0.5}),
        ("ID TIME DV\n1 0 5\n1 1 <0.5\n1 2 0.7\n2 0 <0.5\n2 1 9", {"blq": "censored"}),
        ("ID TIME DV\n1 0 5\n1 1 <0.5\n1 2 0.7\n2 0 BLQ\n2 1 9", {"blq": 0.5}),
        ("ID TIME DV\n1 0 5\n1 1 bloq\n1 2 0.7\n2 0 <LOQ\n2 1 9", {"blq": "M3", "lloq": 0.5}),
        ("ID TIME DV\n1 0 5\n1 1 tiny\n1 2 0.7\n2 0 tiny\n2 1 9", {"blq": "tiny", "lloq": 0.5}),
        ("ID TIME DV BLQ LLOQ\n1 0 5 0 .5\n1 1 0 1 .5\n1 2 0.7 0 .5\n2 0 . 1 .5\n2 1 9 0 .5", {}),
        ("ID TIME DV BLQ\n1 0 5 0\n1 1 0.5 1\n1 2 0.7 0\n2 0 0.25 1\n2 1 9 0", {"lloq": 0.5}),
        (
            "ID TIME DV BLQ Q\n1 0 5 0 .5\n1 1 0 1 .5\n1 2 0.7 0 .5\n2 0 . 1 .5\n2 1 9 0 .5",
            {"cens": "BLQ", "lloq": "Q"},
        ),
    ],
)
def test_ways_to_say_the_same(text, columns):
    data = read(text, **columns)
    if columns.get("cens") == "BLQ":
        assert data.batch().outcomes["DV"].value.T.tolist() == [[5, 0.5, 0.7], [0.5, 9, 0]]
        return
    assert same(data)
    assert "DV 5 (2 censored)" in repr(data)


def test_the_limit_of_a_published_table():
    data = Dataset.from_csv(shared("bauer_ad3tr4.csv"), lloq=-3.5)
    outcome = data.batch().outcomes["DV"]
    assert int((outcome.censoring == 1).sum()) == 104 and outcome.n_observations == 500
    assert (outcome.value[outcome.censoring == 1] == -3.5).all()
    assert bool((outcome.value[outcome.mask & (outcome.censoring == 0)] >= -3.5).all())
    assert data.warnings == ()


def test_limits_by_outcome_and_above():
    text = "ID TIME DV DVID\n1 0 0.2 cp\n1 0 0.2 pca\n1 1 >100 pca\n1 1 3 cp\n"
    batch = read(text, lloq={"cp": 0.5}, blq="censored").batch()
    assert batch.outcomes["cp"].value[batch.outcomes["cp"].mask].tolist() == [0.5, 3]
    assert batch.outcomes["pca"].value[batch.outcomes["pca"].mask].tolist() == [0.2, 100]
    assert batch.outcomes["pca"].censoring[batch.outcomes["pca"].mask].tolist() == [0, -1]
    with pytest.raises(DataError, match="one limit for several outcomes"):
        read(text, lloq=0.5, blq="censored")


def test_what_is_missing_is_left_out():
    data = read("ID TIME DV\n1 0 5\n1 1 <0.5\n1 2 BLQ\n2 0 3\n", blq="missing")
    assert data.batch().outcomes["DV"].mask.T.tolist() == [[True, False, False], [True, False, False]]
    assert data.describe().ignored["count"].tolist() == [2]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("ID TIME DV\n1 0 5\n1 1 <0.5", {}, "'<0.5' is not a number(.|\n)*blq="),
        ("ID TIME DV\n1 0 5\n1 1 BLQ", {}, "'BLQ' is not a number(.|\n)*blq="),
        ("ID TIME DV\n1 0 5\n1 1 BLQ", {"blq": "censored"}, "row 1(.|\n)*'BLQ' names no limit"),
        ("ID TIME DV\n1 0 5\n1 1 >high", {"blq": "censored"}, "names no upper limit"),
        ("ID TIME DV CENS\n1 0 5 0\n1 1 0.2 0", {"lloq": 0.5}, "row 1(.|\n)*0.2 lies below the limit 0.5, but is not"),
        ("ID TIME DV CENS\n1 0 5 1\n1 1 2 0", {"lloq": 0.5}, "row 0(.|\n)*marked as censored, but lies above"),
        ("ID TIME DV BLQ LLOQ\n1 0 5 0 1\n1 1 . 1 .", {}, "row 1(.|\n)*limit of quantification that is missing"),
        ("ID TIME DV\n1 0 5", {"lloq": "QQ"}, "neither a number nor a column"),
        ("ID TIME DV L\n1 0 5 1", {"limit": "L"}, "nothing is censored: give cens="),
        ("ID TIME DV CENS EVID\n1 0 5 0 0\n1 1 . 1 0", {}, "CENS without a value"),
    ],
)
def test_limits_that_cannot_be(text, columns, message):
    with pytest.raises(DataError, match=message):
        read(text, **columns)


def test_a_wide_table_has_a_limit_for_each_outcome():
    frame = pd.DataFrame({"ID": [1, 1], "TIME": [0.0, 1.0], "CP": [0.1, np.nan], "PD": [np.nan, 0.1], "MDV": 0})
    outcomes = Dataset.from_frame(frame, outputs=["CP", "PD"], lloq={"CP": 0.5}).batch().outcomes
    assert outcomes["CP"].value[:, 0].tolist() == [0.5, 0.0] and outcomes["CP"].censoring[:, 0].tolist() == [1, 0]
    assert outcomes["PD"].censoring is None or not outcomes["PD"].censoring.any()
