import numpy as np
import pandas as pd
import pytest
from tables import dosed, table

from nlme_torch import DataError
from nlme_torch.data import Dataset

LONG = pd.DataFrame(
    {"ID": [1, 1, 1, 2, 2], "TIME": [0.0, 0.0, 2.0, 0.0, 1.0], "DV": [5.0, 90.0, 4.0, 80.0, 3.0],
     "DVID": [1, 2, 1, 2, 1]}
)  # fmt: skip


def observed(batch, name):
    outcome = batch.outcomes[name]
    return [row[mask].tolist() for row, mask in zip(outcome.value.T, outcome.mask.T, strict=True)]


@pytest.mark.parametrize("labels", [[1, 2, 1, 2, 1], ["1", "2", "1", "2", "1"], [1.0, 2.0, 1.0, 2.0, 1.0]])
def test_long_table_by_label(labels):
    data = Dataset.from_frame(LONG.assign(DVID=labels), outputs={"yPK": 1, "yPD": "2"})
    batch = data.batch()
    assert observed(batch, "yPK") == [[5.0, 4.0], [3.0]]
    assert observed(batch, "yPD") == [[90.0], [80.0]]
    assert data.n_observations == batch.n_observations == 5


def test_long_table_without_outputs_is_split_by_its_labels():
    assert Dataset.from_frame(LONG).outputs == ("DV1", "DV2")
    named = LONG.assign(DVID=["cp", "pca", "cp", "pca", "cp"])
    assert Dataset.from_frame(named).outputs == ("cp", "pca")


def test_a_label_left_out_is_counted_not_dropped_in_silence():
    data = Dataset.from_frame(LONG, outputs={"PK": 1})
    ignored = data.describe().ignored.set_index("reason")
    assert ignored.loc["DVID is not one of the outputs", "count"] == 2
    assert ignored.loc["DVID is not one of the outputs", "first row"] == 2
    assert data.batch().times.shape == (3, 2)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"PK": 3}, r"output 'PK': 3 is neither a column nor a DVID label \(there are: 1, 2\)"),
        ("DV", "column DV: holds several outcomes, told apart by DVID: 1, 2"),
        ({"PK": "CP"}, "'CP' is neither a column nor a DVID label"),
    ],
)
def test_outputs_that_cannot_be_found(outputs, message):
    with pytest.raises(DataError, match=message):
        Dataset.from_frame(LONG, outputs=outputs)


def test_pooling_labels_on_purpose():
    assert Dataset.from_frame(LONG, ignore="DVID").n_observations == 5


def test_a_value_that_is_both_column_and_label_is_ambiguous():
    frame = LONG.assign(DVID=["cp", "pca", "cp", "pca", "cp"], cp=1.0, pca=2.0)
    with pytest.raises(DataError, match="cp, pca: both column and DVID label"):
        Dataset.from_frame(frame, outputs={"a": "cp", "b": "pca"})


def test_no_value_column():
    with pytest.raises(DataError, match=r"no column DV.*outputs="):
        Dataset.from_frame(table(DV=[1.0, 2.0]).rename(columns={"DV": "conc"}))


def test_wide_table_a_missing_cell_is_not_observed():
    frame = table(CP=[1.0, np.nan, 3.0], PCA=[np.nan, 50.0, 60.0])
    batch = Dataset.from_frame(frame, outputs=["CP", "PCA"]).batch()
    assert observed(batch, "CP") == [[1.0, 3.0]] and observed(batch, "PCA") == [[50.0, 60.0]]
    assert batch.outcomes["CP"].value[1, 0] == 0.0


def test_wide_table_a_row_with_nothing_observed_is_a_record_and_is_counted():
    frame = table(CP=[1.0, np.nan, 3.0], PCA=[np.nan, np.nan, 60.0])
    data = Dataset.from_frame(frame, outputs=["CP", "PCA"])
    assert data.batch().record_mask.sum() == 3
    assert data.describe().ignored.values.tolist() == [["no value of any output", 1, 2]]


@pytest.mark.parametrize("cell", [np.nan, ".", "NA", ""])
def test_a_missing_value_in_a_plain_table_is_an_error(cell):
    with pytest.raises(DataError, match=r"row 2, subject 1, column DV: the observation is missing.*MDV"):
        Dataset.from_frame(table(DV=[1.0, cell, 2.0]))


def test_a_missing_value_on_a_row_that_claims_one_is_an_error():
    frame = dosed(DV=[".", ".", 3.0])
    assert Dataset.from_frame(frame).n_observations == 1
    with pytest.raises(DataError, match=r"row 2, subject 1, column DV: the observation is missing"):
        Dataset.from_frame(frame.assign(MDV=[1, 0, 0]))


def test_mdv_makes_a_record_without_observation():
    data = Dataset.from_frame(table(DV=[1.0, 9.0, 2.0], MDV=[0, 1, 0]))
    assert observed(data.batch(), "DV") == [[1.0, 2.0]]
    assert data.describe().ignored.values.tolist() == [["MDV is 1 on an observation row", 1, 2]]


def test_text_where_a_value_must_be_is_never_read_as_zero():
    with pytest.raises(DataError, match=r"row 2, subject 1, column DV: '<LLOQ' is not a number"):
        Dataset.from_frame(table(DV=[1.0, "<LLOQ", 2.0]))


def test_a_value_on_a_dosing_row_is_counted():
    ignored = Dataset.from_frame(dosed(DV=[7.0, 5.0, 3.0])).describe().ignored
    assert ignored["count"].tolist() == [1] and "no observation (EVID 1 to 4)" in ignored["reason"][0]
