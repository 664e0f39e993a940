"""Covariates: which columns are, how gaps are filled, and what holds between rows; occasions."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data_tables import read

from nlme_torch import DataError
from nlme_torch.data import Dataset

RULES = ("locf", "nocb", "linear")


def test_undeclared_covariates_are_the_columns_that_can_be():
    data = read(
        "ID TIME DV WT SEX CR AGE NOTE\n1 0 1 70 m 5 30 a\n1 1 2 70 m 6 . b\n2 0 1 60 f 5 . a\n2 1 1 60 f 5 40 a\n"
    )
    assert data.covariate_names == ("WT",)
    why = data.describe().unused.set_index("column")["reason"]
    assert "text" in why["SEX"] and "time_varying=" in why["CR"] and why["AGE"] == "has missing values"


def test_declared_covariates_are_those_and_no_others():
    text = "ID TIME DV WT AGE\n1 0 1 70 30\n"
    assert read(text, covariates="AGE").covariate_names == ("AGE",)
    assert read(text, covariates=[]).covariate_names == ()
    assert read(text, covariates=[]).describe().unused["reason"].unique().tolist() == ["not among covariates="]
    assert read(text, ignore="AGE").covariate_names == ("WT",)


def test_text_becomes_a_category_in_alphabetical_order():
    data = read("ID TIME DV SEX\n1 0 1 male\n2 0 1 female\n3 0 1 male\n", covariates="SEX")
    assert data.categories == {"SEX": ("female", "male")}
    assert data.batch().covariates["SEX"].tolist() == [1, 0, 1]
    # a subset keeps the coding, so that a model fitted to all of them can be used for a few
    assert data.subset([1, 3]).categories == data.categories
    assert data.subset([1, 3]).batch().covariates["SEX"].tolist() == [1, 1]


def test_levels_can_be_stated_to_code_a_table_as_another_one():
    both = read("ID TIME DV SEX\n1 0 1 male\n2 0 1 female\n", covariates="SEX")
    men = "ID TIME DV SEX\n1 0 1 male\n"
    assert read(men, covariates="SEX").batch().covariates["SEX"].tolist() == [0]
    assert read(men, covariates="SEX", levels=both.categories).batch().covariates["SEX"].tolist() == [1]
    grade = read("ID TIME DV G\n1 0 1 7\n", covariates="G", levels={"G": ["3", "7"]})
    assert grade.categories == {"G": ("3", "7")} and grade.batch().covariates["G"].tolist() == [1]
    with pytest.raises(DataError, match="row 0, subject 1, column SEX: 'male' is none of the levels f, m"):
        read(men, covariates="SEX", levels={"SEX": ["f", "m"]})
    with pytest.raises(DataError, match="column SEX: given in levels= but"):
        read(men, covariates=[], levels={"SEX": ["male"]})
    with pytest.raises(DataError, match="'a' is named twice as level"):
        read(men, covariates="SEX", levels={"SEX": ["a", "male", "a"]})


def test_a_constant_covariate_may_stand_in_the_first_row_only():
    data = read("ID TIME DV WT\n1 0 1 70\n1 1 2 .\n2 0 1 60\n2 3 1 60\n", covariates="WT")
    assert data.batch().covariates["WT"].tolist() == [70, 60]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("locf", [10, 10, 10, 40, 40]), ("nocb", [10, 40, 40, 40, 40]), ("linear", [10, 20, 25, 40, 40])],
)
def test_gaps_are_filled_by_the_rule(rule, expected):
    data = read("ID TIME DV CR\n1 0 1 10\n1 2 1 .\n1 3 1 .\n1 6 1 40\n1 7 1 .\n2 0 1 3\n", time_varying={"CR": rule})
    batch = data.batch()
    assert batch.covariates["CR"][:, 0].tolist() == expected
    assert batch.covariates["CR"][:, 1].tolist() == [3] * 5
    assert batch.interpolation["CR"] == rule


@settings(max_examples=30, deadline=None)
@given(
    times=st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True).map(sorted),
    values=st.lists(st.floats(-9, 9), min_size=7, max_size=7),
    interval=st.integers(1, 9),
)
def test_repeats_between_rows_follow_the_rule(times, values, interval):
    knots = np.array([0.0, *times])
    levels = np.array(values[: len(knots)])
    frame = pd.DataFrame({"ID": 1, "TIME": knots, "DV": 1.0, "AMT": 0.0, "ADDL": 0, "II": 0.0, "X": levels})
    frame.loc[0, ["AMT", "ADDL", "II"]] = [1.0, 50, interval]
    for rule in RULES:
        batch = Dataset.from_frame(frame.astype({"DV": object}), time_varying={"X": rule}).batch()
        at = batch.times[:, 0].numpy()
        previous = levels[np.searchsorted(knots, at, side="right") - 1]
        following = levels[np.searchsorted(knots, at, side="left")]
        expected = {"locf": previous, "nocb": following, "linear": np.interp(at, knots, levels)}[rule]
        np.testing.assert_allclose(batch.covariates["X"][:, 0].numpy(), expected, rtol=0, atol=1e-12)


def test_a_repeat_has_the_constant_covariates_and_the_occasion_of_its_time():
    data = read(
        "ID TIME AMT ADDL II DV OCC\n1 0 9 3 10 . a\n1 15 0 0 0 1 b\n1 35 0 0 0 2 a\n2 0 9 0 0 . b\n2 1 0 0 0 3 b\n",
        covariates=[],
    )
    batch = data.batch()
    assert batch.times[:, 0].tolist() == [0, 10, 15, 20, 30, 35]
    assert batch.occasion.T.tolist() == [[0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]]
    assert data.with_times({1: [16.0]}).batch().occasion[:, 0].tolist() == [0, 0, 1, 1, 1, 1, 0]
    assert data.describe().counts["occasions, at most"] == 2
    assert batch.select([1]).occasion[:, 0].tolist() == [0, 0]


def test_an_occasion_column_of_another_name():
    text = "ID TIME DV VISIT\n1 0 1 first\n1 1 2 second\n"
    assert read(text).batch().occasion is None
    assert read(text, occasion="VISIT").batch().occasion[:, 0].tolist() == [0, 1]


def test_the_table_of_covariates_is_by_subject():
    data = read("ID TIME DV WT CR\nb 0 1 70 1\nb 1 2 70 2\na 0 1 60 3\n", covariates="WT", time_varying="CR")
    assert data.covariates.to_dict("index") == {"b": {"WT": 70, "CR": 1}, "a": {"WT": 60, "CR": 3}}
    assert data.covariates.index.name == "ID"
    batch = data.batch(torch.float32)
    assert batch.covariates["CR"].shape == (2, 2) and batch.covariates["WT"].shape == (2,)
