import pandas as pd
import pytest
from tables import table

from nlme_torch import DataError
from nlme_torch.data import Dataset


@pytest.mark.parametrize("names", [("ID", "TIME", "DV"), ("id", "time", "dv"), ("Id", "Time", "Dv")])
def test_nonmem_names_are_found_without_regard_to_case(names):
    frame = table(DV=[1.0, 2.0]).set_axis(list(names), axis=1)
    data = Dataset.from_frame(frame)
    assert data.outputs == (names[2],) and data.n_observations == 2


def test_own_names_are_mapped_and_kept():
    frame = table(DV=[1.0, 2.0]).set_axis(["who", "hour", "level"], axis=1)
    data = Dataset.from_frame(frame, id="who", time="hour", outputs="level")
    assert data.outputs == ("level",) and list(data.frame) == ["who", "hour", "level"]


def test_the_users_frame_is_neither_changed_nor_shared():
    frame = table(DV=[1.0, 2.0])
    before = frame.copy()
    data = Dataset.from_frame(frame)
    frame.loc[0, "DV"] = 99.0
    taken = data.frame
    taken.loc[1, "DV"] = -1.0
    pd.testing.assert_frame_equal(data.frame, before)


def test_all_missing_columns_are_named_at_once():
    with pytest.raises(DataError) as caught:
        Dataset.from_frame(pd.DataFrame({"x": [1]}), covariates=["WT"], time_varying=["CR"], ignore="Q")
    text = str(caught.value)
    for part in ("no column ID", "no column TIME", "column WT", "column CR", "column Q", "id=", "time="):
        assert part in text


def test_a_misspelt_column_gets_a_suggestion():
    with pytest.raises(DataError, match="Did you mean 'conc'"):
        Dataset.from_frame(table(conc=[1.0, 2.0]), outputs="Conc")


def test_duplicated_columns():
    frame = pd.DataFrame([[1, 0.0, 1.0, 2.0]], columns=["ID", "TIME", "DV", "DV"])
    with pytest.raises(DataError, match=r"column DV: 2 columns share this name"):
        Dataset.from_frame(frame)


def test_ambiguous_names_ask_for_a_choice():
    frame = table(DV=[1.0, 2.0], dv=[3.0, 4.0])
    with pytest.raises(DataError, match="DV and dv could both be DV"):
        Dataset.from_frame(frame)
    assert Dataset.from_frame(frame, dv="dv").batch().outcomes["dv"].value[:, 0].tolist() == [3.0, 4.0]
    assert Dataset.from_frame(frame, ignore="dv").outputs == ("DV",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outputs": ["DV", "DV"]}, "column DV: named twice as output"),
        ({"outputs": {"a": "DV", "b": "DV"}}, "two outputs are both read from 'DV'"),
        ({"outputs": []}, "outputs= is empty"),
        ({"covariates": ["WT", "WT"]}, "column WT: named twice as covariate"),
        ({"covariates": ["WT"], "time_varying": ["WT"]}, "both in covariates= and in time_varying="),
        ({"time_varying": {"WT": "spline"}}, "'spline' is not one of locf, nocb, linear"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(DataError, match=message):
        Dataset.from_frame(table(DV=[1.0, 2.0], WT=[70.0, 70.0]), **arguments)


def test_a_column_with_the_name_of_a_part_can_be_left_out():
    frame = table(DV=[1.0, 2.0], RATE=["high", "high"], EVID=[0, 0])
    with pytest.raises(DataError, match="column RATE: 'high' is not a number"):
        Dataset.from_frame(frame)
    assert Dataset.from_frame(frame, ignore="RATE").n_observations == 2
