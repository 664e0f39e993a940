"""Every table that cannot be read is refused with a message that names row, subject and column."""

import pytest
from support.data_tables import read, table

from nlme_torch import DataError
from nlme_torch.data import Dataset, check_frame

REFUSED = {
    "missing id column": (
        "SUBJ TIME DV\n1 0 1",
        {},
        ["no column ID", "id=", "SUBJ, TIME, DV"],
    ),
    "missing time column": ("ID T DV\n1 0 1", {}, ["no column TIME", "time="]),
    "missing value column": ("ID TIME CONC\n1 0 1", {}, ["no column DV", "outputs="]),
    "absent column named by the user": (
        "Subject Time conc\n1 0 1",
        {"id": "subject", "time": "Time", "outputs": "conc"},
        ["column subject", "no such column", "Did you mean 'Subject'?"],
    ),
    "absent output": ("ID TIME conc\n1 0 1", {"outputs": "cp"}, ["column cp", "given in outputs="]),
    "absent covariate": ("ID TIME DV\n1 0 1", {"covariates": "WT"}, ["column WT", "given in covariates="]),
    "duplicated names": (
        "ID TIME DV\n1 0 1",
        {"duplicate": True},
        ["column DV", "2 columns share this name"],
    ),
    "covariate named twice": (
        "ID TIME DV WT\n1 0 1 7",
        {"covariates": ["WT", "WT"]},
        ["column WT", "named twice"],
    ),
    "two columns for one part": ("ID TIME DV dv\n1 0 1 2", {}, ["DV and dv could both be DV", "dv="]),
    "text among values": (
        "ID TIME DV\n1 0 1\n1 1 <LOQ",
        {},
        ["row 1, subject 1, column DV", "'<LOQ' is not a number"],
    ),
    "text among times": (
        "ID TIME DV\n1 0h 1\n1 1 2",
        {},
        ["row 0, subject 1, column TIME", "'0h' is not a number"],
    ),
    "infinite value": ("ID TIME DV\n1 0 inf", {}, ["row 0, subject 1, column DV", "is not finite"]),
    "missing time": (
        "ID TIME DV\n1 0 1\n1 . 2",
        {},
        ["row 1, subject 1, column TIME", "the time is missing"],
    ),
    "missing id": ("ID TIME DV\n1 0 1\n. 1 2", {}, ["row 1, column ID", "id is missing"]),
    "missing value": (
        "ID TIME DV\n1 0 1\n1 1 NA",
        {},
        ["row 1, subject 1, column DV", "the observation is missing", "MDV 1"],
    ),
    "missing value with MDV 0": (
        "ID TIME DV MDV\n1 0 1 0\n1 1 . 0",
        {},
        ["row 1, subject 1, column DV", "the observation is missing"],
    ),
    "time goes back": (
        "ID TIME DV\n7 0 1\n7 2 1\n7 1 1",
        {},
        ["row 2, subject 7, column TIME", "goes back from 2 to 1", "Sort"],
    ),
    "subject in two blocks": (
        "ID TIME DV\n1 0 1\n2 0 1\n1 5 1",
        {},
        ["row 2, subject 1, column ID", "re-appears", "ended at row 0"],
    ),
    "zero subjects": ("ID TIME DV", {}, ["no rows, hence no subjects"]),
    "covariate varies": (
        "ID TIME DV WT\n1 0 1 70\n1 1 1 71",
        {"covariates": "WT"},
        ["row 1, subject 1, column WT", "changes within the subject", "time_varying="],
    ),
    "covariate missing at the first row": (
        "ID TIME DV WT\n1 0 1 .\n1 1 1 71",
        {"covariates": "WT"},
        ["row 0, subject 1, column WT", "missing at the subject's first row"],
    ),
    "time-varying covariate missing at the first row": (
        "ID TIME DV WT\n3 0 1 .\n3 1 1 71",
        {"time_varying": "WT"},
        ["row 0, subject 3, column WT", "missing at the subject's first row"],
    ),
    "covariate missing throughout, nocb": (
        "ID TIME DV WT\n3 0 1 .\n3 1 1 .",
        {"time_varying": {"WT": "nocb"}},
        ["row 0, subject 3, column WT", "missing in all"],
    ),
    "covariate partly text": (
        "ID TIME DV WT\n1 0 1 70\n2 1 1 heavy",
        {"covariates": "WT"},
        ["row 1, subject 2, column WT", "'heavy'"],
    ),
    "category interpolated": (
        "ID TIME DV DIET\n1 0 1 fed\n1 1 1 fasted",
        {"time_varying": {"DIET": "linear"}},
        ["column DIET", "cannot be interpolated"],
    ),
    "unknown interpolation": (
        "ID TIME DV WT\n1 0 1 70",
        {"time_varying": {"WT": "spline"}},
        ["'spline' is not one of locf, nocb, linear"],
    ),
    "missing occasion": (
        "ID TIME DV OCC\n1 0 1 1\n1 1 1 .",
        {},
        ["row 1, subject 1, column OCC", "occasion is missing"],
    ),
    "unknown DVID": (
        "ID TIME DV DVID\n1 0 1 1\n1 1 1 2",
        {"outputs": {"a": 1, "b": 3}},
        ["output 'b'", "neither a column nor"],
    ),
    "two outcomes taken for one": (
        "ID TIME DV DVID\n1 0 1 1\n1 1 1 2",
        {"outputs": "DV"},
        ["several outcomes", "DVID", "outputs="],
    ),
    "two outputs of one label": (
        "ID TIME DV DVID\n1 0 1 1\n1 1 1 2",
        {"outputs": {"a": 1, "b": 1}},
        ["two outputs are both read from 1"],
    ),
    "unknown EVID": (
        "ID TIME DV EVID\n1 0 1 0\n1 1 1 7",
        {},
        ["row 1, subject 1, column EVID", "EVID 7 is unknown"],
    ),
    "missing EVID": (
        "ID TIME DV EVID\n1 0 1 0\n1 1 1 .",
        {},
        ["row 1, subject 1, column EVID", "EVID is missing"],
    ),
    "unknown MDV": (
        "ID TIME DV MDV\n1 0 1 0\n1 1 1 2",
        {},
        ["row 1, subject 1, column MDV", "neither 0 nor 1"],
    ),
    "unknown CENS": (
        "ID TIME DV CENS\n1 0 1 0\n1 1 1 2",
        {},
        ["row 1, subject 1, column CENS", "2 is not a CENS"],
    ),
    "CENS without value": (
        "ID TIME DV CENS EVID\n1 0 1 0 0\n1 1 . 1 0",
        {},
        ["row 1, subject 1, column CENS", "without a value", "limit of quantification"],
    ),
    "LIMIT on the wrong side": (
        "ID TIME DV CENS LIMIT\n1 0 1 0 .\n1 1 1 1 2",
        {},
        ["row 1, subject 1, column LIMIT", "does not lie below"],
    ),
    "LIMIT on the wrong side, right-censored": (
        "ID TIME DV CENS LIMIT\n1 0 1 0 .\n1 1 1 -1 0",
        {},
        ["row 1, subject 1, column LIMIT", "does not lie above"],
    ),
    "negative AMT": (
        "ID TIME DV AMT\n1 0 . -9\n1 1 1 0",
        {},
        ["row 0, subject 1, column AMT", "cannot be negative"],
    ),
    "dose without AMT": (
        "ID TIME DV AMT EVID\n1 0 . . 1\n1 1 1 0 0",
        {},
        ["row 0, subject 1, column AMT", "AMT is missing"],
    ),
    "AMT with EVID 0": (
        "ID TIME DV AMT EVID\n1 0 . 9 0\n1 1 1 0 0",
        {},
        ["row 0, subject 1, column AMT", "AMT is 9 but EVID is 0"],
    ),
    "AMT with EVID 3": (
        "ID TIME DV AMT EVID\n1 0 . 9 3\n1 1 1 0 0",
        {},
        ["row 0, subject 1, column AMT", "AMT is 9 but EVID is 3"],
    ),
    "RATE without AMT": (
        "ID TIME DV AMT RATE EVID\n1 0 . 0 5 1\n1 1 1 0 0 0",
        {},
        ["row 0, subject 1, column RATE", "RATE is 5 but AMT is 0"],
    ),
    "RATE on an observation": (
        "ID TIME DV AMT RATE\n1 0 . 9 0\n1 1 1 0 5",
        {},
        ["row 1, subject 1, column RATE", "no dose"],
    ),
    "unknown RATE": (
        "ID TIME DV AMT RATE\n1 0 . 9 -3\n1 1 1 0 0",
        {},
        ["row 0, subject 1, column RATE", "-1 (modelled rate)"],
    ),
    "negative DUR": (
        "ID TIME DV AMT DUR\n1 0 . 9 -3\n1 1 1 0 0",
        {},
        ["row 0, subject 1, column DUR", "negative"],
    ),
    "DUR without AMT": (
        "ID TIME DV AMT DUR EVID\n1 0 . 0 3 1\n1 1 1 0 0 0",
        {},
        ["row 0, subject 1, column DUR", "AMT is 0"],
    ),
    "RATE and DUR": (
        "ID TIME DV AMT RATE DUR\n1 0 . 9 3 3\n1 1 1 0 0 0",
        {},
        ["row 0, subject 1, column DUR", "leave one"],
    ),
    "ADDL without II": (
        "ID TIME DV AMT ADDL II\n1 0 . 9 3 0\n1 1 1 0 0 0",
        {},
        ["row 0, subject 1, column II", "ADDL is 3 but II is 0", "interval"],
    ),
    "ADDL without a column II": (
        "ID TIME DV AMT ADDL\n1 0 . 9 3\n1 1 1 0 0",
        {},
        ["row 0, subject 1", "ADDL is 3"],
    ),
    "fractional ADDL": (
        "ID TIME DV AMT ADDL II\n1 0 . 9 1.5 2\n1 1 1 0 0 0",
        {},
        ["row 0, subject 1, column ADDL", "whole number"],
    ),
    "negative ADDL": (
        "ID TIME DV AMT ADDL II\n1 0 . 9 -1 2\n1 1 1 0 0 0",
        {},
        ["row 0, subject 1, column ADDL", "whole number"],
    ),
    "negative II": (
        "ID TIME DV AMT II\n1 0 . 9 -1\n1 1 1 0 0",
        {},
        ["row 0, subject 1, column II", "negative"],
    ),
    "ADDL on an observation": (
        "ID TIME DV AMT ADDL II\n1 0 . 9 0 0\n1 1 1 0 2 4",
        {},
        ["row 1, subject 1, column ADDL", "EVID is 0"],
    ),
    "SS with EVID 0": (
        "ID TIME DV AMT EVID SS II\n1 0 . 9 1 0 0\n1 1 1 0 0 1 12",
        {},
        ["row 1, subject 1, column SS", "SS is 1 but EVID is 0"],
    ),
    "unknown SS": (
        "ID TIME DV AMT SS II\n1 0 . 9 3 12\n1 1 1 0 0 0",
        {},
        ["row 0, subject 1, column SS", "SS is 3"],
    ),
    "SS without II": (
        "ID TIME DV AMT SS II\n1 0 . 9 1 0\n1 1 1 0 0 0",
        {},
        ["row 0, subject 1, column II", "SS is 1 but II is 0"],
    ),
    "endless infusion with II": (
        "ID TIME DV AMT RATE II SS EVID\n1 0 . 0 9 8 1 1\n1 1 1 0 0 0 0 0",
        {},
        ["row 0, subject 1", "without end"],
    ),
    "no compartment": (
        "ID TIME DV AMT CMT\n1 0 . 9 -2\n1 1 1 0 0",
        {},
        ["row 0, subject 1, column CMT", "no compartment"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_table_is_refused_with_place_and_remedy(case):
    text, columns, expected = REFUSED[case]
    frame = table(text)
    columns = dict(columns)
    if columns.pop("duplicate", False):
        frame = frame[["ID", "TIME", "DV", "DV"]]
    with pytest.raises(DataError) as caught:
        Dataset.from_frame(frame, **columns)
    for part in expected:
        assert part in str(caught.value)
    found = check_frame(frame, **columns)
    assert (found["severity"] == "error").any()


def test_all_problems_are_reported_at_once():
    text = "ID TIME DV WT\n1 0 1 70\n1 2 x 71\n2 5 1 60\n2 4 1 60\n1 7 2 80\n"
    with pytest.raises(DataError) as caught:
        read(text, covariates="WT")
    message = str(caught.value)
    for place in (
        "row 1, subject 1, column DV",
        "row 1, subject 1, column WT",
        "row 3, subject 2, column TIME",
        "row 4, subject 1, column ID",
    ):
        assert place in message
    assert "4 problems" in message


def test_many_problems_are_counted():
    rows = "\n".join(f"1 {k} x" for k in range(25))
    with pytest.raises(DataError, match=r"25 problems(.|\n)*and 15 more"):
        read(f"ID TIME DV\n{rows}")


def test_the_table_of_problems_has_rows_from_one():
    found = check_frame(table("ID TIME DV\n1 0 1\n1 1 x\n1 0.5 1"))
    assert found[["severity", "row", "column"]].values.tolist() == [["error", 1, "DV"], ["error", 2, "TIME"]]
    assert list(found["subject"]) == [1, 1]


def test_files_that_are_no_table(tmp_path):
    with pytest.raises(DataError, match="no file"):
        Dataset.from_csv(tmp_path / "absent.csv")
    path = tmp_path / "data.csv"
    path.write_text("")
    with pytest.raises(DataError, match="is empty"):
        Dataset.from_csv(path)
    path.write_text("ID,TIME,DV\n")
    with pytest.raises(DataError, match="no subjects"):
        Dataset.from_csv(path)
    path.write_text("ID,TIME,DV,DV\n1,0,1,2\n")
    with pytest.raises(DataError, match="2 columns share this name"):
        Dataset.from_csv(path)
    path.write_text("ID;TIME;DV\n1;0;1\n")
    with pytest.raises(DataError, match="no column ID"):
        Dataset.from_csv(path)
    path.write_text("ID,TIME\n1,0,1\n")
    with pytest.raises(DataError, match="2 column names but 3 columns"):
        Dataset.from_csv(path)
