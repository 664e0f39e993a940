"""Whatever is handed over as a table: a data set or a DataError, never another exception."""

import datetime
import decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlme_torch import DataError
from nlme_torch.data import Dataset, check_frame


@pytest.mark.parametrize("thing", [None, {}, {"ID": [1], "TIME": [0], "DV": [1]}, [[1, 0, 1]], np.ones((2, 3)),
                                   "data.csv", pd.Series([1, 2]), 3, object()])  # fmt: skip
def test_what_is_no_table(thing):
    with pytest.raises(DataError, match="pandas data frame"):
        Dataset.from_frame(thing)
    assert check_frame(thing)["severity"].tolist() == ["error"]


def test_columns_named_by_numbers():
    frame = pd.DataFrame([[1, 0.0, 2.0], [1, 1.0, 3.0]])
    with pytest.raises(DataError, match="no column ID"):
        Dataset.from_frame(frame)
    for wanted in ("2", 2, [2], {"y": "2"}):
        assert Dataset.from_frame(frame, id=0, time=1, outputs=wanted).n_observations == 2
    with pytest.raises(DataError, match="no such column"):
        Dataset.from_frame(frame, id=0, time=1, outputs=7)


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(10**400, id="large"),
        pytest.param(-(10**5000), id="huge"),
        [1.0, 2.0],
        {"a": 1},
        (1,),
        np.ones(2),
        b"1",
        1j,
        object(),
    ],
)
@pytest.mark.parametrize("column", ["ID", "TIME", "DV", "AMT", "CMT", "EVID", "DVID", "WT", "OCC"])
def test_cells_that_hold_no_number_and_no_text(cell, column):
    frame = pd.DataFrame({"ID": [1, 1], "TIME": [0.0, 1.0], "DV": [1.0, 2.0]}).astype(object)
    frame[column] = frame[column] if column in frame else pd.Series([0, 0], dtype=object)
    frame.at[1, column] = cell
    try:
        Dataset.from_frame(frame)
    except DataError as error:
        assert str(error)
    check_frame(frame)


CELLS = st.one_of(
    st.none(), st.integers(-3, 5), st.floats(), st.integers(-(10**400), 10**400),
    st.sampled_from([".", "NA", "", " ", "BLQ", "<0.5", "8:30", "1/2/24", "male", "C", "#1", "1e400", "1_0", "0,5",
                     "inf"]),
    st.text(max_size=3), st.booleans(), st.just([1]), st.just({}), st.just(pd.NA), st.just(pd.NaT),
    st.dates().map(lambda day: day), st.datetimes(), st.just(decimal.Decimal("1.5")), st.just(datetime.time(8, 30)),
    st.complex_numbers(max_magnitude=2), st.binary(max_size=2),
)  # fmt: skip
COLUMNS = "id time dv amt evid mdv cmt rate dur ii addl ss dvid cens limit date wt occ blq lloq type c dose"
NAMES = st.sampled_from(
    ["", "id", *(name.upper() for name in COLUMNS.split())]
)  # fmt: skip
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "outputs": st.sampled_from(["DV", ["DV"], {"a": 1, "b": 2}, {"a": "DV"}, [], {"a": [1, 2]}]),
        "covariates": st.sampled_from(["WT", [], ["WT", "OCC"], ["WT", "WT"]]),
        "time_varying": st.sampled_from(["WT", {"WT": "linear"}, {"WT": "nocb"}]),
        "ignore": st.sampled_from(["EVID", ["DATE"], "C", ["DVID", "TYPE"]]),
        "by": st.sampled_from(["CMT", "TYPE"]),
        "lloq": st.sampled_from([0.5, "LLOQ", {"DV": 1.0}, {"a": "WT"}]),
        "blq": st.sampled_from(["censored", "missing", 0.5, "x"]),
        "start": st.sampled_from([0.0, -1.0, 5.0]),
        "levels": st.just({"WT": ["male", "a"]}),
        "cens": st.just("BLQ"),
        "limit": st.just("LLOQ"),
    },
)


@st.composite
def tables(draw):
    """Tables of a few rows: mostly columns that a program would write, with some cells spoilt."""
    rows = draw(st.integers(0, 5))
    names = draw(st.lists(NAMES, max_size=7, unique=draw(st.booleans())))
    names = [*draw(st.sampled_from([["ID", "TIME", "DV"], ["ID", "TIME"], []])), *names]
    sensible = {"ID": st.sampled_from([1, 1, 1, 2]), "TIME": st.integers(0, 9), "AMT": st.sampled_from([0, 0, 5]),
                "EVID": st.sampled_from([0, 0, 1, 2, 3, 4, 101, 10101])}  # fmt: skip
    columns = []
    for name in names:
        cells = sensible.get(name, st.integers(0, 2))
        column = [draw(cells) for _ in range(rows)]
        if name == "TIME":
            column = sorted(column)
        for row in draw(st.lists(st.integers(0, max(rows - 1, 0)), max_size=1)) if rows else []:
            column[row] = draw(CELLS)
        columns.append(pd.Series(column, dtype=object if draw(st.booleans()) else None))
    frame = pd.concat(columns, axis=1) if columns else pd.DataFrame(index=range(rows))
    frame.columns = names
    return frame


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(frame=tables(), options=OPTIONS)
def test_any_table_is_a_data_set_or_a_data_error(frame, options):
    try:
        data = Dataset.from_frame(frame, **options)
    except DataError as error:
        assert str(error)
        assert (check_frame(frame, **options)["severity"] == "error").any()
        return
    batch = data.batch()
    assert batch.n_subjects == data.n_subjects and isinstance(data.warnings, tuple)
    assert batch.n_observations == data.n_observations
    # patients without samples can be predicted; that they have none is said
    assert data.n_observations or any("no observation" in warning for warning in data.warnings)
    assert repr(data) and repr(data.describe()) and data.check() is not None


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.one_of(st.binary(max_size=60),
                         st.text(alphabet="ID,TMEV10.;#C \n\t\"'<é", max_size=60).map(str.encode)),
       options=st.fixed_dictionaries({}, optional={
           "sep": st.sampled_from([",", ";", r"\s+", "\t"]), "decimal": st.sampled_from([".", ","]),
           "ignore": st.sampled_from(["@", "#", "C", "DV.EQ.1"]), "skip_rows": st.sampled_from([0, 1, [1]]),
           "encoding": st.sampled_from(["utf-8", "latin-1", "utf-16", "no-such"]),
           "header": st.sampled_from([0, 1, ["ID", "TIME", "DV"], None]),
       }))  # fmt: skip
def test_any_file_is_a_data_set_or_a_data_error(tmp_path_factory, content, options):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    try:
        assert Dataset.from_csv(path, **options).n_subjects > 0
    except DataError as error:
        assert str(error)
