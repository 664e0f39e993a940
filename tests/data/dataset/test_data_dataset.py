"""The data set: reading, looking, cutting, and not changing."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from support.data_tables import ONE_DOSE, read, table

from nlme_torch import DataError
from nlme_torch.data import Dataset
from nlme_torch.examples import phenobarbital, theophylline

PKPD = """
ID TIME AMT DVID DV
A  0    10  .    .
A  1    0   1    3.5
A  1    0   2    40
B  0    20  .    .
B  2    0   2    60
"""


def test_columns_by_the_users_names():
    frame = pd.DataFrame({"who": ["a", "a", "b"], "h": [0, 1, 0], "cp": [1.0, 2.0, 3.0], "kg": [60, 60, 70]})
    dataset = Dataset.from_frame(frame, id="who", time="h", outputs="cp", covariates="kg")
    assert dataset.subjects == ("a", "b") and dataset.n_rows == 3 and len(dataset) == 2
    assert dataset.batch().covariates["kg"].tolist() == [60.0, 70.0]
    assert dataset.covariates.loc["b", "kg"] == 70
    assert list(dataset.frame) == ["who", "h", "cp", "kg"]


def test_nonmem_names_in_any_case_need_no_mapping():
    dataset = read("id Time dv wt\n1 0 1 70\n1 1 2 70")
    assert dataset.outputs == ("dv",) and dataset.covariate_names == ("wt",)


def test_a_long_table_has_one_output_for_each_label(tmp_path):
    path = tmp_path / "pkpd.csv"
    table(PKPD).to_csv(path, index=False)
    dataset = Dataset.from_csv(path, outputs={"yPK": 1, "yPD": 2})
    batch = dataset.batch()
    assert dataset.outputs == ("yPK", "yPD")
    assert batch.outcomes["yPK"].value.tolist() == [[0, 0], [3.5, 0], [0, 0]]
    assert batch.outcomes["yPD"].value.tolist() == [[0, 0], [0, 60], [40, 0]]
    assert read(PKPD).outputs == ("DV1", "DV2")
    named = table(PKPD).assign(DVID=[".", "cp", "pca", ".", "pca"])
    assert Dataset.from_frame(named).outputs == ("cp", "pca")


def test_a_wide_table_has_one_output_for_each_column():
    text = "ID TIME CP PCA\n1 0 . 100\n1 1 5 .\n1 2 4 80\n1 3 . .\n"
    dataset = read(text, outputs=["CP", "PCA"])
    assert {name: int(o.mask.sum()) for name, o in dataset.batch().outcomes.items()} == {"CP": 2, "PCA": 2}
    assert read(text, outputs={"conc": "CP", "effect": "PCA"}).outputs == ("conc", "effect")
    reasons = dataset.describe().ignored
    assert reasons["count"].tolist() == [1] and "no value" in reasons["reason"][0]


@pytest.mark.parametrize("token", [".", "NA", "na", "NaN", "", "N/A", "<NA>", "null"])
def test_what_counts_as_missing(token):
    frame = pd.DataFrame({"ID": ["1", "1"], "TIME": ["0", "1"], "DV": [token, "2"], "EVID": ["2", "0"]})
    assert Dataset.from_frame(frame).n_observations == 1


def test_missing_cells_of_every_pandas_kind():
    frame = pd.DataFrame(
        {
            "ID": pd.array([1, 1], "Int64"),
            "TIME": [0, 1],
            "DV": pd.array([None, 2.5], "Float64"),
            "MDV": [1, 0],
        }
    )
    assert Dataset.from_frame(frame).batch().outcomes["DV"].value.tolist() == [[0.0], [2.5]]


def test_ids_keep_their_kind():
    assert read("ID TIME DV\n01 0 1\n1x 0 1").subjects == ("01", "1x")
    assert Dataset.from_frame(pd.DataFrame({"ID": [1.0, 2.0], "TIME": 0, "DV": 1})).subjects == (1, 2)


def test_the_hash_is_of_the_content():
    one = read(ONE_DOSE)
    assert one.hash == read(ONE_DOSE.replace("5.0", "5")).hash and one == read(ONE_DOSE)
    renamed = table(ONE_DOSE).rename(columns={"ID": "subject"})
    assert one.hash == Dataset.from_frame(renamed, id="subject").hash
    for old, new in (("5.0", "5.01"), ("150", "151"), ("1  1  ", "1  2  ")):
        assert one.hash != read(ONE_DOSE.replace(old, new)).hash, new
    assert one != read(ONE_DOSE, outputs={"conc": "DV"})


def test_the_hash_survives_another_process():
    assert theophylline().hash == pickle.loads(pickle.dumps(theophylline())).hash


def test_a_data_set_does_not_change():
    frame = table(ONE_DOSE)
    dataset = Dataset.from_frame(frame)
    before = dataset.hash
    frame.loc[1, "DV"] = "99"
    copied = dataset.frame
    copied.loc[1, "DV"] = "99"
    dataset.batch().outcomes["DV"].value[1, 0] = 99.0
    assert dataset.hash == before and dataset.frame.loc[1, "DV"] == "5.0"
    assert float(dataset.batch().outcomes["DV"].value[1, 0]) == 5.0
    with pytest.raises(AttributeError, match="does not change"):
        dataset.anything = 1


@pytest.mark.parametrize(
    "dataset", [theophylline(), phenobarbital(), read(ONE_DOSE), read(PKPD, outputs={"yPK": 1, "yPD": 2})]
)
def test_to_frame_round_trips(dataset):
    columns = {"id": "Subject", "time": "Time", "outputs": "conc", "covariates": ["Wt", "Dose"]}
    columns = columns if "Subject" in dataset.frame else {}
    if "DVID" in dataset.frame:
        columns = {"outputs": {"yPK": 1, "yPD": 2}}
    again = Dataset.from_frame(dataset.to_frame(), **columns)
    assert again == dataset
    pd.testing.assert_frame_equal(again.to_frame(), dataset.to_frame())


def test_new_times_are_records_without_data():
    dataset = read("ID TIME AMT DV WT\n1 0 10 . 7\n1 4 0 2 7\n2 1 20 . 8\n2 3 0 4 8\n")
    longer = dataset.with_times([2.0, 4.0, 9.0])
    assert longer.frame["TIME"].tolist() == [0, 2, 4, 4, 9, 1, 2, 3, 4, 9]
    assert longer.prediction_rows.tolist() == [False, True, False, True, True, False, True, False, True, True]
    assert longer.frame.loc[longer.prediction_rows, "WT"].tolist() == [7, 7, 7, 8, 8, 8]
    batch, old = longer.batch(), dataset.batch()
    assert batch.n_observations == old.n_observations == 2
    assert float(batch.doses.amount.sum()) == float(old.doses.amount.sum())
    new = torch.as_tensor(longer.prediction_rows)[batch.rows] & (batch.rows >= 0)
    assert int(new.sum()) == 6 and not bool((batch.outcomes["DV"].mask & new).any())
    assert batch.times[new[:, 0], 0].tolist() == [2, 4, 9]
    assert dataset.hash != longer.hash and not dataset.prediction_rows.any()


def test_new_times_by_subject():
    dataset = read("ID TIME DV\na 0 1\na 4 2\nb 0 4\n")
    longer = dataset.with_times({"b": [1.0, 2.0]})
    assert longer.frame["ID"].tolist() == ["a", "a", "b", "b", "b"]
    assert longer.with_times(3.0).prediction_rows.sum() == 4
    assert dataset.with_times([]).hash == dataset.hash


@pytest.mark.parametrize(("rule", "expected"), [("locf", 10.0), ("nocb", 30.0), ("linear", 15.0)])
def test_new_times_follow_the_rule_of_a_time_varying_covariate(rule, expected):
    dataset = read("ID TIME DV CR\n1 0 1 10\n1 4 2 30\n", time_varying={"CR": rule})
    longer = dataset.with_times([1.0, 7.0])
    assert longer.batch().covariates["CR"][:, 0].tolist() == [10.0, expected, 30.0, 30.0]
    assert longer.frame["CR"].tolist() == [10.0, expected, 30.0, 30.0]
    rebuilt = Dataset.from_frame(longer.frame.assign(EVID=[0, 2, 0, 2]), time_varying={"CR": rule})
    assert rebuilt.batch().covariates["CR"].equal(longer.batch().covariates["CR"])


@pytest.mark.parametrize("flags", ["", "EVID", "MDV"])
def test_a_table_with_new_times_can_be_read_again(flags):
    frame = table("ID TIME AMT DV WT EVID MDV\n1 0 9 . 7 1 1\n1 4 0 3 7 0 0\n2 1 9 . 8 1 1\n2 3 0 2 8 0 0\n")
    frame = frame.drop(columns={"EVID", "MDV"} - {flags})
    longer = Dataset.from_frame(frame).with_times([3.5, 5.0])
    again = Dataset.from_frame(longer.to_frame())
    one, two = longer.batch(), again.batch()
    for name in ("times", "rows", "record_mask"):
        assert getattr(one, name).equal(getattr(two, name))
    assert one.doses.amount.equal(two.doses.amount) and one.outcomes["DV"].mask.equal(two.outcomes["DV"].mask)
    assert one.covariates["WT"].equal(two.covariates["WT"])


def test_new_times_that_cannot_be():
    dataset = read("ID TIME DV\n1 1 1\n2 0 1\n")
    with pytest.raises(DataError, match="0.5 lies before subject 1's first row at 1"):
        dataset.with_times([0.5])
    with pytest.raises(DataError, match="subject 3"):
        dataset.with_times({3: [1.0]})
    with pytest.raises(DataError, match="finite numbers"):
        dataset.with_times([1.0, np.nan])


def test_new_times_keep_infusions_and_repeats_as_they_were():
    text = "ID TIME AMT RATE ADDL II DV\n1 0 10 5 2 12 .\n1 30 0 0 0 0 2\n"
    old, new = read(text).batch(), read(text).with_times([12.0, 40.0]).batch()
    at = new.doses.mask[:, 0]
    assert new.times[at, 0].tolist() == [0, 12, 24] == old.times[old.doses.mask[:, 0], 0].tolist()
    # the dose of the same time was given before the new row
    assert new.times[:, 0].tolist() == [0, 12, 12, 24, 30, 40]
    assert at.tolist() == [True, True, False, True, False, False]


def test_subset_keeps_the_tables_order():
    dataset = read("ID TIME DV WT\na 0 1 5\nb 0 2 6\nb 1 3 6\nc 0 4 7\n")
    part = dataset.subset(["c", "b"])
    assert part.subjects == ("b", "c") and part.frame["DV"].tolist() == [2, 3, 4]
    assert part == read("ID TIME DV WT\nb 0 2 6\nb 1 3 6\nc 0 4 7\n")
    assert part.batch().rows.tolist() == [[0, 2], [1, -1]]
    with pytest.raises(DataError, match="no subject 'z'"):
        dataset.subset(["a", "z"])
    with pytest.raises(DataError, match="no subject was given"):
        dataset.subset([])


def test_split_draws_different_subjects():
    dataset = theophylline()
    train, test = dataset.split(train=0.75, seed=3)
    assert (train.n_subjects, test.n_subjects) == (9, 3)
    assert set(train.subjects) | set(test.subjects) == set(dataset.subjects)
    assert dataset.split(train=0.75, seed=3)[0] == train
    assert any(dataset.split(train=0.75, seed=seed)[0] != train for seed in range(5))
    train, test = dataset.split(train=4, test=2, seed=0)
    assert (train.n_subjects, test.n_subjects) == (4, 2) and not set(train.subjects) & set(test.subjects)
    assert dataset.split(test=0.5, seed=0)[0].n_subjects == 6


@pytest.mark.parametrize("sizes", [{}, {"train": 12}, {"train": 0}, {"train": 1.5}, {"train": 10, "test": 5}])
def test_splits_that_cannot_be(sizes):
    with pytest.raises(DataError, match="split"):
        theophylline().split(**sizes, seed=1)
