"""Tables of other programs: nlmixr2's codes, dates and clock times, files with comments, titles and units."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from support.data_tables import read, shared, table

from nlme_torch import DataError
from nlme_torch.data import Dataset, DoseKind, Regimen, check_frame


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "data.csv"
    path.write_bytes(text.encode(encoding))
    return path


def same(one, two):
    """Whether two data sets give a model the same to read."""
    a, b = one.batch(), two.batch()
    parts = ("times", "record_mask")
    doses = ("amount", "kind", "rate", "duration", "steady_state", "interval", "reset")
    return (
        all(getattr(a, name).equal(getattr(b, name)) for name in parts)
        and all(getattr(a.doses, name).equal(getattr(b.doses, name)) for name in doses)
        and a.doses.state_index(["a", "b"]).equal(b.doses.state_index(["a", "b"]))
        and all(o.value.equal(b.outcomes[k].value) and o.mask.equal(b.outcomes[k].mask) for k, o in a.outcomes.items())
    )


# -------------------------------------------------------------------- codes of nlmixr2


def test_theo_sd_loads_as_it_is():
    text = "ID TIME DV AMT EVID CMT WT\n1 0 0 319.992 101 1 79.6\n1 0 .74 0 0 2 79.6\n1 .25 2.84 0 0 2 79.6\n"
    data = read(text)
    assert same(data, read(text.replace(" 101 ", " 1 ")))
    assert data.covariate_names == ("WT",) and data.n_observations == 2
    assert Dataset.from_frame(data.to_frame()) == data
    month = "ID TIME DV AMT EVID CMT WT\n1 0 0 300 101 1 79\n1 24 . 300 101 1 79\n1 25 2.84 0 0 2 79\n"
    assert read(month).batch().doses.amount[:, 0].tolist() == [300, 300, 0]


@pytest.mark.parametrize(
    ("code", "nonmem"),
    [
        ("201", {"EVID": 1, "CMT": 2}),
        ("110", {"EVID": 1, "CMT": 1, "SS": 1, "II": 12}),
        ("220", {"EVID": 1, "CMT": 2, "SS": 2, "II": 12}),
        ("90201", {"EVID": 1, "CMT": 2, "RATE": -1}),
        ("80101", {"EVID": 1, "CMT": 1, "RATE": -2}),
    ],
)
def test_codes_of_doses(code, nonmem):
    columns = "ID TIME DV AMT EVID II\n1 0 . 10 {0} {1}\n1 5 3 0 0 0\n"
    found = read(columns.format(code, nonmem.get("II", 0)))
    row = {"ID": 1, "TIME": 0, "DV": ".", "AMT": 10, "CMT": 1, "SS": 0, "II": 0, "RATE": 0, **nonmem}
    expected = pd.DataFrame([row, {**row, "TIME": 5, "DV": 3, "AMT": 0, "EVID": 0, "SS": 0, "II": 0, "RATE": 0}])
    assert same(found, Dataset.from_frame(expected))


def test_wbc_infusions_are_rates_until_they_are_switched_off():
    text = (
        "ID TIME AMT EVID DV V1\n1 0 80 10201 . 5\n1 2 0 0 7 5\n1 3 -80 10201 . 5\n1 9 0 0 5 5\n"
        "2 0 50 10101 . 6\n2 1 70 10101 . 6\n2 2 -50 10101 . 6\n2 2 0 0 1 6\n2 5 -70 10101 . 6\n"
    )
    data = read(text)
    doses = data.batch().doses
    given = doses.mask
    assert doses.kind[given].unique().tolist() == [DoseKind.RATE]
    assert doses.rate.T[given.T].tolist() == [80, 50, 70] and doses.amount.T[given.T].tolist() == [240, 100, 280]
    assert doses.state_index(["a", "b"]).T[given.T].tolist() == [1, 0, 0]
    assert Dataset.from_frame(data.to_frame()) == data
    length = read(text.replace("102", "202").replace("101", "201")).batch().doses  # of fixed duration
    assert length.kind[length.mask].unique().tolist() == [DoseKind.DURATION]
    assert length.duration.T[length.mask.T].tolist() == [3, 2, 4]


def test_an_infusion_beside_a_rate_and_one_that_never_ends():
    found = read("ID TIME AMT RATE EVID DV\n1 0 100 20 10101 .\n1 9 0 0 0 5").batch().doses
    assert (found.amount[0, 0], found.rate[0, 0]) == (100, 20)
    with pytest.raises(DataError, match="row 0, subject 1, column EVID: EVID 10101 begins an infusion"):
        read("ID TIME AMT EVID DV\n1 0 100 10101 .\n1 9 0 0 5")
    constant = read("ID TIME AMT EVID DV\n1 0 20 10140 .\n1 9 0 0 5").batch().doses
    assert (constant.rate[0, 0], constant.steady_state[0, 0]) == (20, 1)
    for code in ("100", "40101", "130", "50101"):
        with pytest.raises(DataError, match=f"EVID {code} is unknown"):
            read(f"ID TIME AMT EVID DV\n1 0 100 {code} .\n1 9 0 0 5")


# -------------------------------------------------------------------- dates and clock times


@pytest.mark.parametrize(
    ("name", "days"),
    [
        ("DATE", ("01/31/2024", "02/01/2024")),
        ("DATE", ("1-31-24", "2-1-24")),
        ("DAT1", ("31/01/2024", "01/02/2024")),
        ("DAT2", ("2024/01/31", "2024/02/01")),
        ("DAT3", ("2024/31/01", "2024/01/02")),
        ("DATE", ("2024-01-31", "2024-02-01")),
        ("DATE", ("3", "4")),
    ],
)
def test_dates_are_read_in_nonmems_order(name, days):
    text = "ID {0} TIME DV\n1 {1} 8:30 1\n1 {1} 20:30 2\n1 {2} 8:00 3\n2 {2} 7.5 4\n2 {2} 9:15:36 5\n"
    data = read(text.format(name, *days))
    np.testing.assert_allclose(data.frame["TIME"], [0, 12, 23.5, 0, 1.76], rtol=0, atol=1e-12)
    assert data.covariate_names == () and name not in data.frame
    assert Dataset.from_frame(data.to_frame()) == data


def test_dates_across_years_and_two_digit_years():
    data = read("ID DATE TIME DV\n1 12/31/99 23:00 1\n1 1/1/00 1:00 2\n")
    assert data.frame["TIME"].tolist() == [0, 2]


def test_clock_times_without_dates_and_time_stamps():
    assert read("ID TIME DV\n1 8:00 1\n1 9:30 2\n1 26:00 3\n").frame["TIME"].tolist() == [0, 1.5, 18]
    stamps = pd.to_datetime(["2024-01-31 08:00", "2024-02-01 09:30"])
    frame = pd.DataFrame({"ID": 1, "TIME": stamps, "DV": [1.0, 2.0]})
    assert Dataset.from_frame(frame).frame["TIME"].tolist() == [0, 25.5]
    assert Dataset.from_frame(frame.astype({"TIME": str})).frame["TIME"].tolist() == [0, 25.5]


def test_the_unit_of_clock_times_is_said():
    """Hours is what they become; numbers of any unit have nothing said of them."""
    clock = read("ID TIME DV\n1 8:00 1\n1 9:30 2\n2 8:00 3\n")
    dates = read("ID DATE TIME DV\n1 1/31/24 8:00 1\n1 2/1/24 8:00 2\n")
    stamps = pd.date_range("2024-01-31 08:00", periods=2, freq="2h")
    frame = pd.DataFrame({"ID": 1, "TIME": stamps, "DV": [1.0, 2.0]})
    for data in (clock, dates, Dataset.from_frame(frame), Dataset.from_frame(frame.astype({"TIME": str}))):
        assert len(data.warnings) == 1 and "TIME" in data.warnings[0] and "hours since each subject" in data.warnings[0]
        assert data.subset([data.subjects[0]]).warnings == data.warnings
        assert Dataset.from_frame(data.to_frame()).warnings == ()
    assert read("ID TIME DV\n1 8 1\n1 9.5 2\n").warnings == ()


def test_an_hour_that_a_clock_leaves_out_is_no_hour_of_the_study():
    """At 2:00 on 31 March 2024 the clocks of Zurich went to 3:00; in October they went back."""
    zone = pd.DatetimeIndex(["2024-03-31 00:30", "2024-03-31 03:30", "2024-03-31 12:30"]).tz_localize("Europe/Zurich")
    frame = pd.DataFrame({"ID": 1, "TIME": zone, "DV": [1.0, 2.0, 3.0]})
    written = ["2024-03-31T00:30+01:00", "2024-03-31T03:30+02:00", "2024-03-31T12:30+02:00"]
    for times in (zone, written):
        assert Dataset.from_frame(frame.assign(TIME=times)).frame["TIME"].tolist() == [0, 2, 11]


def test_a_difference_of_times_has_no_unit():
    frame = pd.DataFrame({"ID": 1, "TIME": pd.to_timedelta(["0h", "36h"]), "DV": [1.0, 2.0]})
    with pytest.raises(DataError, match=r"has no unit: write numbers, such as frame\['TIME'\].dt.total_seconds"):
        Dataset.from_frame(frame)


def test_time_stamps_as_numbers_are_asked_about():
    frame = pd.DataFrame({"ID": 1, "TIME": [1704096000.0, 1704103200.0], "DV": [1.0, 2.0]})
    assert any("seconds since 1970" in message for message in Dataset.from_frame(frame).warnings)
    assert Dataset.from_frame(frame.assign(TIME=[0.0, 4e8])).warnings == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID DATE TIME DV\n1 1/31/24 8:00 1\n1 2/1/24 30 2", "beside DATE it is a time of day(.|\n)*ignore='DATE'"),
        ("ID DATE TIME DV\n1 31/1/24 8:00 1", "no date in the order month, day, year(.|\n)*ignore='DATE'"),
        ("ID DATE TIME DV\n1 . 8:00 1", "the date is missing"),
        ("ID DATE DAT1 TIME DV\n1 1/1/24 1/1/24 8:00 1", "DATE and DAT1 are all dates"),
        ("ID TIME DV\n1 8:75 1\n1 9:00 1", "'8:75' is no time"),
        ("ID TIME DV\n1 22:00 1\n1 2:00 1", "time goes back"),
    ],
)
def test_dates_and_times_that_cannot_be(text, message):
    with pytest.raises(DataError, match=message):
        read(text)


def test_a_date_that_is_no_part_of_the_time():
    text = "ID DATE TIME DV\n1 1/31/24 0 1\n1 2/1/24 30 2"
    assert read(text, ignore="DATE").frame["TIME"].tolist() == [0, 30]


# -------------------------------------------------------------------- files


def test_options_of_pandas(tmp_path):
    path = write(tmp_path, "ID;TIME;DV;Größe\n1;0,5;1.234,5;170\n", "latin-1")
    data = Dataset.from_csv(path, sep=";", decimal=",", thousands=".", encoding="latin-1")
    assert data.frame.iloc[0].tolist() == [1, 0.5, 1234.5, 170] and data.covariate_names == ("Größe",)
    with pytest.raises(DataError, match="encoding="):
        Dataset.from_csv(path, sep=";")
    with pytest.raises(DataError, match="decimal=','"):
        Dataset.from_csv(path, sep=";", encoding="latin-1")


def test_a_mark_of_byte_order_blank_lines_and_empty_columns_at_the_end(tmp_path):
    plain = Dataset.from_frame(pd.DataFrame({"ID": [1, 1], "TIME": [0, 1], "DV": [2.0, 3.0]}))
    for text in ("\ufeffID,TIME,DV\n1,0,2\n1,1,3\n", "\nID,TIME,DV\n\n1,0,2\n1,1,3\n\n",
                 "ID,TIME,DV,,\n1,0,2,,\n1,1,3,.,\n",
                 "ID,TIME,DV\n1,0,2,\n1,1,3,\n", "ID,TIME,DV\r\n1,0,2\r\n1,1,3\r\n"):  # fmt: skip
        assert Dataset.from_csv(write(tmp_path, text)) == plain
    assert Dataset.from_csv(write(tmp_path, "ID,TIME,DV\n1,0,2\n1,1,3\n", "utf-16"), encoding="utf-16") == plain


NONMEM = "TABLE NO.  1\n ID   TIME   DV\n  1.0000E+00  0.0000E+00  2.0000E+00\n  1.0000E+00  1.0D+00  3.0000E+00\n"


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        (NONMEM, {"sep": r"\s+", "ignore": "@"}),
        (NONMEM, {"sep": r"\s+", "skip_rows": 1}),
        (NONMEM + NONMEM.replace("1.0000E+00  ", "2.0000E+00  "), {"sep": r"\s+", "ignore": ["@", "ID.EQ.2"]}),
        ("C,ID,TIME,DV\n.,1,0,2\nC,1,0.5,99\n.,1,1,3\n", {"ignore": "C"}),
        ("C,ID,TIME,DV\nC,1,0,99\n.,1,0,2\n.,1,1,3\n", {"ignore": "@"}),
        ("A study of something\nID,TIME,DV\n1,0,2\n1,1,3\n", {"ignore": "@"}),
        ("#made by hand\nID,TIME,DV\n1,0,2\n#1,0.5,99\n1,1,3\n", {"ignore": "#"}),
        ("#who,when,what\n#ID,TIME,DV\nID,TIME,DV\n1,0,2\n1,1,3\n", {"ignore": "#"}),
        ("#ID,TIME,DV\n1,0,2\n1,1,3\n", {"ignore": "#"}),
        ("ID,TIME,DV\n-,h,mg/L\n1,0,2\n1,1,3\n", {"skip_rows": [1]}),
        ("1,0,2\n1,1,3\n", {"header": ["ID", "TIME", "DV"]}),
        ("title\nID,TIME,DV\n1,0,2\n1,1,3\n", {"header": 1}),
        ("ID,TIME,DV,FLAG\n1,0,2,0\n1,0,9,7\n1,1,3,0\n", {"ignore": ["FLAG.EQ.7", "FLAG"]}),
        ("ID,TIME,DV,FLAG\n1,0,2,0\n1,0,9,7\n1,1,3,1\n", {"accept": "(FLAG.EQ.0, FLAG==1)", "ignore": ["FLAG"]}),
        ("ID,TIME,DV\n1,0,2\n1,1,3\n1,9,3\n", {"ignore": "TIME>=2"}),
    ],
)
def test_lines_that_nonmem_leaves_out(tmp_path, text, arguments):
    data = Dataset.from_csv(write(tmp_path, text), **arguments)
    batch = data.batch()
    assert batch.times[:, 0].tolist() == [0, 1] and batch.outcomes["DV"].value[:, 0].tolist() == [2, 3]
    assert data.n_subjects == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("C,ID,TIME,DV\n.,1,0,2\nC,1,0.5,99\n", "ignore='C'"),
        ("ID,TIME,DV\n1,0,2\n#1,0.5,99\n1,1,3\n", "ignore='#'"),
        ("ID,TIME,DV\n1,0,2\nTABLE NO. 2,,\nID,TIME,DV\n2,1,3\n", "ignore='@'"),
        ("ID,TIME,DV\n1,0,2\nID,TIME,DV\n2,1,3\n", "ignore='@'"),
        ("1,0,2\n1,1,3\n", "header="),
        ("ID TIME DV\n1 0 2\n", "sep="),
        ("ID,TIME,DV,,\n1,0,2,7,\n", "column names but 4 columns"),
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("\x00\x01\x02", "binary"),
        ('ID,TIME,DV\n1,0,"2\n', "cannot be read"),
        ("ID,TIME,DV\n1,0,2\n1,1,2,3,4\n", "cannot be read"),
    ],
)
def test_files_that_say_what_to_pass(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        Dataset.from_csv(write(tmp_path, text))


def test_marked_rows_of_a_frame_are_never_read_by_leaving_the_column_out():
    text = "C ID TIME DV\n. 1 0 2\nC 1 1 99\n"
    with pytest.raises(DataError, match="1 rows are marked as comments"):
        read(text, ignore="C")
    assert read(text.replace(". 1", "A 1").replace("C 1", "C 2"), covariates="C").categories == {"C": ("A", "C")}


def test_files_that_are_none(tmp_path):
    for path in (tmp_path, tmp_path / "none", None, 3, "\x00"):
        with pytest.raises(DataError):
            Dataset.from_csv(path)
    (tmp_path / "noise").write_bytes(np.random.default_rng(0).bytes(4000))
    with pytest.raises(DataError):
        Dataset.from_csv(tmp_path / "noise")
    with pytest.raises(DataError, match="no column X"):
        Dataset.from_csv(write(tmp_path, "ID,TIME,DV\n1,0,2\n"), accept="X.EQ.1")
    with pytest.raises(DataError, match="no condition"):
        Dataset.from_csv(write(tmp_path, "ID,TIME,DV\n1,0,2\n"), accept="X")


def test_bundled_and_shared_files_have_nothing_to_say():
    for name, columns in (("phenobarb.csv", {}), ("bauer_501.csv", {}), ("bauer_superid30.csv", {"covariates": []})):
        assert Dataset.from_csv(shared(name), **columns).warnings == ()


# -------------------------------------------------------------------- outcomes told apart by a code


def test_outcomes_by_compartment():
    text = "ID TIME AMT EVID CMT DV\n1 0 100 1 1 .\n1 1 0 0 2 5\n1 1 0 0 3 90\n1 2 0 0 2 4\n"
    one = read(text, outputs={"cp": 2, "pca": 3}, by="CMT")
    assert one == read(text, outputs={"cp": 2, "pca": 3}, dvid="CMT")
    assert {k: o.n_observations for k, o in one.batch().outcomes.items()} == {"cp": 2, "pca": 1}
    assert one.batch().doses.state_index(["a", "b", "c"]).max() == 0
    with pytest.raises(DataError, match="no DVID: say which column tells outcomes apart with dvid='CMT'"):
        read(text, outputs={"cp": 2, "pca": 3})
    for columns in ({}, {"outputs": "DV"}, {"outputs": {"y": "DV"}}):
        with pytest.raises(DataError, match=r"codes 2, 3 in CMT(.|\n)*dvid='CMT'"):
            read(text, **columns)
    assert read(text, outputs={"y": [2, 3]}, dvid="CMT").n_observations == 3
    receptor = Dataset.from_csv(shared("bauer_r2comp.csv"), outputs={"drug": 1, "receptor": 3}, by="CMT")
    assert receptor.outputs == ("drug", "receptor")


@pytest.mark.parametrize("name", ["TYPE", "YTYPE"])
def test_codes_of_outcomes_are_not_pooled(name):
    mixed = f"ID TIME DV {name}\n1 0 5 1\n1 0 90 2\n"
    with pytest.raises(DataError, match=f"codes 1, 2 in {name}(.|\n)*ignore='{name}'"):
        read(mixed)
    assert read(mixed, ignore=name).n_observations == 2
    assert read(mixed, dvid=name).outputs == ("DV1", "DV2")
    assert read(f"ID TIME DV {name}\n1 0 5 1\n2 0 90 2\n").covariate_names == (name,)


@pytest.mark.parametrize("row", ["1 1 0 2 -2 .", "1 1 0 0 -2 3"])
def test_a_compartment_cannot_be_switched_off(row):
    with pytest.raises(DataError, match="row 1, subject 1, column CMT: CMT -2 switches a compartment off"):
        read(f"ID TIME AMT EVID CMT DV\n1 0 100 1 1 .\n{row}\n1 2 0 0 1 4\n")
    on = read("ID TIME AMT EVID CMT DV\n1 0 100 1 1 .\n1 1 0 2 3 .\n1 2 0 0 1 4\n")
    assert "EVID 2 with CMT 3 switches a compartment on" in on.warnings[0]


# -------------------------------------------------------------------- where subjects begin


def test_subjects_begin_where_the_data_say():
    text = "ID TIME DV WT AMT\n1 3 1 70 0\n1 4 2 70 0\n2 -1 5 60 0\n2 0 6 60 9\n"
    data = read(text.replace("6 60 9", ". 60 9"), start=0.0)
    batch = data.batch()
    assert batch.times.T.tolist() == [[0, 3, 4], [-1, 0, 0]]
    assert batch.record_mask.T.tolist() == [[True] * 3, [True, True, False]]
    assert batch.rows.T.tolist() == [[-1, 0, 1], [2, 3, -1]]
    assert batch.outcomes["DV"].mask.T.tolist() == [[False, True, True], [True, False, False]]
    assert batch.doses.mask.T.tolist() == [[False] * 3, [False, True, False]]
    assert "begins at     0" in repr(data) and data.start == 0.0
    assert data != read(text.replace("6 60 9", ". 60 9"))
    assert data.subset([1]).start == data.split(train=1, seed=0)[0].start == data.with_times([5.0]).start == 0.0
    assert data.with_regimen(Regimen(1.0), [2.0]).batch().times[0].tolist() == [0, 0]
    design = Dataset.from_regimen(Regimen(1.0, start=2.0) if "start" in Regimen.__init__.__code__.co_varnames
                                  else Regimen(1.0), [5.0], start=-1.0)  # fmt: skip
    assert design.batch().times[0, 0] == -1.0
    with pytest.raises(DataError, match="start=inf is no time"):
        read(text, start=float("inf"))


def test_predictions_between_the_start_and_the_first_row():
    text = "ID TIME DV CR\na 3 1 7\na 4 2 8\nb 2 5 6\n"
    data = read(text, start=0.0, time_varying={"CR": "linear"}).with_times([0.0, 1.0, 3.5])
    assert data.frame["ID"].tolist() == ["a"] * 5 + ["b"] * 4
    assert data.frame["TIME"].tolist() == [0, 1, 3, 3.5, 4, 0, 1, 2, 3.5]
    assert data.batch().covariates["CR"].T.tolist() == [[7, 7, 7, 7.5, 8], [6, 6, 6, 6, 6]]
    assert data.prediction_rows.tolist() == [True, True, False, True, False, True, True, False, True]
    with pytest.raises(DataError, match="-1 lies before subject a's first row"):
        read(text, start=0.0, covariates=[]).with_times([-1.0])


def test_check_frame_reads_like_from_frame():
    assert check_frame(table("ID TIME DV\n1 8:00 1\n1 9:00 <2\n"), blq=1.0)["severity"].tolist() == ["warning"] * 2
    assert "no table" in check_frame({"ID": [1]})["message"][0] or "pandas" in check_frame({"ID": [1]})["message"][0]
    assert check_frame(pd.read_csv(io.StringIO("C,ID,TIME,DV\nC,1,0,1")))["rule"].tolist() == ["comment"]


def test_codes_may_be_real_numbers():
    """A column with gaps elsewhere is read as real numbers, and pandas may lend it without leave to write."""
    rows = {"ID": [1, 1, 1], "TIME": [0.0, 1.0, 2.0], "DV": [np.nan, 1.0, 0.5], "AMT": [5.0, 0.0, 0.0]}
    whole = Dataset.from_frame(pd.DataFrame(rows | {"EVID": [101, 0, 0]}))
    real = Dataset.from_frame(pd.DataFrame(rows | {"EVID": [101.0, 0.0, 0.0]}))
    assert real.batch().doses is not None and whole.batch().doses is not None
    assert torch.equal(real.batch().doses.amount, whole.batch().doses.amount)
