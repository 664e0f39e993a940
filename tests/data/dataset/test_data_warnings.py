"""What can be read but should be looked at is said at load, once, and again by every fit."""

import pandas as pd
import pyro.distributions as dist
import pytest
from support.data_tables import read

import nlme_torch as nlme
from nlme_torch import DataError


@pytest.mark.parametrize(
    ("text", "said", "shown"),
    [
        ("ID TIME DV AMT\n1 0 . 9\n1 1 1 0\n2 0 5 0\n2 1 3 0", "no dose, though others have", None),
        (
            "ID TIME DV DOSE\n1 0 1 9\n1 1 1 0\n2 0 5 9",
            "column DOSE: it is not read, and looks like the amount",
            "DOSE (looks",
        ),
        ("ID TIME DV Dose\n1 0 1 9\n1 1 1 9\n2 0 5 9", "amt='Dose'", None),
        ("ID TIME DV BLQ\n1 0 1 0\n1 1 .5 1\n2 0 5 0", "cens='BLQ'", "BLQ (looks like a flag of censored values)"),
        ("ID TIME DV LLOQ\n1 0 1 1\n1 1 .5 1\n2 0 5 1", "lloq='LLOQ'", "LLOQ (looks like a limit"),
        (
            "ID TIME DV WT\n1 0 1 70\n2 0 .5 .\n3 0 5 60",
            "it could be a covariate, but 1 of its cells",
            "WT (has missing",
        ),
        ("ID TIME DV AMT TAU\n1 0 . 9 12\n1 1 .5 0 0\n1 3 5 0 0", "ii='TAU'", "TAU (looks like the interval"),
        ("ID TIME DV AMT DOSE\n1 0 . 9 9\n1 1 .5 0 9", "amt='DOSE'", "DOSE (looks like the amount of a dose)"),
        ("ID TIME DV Dose\n1 0 1 9\n1 1 1 9\n2 0 5 9", "is read as a covariate, and looks like", None),
        ("ID TIME DV CENS MDV\n1 0 1 0 0\n1 1 .5 1 1", "CENS on a row with MDV 1", None),
        ("ID TIME DV AGE\n1 0 1 -99\n2 0 5 40", "row 0, subject 1, column AGE: is -99, as missing", None),
        ("ID TIME DV\n1 0 1\n1 1 -99\n1 2 3", "row 1, subject 1, column DV: is -99", None),
        ("ID TIME DV CENS\n1 0 3 0\n1 1 0 1", "CENS 1 at 0, where all other values are positive", None),
        ("ID TIME DV AMT\n1 0 . 9\n1 0 . 9\n1 1 3 0", "the dose of 9 is given a second time at time 0", None),
        ("ID TIME DV AMT ADM\n1 0 . 9 2\n1 1 3 0 2", "cmt='ADM'", "ADM (looks like the compartment of a dose)"),
        ("ID TIME DV\n1 0 3\n1 0 1\n1 0 2", r"a second time at time 0. \(2 rows like this\)", None),
    ],
)
def test_what_is_said_at_load(text, said, shown):
    data = read(text)
    assert len(data.warnings) == 1
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(data.warnings[0])
    if shown is not None:
        assert shown in repr(data)
        assert not {"DOSE", "BLQ", "LLOQ", "WT", "TAU"} & set(data.covariate_names)


@pytest.mark.parametrize("name", ["TINF", "DURATION", "Inf_Dur", "INFRATE"])
def test_what_a_column_beside_doses_would_be_is_asked(name):
    text = f"ID TIME DV AMT {name}\n1 0 . 9 2\n1 1 1 0 0\n"
    part = "rate" if name == "INFRATE" else "dur"
    with pytest.raises(
        DataError, match=f"column {name}: it is not read, and looks like .*{part}='{name}'.*ignore='{name}'"
    ):
        read(text)
    assert read(text, **{part: name}).batch().doses.kind[0, 0] in (2, 3)
    assert read(text, ignore=name).covariate_names == ()


def test_an_answer_ends_the_question():
    text = "ID TIME DV AMT DOSE\n1 0 . 9 9\n1 1 .5 0 9"
    for columns in ({"covariates": "DOSE"}, {"ignore": "DOSE"}, {"covariates": []}):
        assert read(text, **columns).warnings == ()
    flagged = "ID TIME DV BLQ\n1 0 1 0\n1 1 .5 1\n2 0 5 0"
    assert read(flagged, cens="BLQ").warnings == read(flagged, ignore="BLQ").warnings == ()


def test_levels_that_differ_in_their_writing_only():
    data = read("ID TIME DV SEX\n1 0 1 M\n2 0 2 m\n3 0 2 F", covariates="SEX")
    assert "the levels 'M', 'm' differ in their writing only" in data.warnings[0]


def test_a_value_of_no_outcome_is_refused():
    with pytest.raises(DataError, match="row 2, subject 2, column DVID: the row has a value, but DVID is missing"):
        read("ID TIME DV DVID\n1 0 5 1\n1 0 5 2\n2 0 4 .\n2 1 4 1")


def test_text_and_varying_columns_are_named_in_the_printed_data_set():
    shown = repr(read("ID TIME DV SEX CR\n1 0 1 m 5\n1 1 2 m 6\n"))
    assert "unused        SEX (holds text), CR (varies within subjects)" in shown


class Level(nlme.Model):
    """y = a + e."""

    def __init__(self):
        super().__init__()
        self.a, self.sigma = nlme.Normal(1.0, omega=0.5), nlme.Positive(0.5)

    def predict(self, t, p, cov):
        return p.a + 0.0 * t

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


def test_a_fit_repeats_what_was_said():
    frame = pd.DataFrame({"ID": [1, 1, 2, 2, 3, 3], "TIME": [0.0, 1.0] * 3, "DV": [1.0, 1.5, 3.0, 2.0, 0.0, 0.8]})
    data = nlme.Dataset.from_frame(frame.assign(WT=[70, 70, None, None, 60, 60]))
    fit = nlme.fit(Level(), data, nlme.FO(), progress=False)
    assert data.warnings[0] in fit.warnings and "column WT" in str(fit)


@pytest.mark.parametrize("columns", ["SS II EVID\n1 0 . 0 1 12 1", "SS II EVID\n1 0 . 0 2 0 1"])
def test_the_steady_state_of_no_dose_is_refused(columns):
    with pytest.raises(DataError, match="row 0, subject 1, column AMT: SS is . but AMT and RATE are 0"):
        read(f"ID TIME DV AMT {columns}\n1 1 1 0 0 0 0\n")


def test_a_subject_is_in_a_data_set_once():
    data = read("ID TIME DV\n1 0 1\n2 0 2\n")
    with pytest.raises(DataError, match="subset: subject 1 is named twice"):
        data.subset([1, 1, 2])


def test_ids_written_in_two_ways_are_refused():
    frame = pd.DataFrame({"ID": [1, "1", 2], "TIME": [0.0, 1.0, 0.0], "DV": 1.0})
    with pytest.raises(DataError, match="row 0, subject 1, column ID: 1 stands as a number here and as text"):
        nlme.Dataset.from_frame(frame)
