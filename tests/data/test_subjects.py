import numpy as np
import pandas as pd
import pytest
from tables import dosed, table

from nlme_torch import DataError
from nlme_torch.data import Dataset


def test_a_subject_in_two_blocks_names_the_row_where_it_re_appears():
    with pytest.raises(DataError, match=r"row 3, subject 1, column ID: subject 1 re-appears.*ended at row 1"):
        Dataset.from_frame(table(ID=[1, 2, 1], TIME=[0.0, 0.0, 1.0]))


def test_time_going_back_names_row_and_subject():
    with pytest.raises(DataError, match=r"row 4, subject B, column TIME: time goes back from 2 to 1"):
        Dataset.from_frame(table(ID=["A", "A", "B", "B"], TIME=[0.0, 1.0, 2.0, 1.0]))


def test_equal_times_are_legal_and_keep_file_order():
    batch = Dataset.from_frame(table(TIME=[0.0, 1.0, 1.0, 1.0], DV=[4.0, 3.0, 1.0, 2.0])).batch()
    assert batch.times[:, 0].tolist() == [0.0, 1.0, 1.0, 1.0]
    assert batch.outcomes["DV"].value[:, 0].tolist() == [4.0, 3.0, 1.0, 2.0]


@pytest.mark.parametrize("cell", [np.nan, ".", None])
def test_missing_time(cell):
    with pytest.raises(DataError, match=r"row 2, subject 1, column TIME: the time is missing"):
        Dataset.from_frame(table(TIME=[0.0, cell, 2.0]))


def test_time_that_is_no_number():
    with pytest.raises(DataError, match=r"row 2, subject 1, column TIME: '10:30' is not a number"):
        Dataset.from_frame(table(TIME=["0", "10:30", "2"]))


def test_missing_id():
    with pytest.raises(DataError, match=r"row 2, column ID: the subject's id is missing"):
        Dataset.from_frame(table(ID=[1, None, 2]))


def test_no_subjects():
    with pytest.raises(DataError, match="no rows, hence no subjects"):
        Dataset.from_frame(pd.DataFrame({"ID": [], "TIME": [], "DV": []}))


def test_a_subject_without_observations():
    frame = dosed(ID=[1, 1, 2], TIME=[0.0, 1.0, 0.0], EVID=[1, 0, 2])
    with pytest.raises(DataError, match=r"row 3, subject 2: has no observation"):
        Dataset.from_frame(frame)


def test_the_clock_may_be_set_back_at_a_reset():
    frame = dosed(
        ID=[1] * 6, TIME=[0.0, 1.0, 5.0, 0.0, 1.0, 4.0], DV=[".", 5.0, 3.0, ".", 6.0, 4.0], EVID=[1, 0, 0, 4, 0, 0],
        AMT=[100.0, 0, 0, 50.0, 0, 0],
    )  # fmt: skip
    data = Dataset.from_frame(pd.concat([frame, frame[:3].assign(ID=2)]))
    batch = data.batch()
    assert batch.times[:, 0].tolist() == [0.0, 1.0, 5.0, 5.0, 6.0, 9.0]
    assert batch.times[:, 1].tolist() == [0.0, 1.0, 5.0, 5.0, 5.0, 5.0]
    assert (batch.times - batch.time_shift)[:, 0].tolist() == frame["TIME"].tolist()
    assert batch.time_shift[:, 1].tolist() == [0.0] * 6
    assert data.with_times({1: [7.0]}).frame["TIME"].tolist()[:6] == [0.0, 1.0, 5.0, 0.0, 1.0, 2.0]
    with pytest.raises(DataError, match="time goes back from 5 to 0"):
        Dataset.from_frame(frame.assign(EVID=[1, 0, 0, 1, 0, 0]))


def test_all_problems_are_reported_at_once_the_first_ten_by_row():
    frame = table(
        ID=[1] * 15, TIME=[float(k) for k in range(14, -1, -1)], DV=["x"] + [1.0] * 14, WT=[70.0] * 14 + [80.0]
    )
    with pytest.raises(DataError) as caught:
        Dataset.from_frame(frame, covariates="WT")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("The table has 16 problems (row 1 is the first row below the header)")
    assert len(lines) == 12 and lines[-1].strip() == "... and 6 more"
    assert "row 1, subject 1, column DV: 'x' is not a number" in lines[1]
    assert "row 2, subject 1, column TIME" in lines[2]
