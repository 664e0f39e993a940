"""Cells: numbers, labels, and what is missing."""

import numpy as np
import pandas as pd
import pytest

from nlme_torch.data.table.cells import as_label, read_ids, read_labels, read_numbers


@pytest.mark.parametrize("token", ["", " ", ".", "NA", "NaN", "n/a", "null", None, float("nan"), pd.NA])
def test_missing_tokens_are_missing_not_zero(token):
    problems = []
    value, missing = read_numbers(pd.Series([1.5, token], dtype=object, name="DV"), problems)
    assert missing.tolist() == [False, True]
    assert value[0] == 1.5 and np.isnan(value[1])
    assert problems == []


@pytest.mark.parametrize("cell", ["abc", "<0.1", "1,5", "12:30", pd.Timestamp("2020-01-01")])
def test_a_cell_that_is_no_number_is_a_problem_in_its_row(cell):
    problems = []
    read_numbers(pd.Series([1.0, cell, 2.0], dtype=object, name="DV"), problems)
    assert [(p.row, p.column) for p in problems] == [(1, "DV")]
    assert "is not a number" in problems[0].message


def test_infinity_is_a_problem():
    problems = []
    value, _ = read_numbers(pd.Series([1.0, np.inf], name="WT"), problems)
    assert "not finite" in problems[0].message and np.isnan(value[1])


@pytest.mark.parametrize("dtype", ["int64", "float32", "Int64", "Float64", "object", "string"])
def test_numbers_of_every_dtype(dtype):
    series = pd.Series(["1", "2", "3"] if dtype == "string" else [1, 2, 3], dtype=dtype, name="x")
    value, missing = read_numbers(series, [])
    assert value.tolist() == [1.0, 2.0, 3.0] and not missing.any()


def test_labels_do_not_depend_on_how_a_number_is_written():
    assert read_labels(pd.Series([1, 1.0, "1", " 1 ", "cp", ".", 2.5], dtype=object)) == [
        1,
        1,
        1,
        1,
        "cp",
        None,
        2.5,
    ]
    assert as_label(np.int64(3)) == 3 and as_label("a ") == "a"


def test_ids_keep_text_but_floats_become_integers():
    assert read_ids(pd.Series(["01", "1", "A"])) == ["01", "1", "A"]
    ids = read_ids(pd.Series([1.0, 2.0]))
    assert ids == [1, 2] and all(isinstance(i, int) for i in ids)
