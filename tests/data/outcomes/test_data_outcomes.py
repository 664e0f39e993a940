"""What counts as an observation: long and wide tables, MDV, censoring; nothing is dropped in silence."""

import math

import pytest
from support.data_tables import read

from nlme_torch import DataError
from nlme_torch.data import Dataset

LONG = "ID TIME DV DVID\n1 0 5 {0}\n1 0 90 {1}\n1 2 4 {0}\n2 0 80 {1}\n2 1 3 {0}\n"


def observed(data, name):
    """The values of an output, subject by subject."""
    outcome = data.batch().outcomes[name]
    return [values[mask].tolist() for values, mask in zip(outcome.value.T, outcome.mask.T, strict=True)]


@pytest.mark.parametrize("labels", [("1", "2"), ("1.0", "2.0"), ("01", "x")])
@pytest.mark.parametrize("kind", [int, str, float])
def test_a_label_is_the_same_however_it_is_written(labels, kind):
    outputs = {"yPK": kind(1), "yPD": labels[1] if labels[1] == "x" else kind(2)}
    data = read(LONG.format(*labels), outputs=outputs)
    assert observed(data, "yPK") == [[5.0, 4.0], [3.0]] and observed(data, "yPD") == [[90.0], [80.0]]
    assert data.n_observations == 5


def test_a_label_left_out_is_counted():
    data = read(LONG.format(1, 2), outputs={"PK": 1})
    assert data.describe().ignored.values.tolist() == [["DVID is not one of the outputs", 2, "row 1"]]
    assert data.batch().record_mask.sum() == 5


def test_labels_pooled_on_purpose():
    assert read(LONG.format(1, 2), ignore="DVID").n_observations == 5


def test_a_value_that_is_both_column_and_label_is_ambiguous():
    text = "ID TIME DV DVID cp pca\n1 0 5 cp 1 2\n1 0 90 pca 1 2"
    with pytest.raises(DataError, match="cp, pca: both column and DVID label"):
        read(text, outputs={"a": "cp", "b": "pca"})
    assert observed(read(text, outputs={"a": "cp", "b": "pca"}, ignore="DVID"), "b") == [[2.0, 2.0]]


def test_two_candidates_for_a_part_are_settled_by_the_user():
    text = "ID TIME DV dv\n1 0 1 3\n1 1 2 4"
    assert observed(read(text, dv="dv"), "dv") == [[3.0, 4.0]]
    assert observed(read(text, ignore="dv"), "DV") == [[1.0, 2.0]]


def test_a_column_that_has_the_name_of_a_part_but_another_meaning():
    text = "ID TIME DV EVID RATE\n1 0 1 0 high\n1 1 2 0 high"
    with pytest.raises(DataError, match="column RATE: 'high' is not a number"):
        read(text)
    assert read(text, ignore="RATE").n_observations == 2


def test_mdv_makes_a_record_without_observation():
    data = read("ID TIME DV MDV\n1 0 1 0\n1 1 9 1\n1 2 2 0")
    assert observed(data, "DV") == [[1.0, 2.0]] and data.batch().n_records == 3
    assert data.describe().ignored.values.tolist() == [["MDV is 1 on an observation row", 1, "row 1"]]


def test_an_empty_cell_is_a_record_without_observation_where_evid_says_what_rows_are():
    data = read("ID TIME DV EVID\n1 0 1 0\n1 1 . 0\n1 2 2 0")
    assert observed(data, "DV") == [[1.0, 2.0]] and data.batch().n_records == 3
    assert data.describe().ignored.values.tolist() == [["no value of any output", 1, "row 1"]]


def test_a_value_on_a_dosing_row_is_counted_unless_it_is_zero():
    text = "ID TIME DV EVID AMT\n1 0 {} 1 100\n1 1 5 0 0"
    ignored = read(text.format(7)).describe().ignored
    assert ignored["count"].tolist() == [1] and "no observation (EVID 1 to 4)" in ignored["reason"][0]
    assert len(read(text.format(0)).describe().ignored) == 0


def test_censoring_reaches_the_batch():
    data = read("ID TIME DV CENS LIMIT\n1 0 5.0 0 .\n1 1 0.1 1 0\n1 2 0.1 1 .\n1 3 9 -1 .\n2 0 4 0 .\n")
    outcome = data.batch().outcomes["DV"]
    assert outcome.censoring.T.tolist() == [[0, 1, 1, -1], [0, 0, 0, 0]]
    assert outcome.limit[1:, 0].tolist() == [0.0, -math.inf, math.inf]
    assert outcome.mask[:, 0].all() and outcome.value[:, 0].tolist() == [5.0, 0.1, 0.1, 9.0]
    assert data.describe().observations["censored"].tolist() == [3]


def test_without_censored_values_there_are_no_codes():
    outcome = read("ID TIME DV CENS\n1 0 5.0 0\n1 1 1.0 .").batch().outcomes["DV"]
    assert outcome.censoring is None and outcome.limit is None


def test_only_the_censored_output_carries_codes():
    outcomes = read("ID TIME DV DVID CENS\n1 0 5 1 0\n1 1 0.1 1 1\n1 2 70 2 0").batch().outcomes
    assert outcomes["DV1"].censoring[:, 0].tolist() == [0, 1, 0] and outcomes["DV2"].censoring is None


def test_a_censored_row_has_one_value():
    with pytest.raises(DataError, match="row 1, subject 1, column CENS.*several observed values"):
        read("ID TIME A B CENS\n1 0 1 1 0\n1 1 2 2 1", outputs=["A", "B"])


def test_cens_without_limit_is_legal_but_checked():
    text = "ID TIME DV CENS LIMIT\n1 0 5 0 .\n1 1 0.1 1 {}\n"
    found = read(text.format(".")).check()
    assert found[["severity", "rule", "row", "column"]].values.tolist() == [
        ["warning", "CENS without LIMIT", 1, "CENS"]
    ]
    assert len(read(text.format(0)).check()) == 0
    assert isinstance(read(text.format(".")), Dataset)
