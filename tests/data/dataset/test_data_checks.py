"""What is legal but suspicious, what does not fit a model, and what a data set says about itself."""

import pandas as pd
import pytest
from support.data_tables import ONE_DOSE, read, table

from nlme_torch import DataError
from nlme_torch.data import Dataset, check_frame, phenobarbital

SUSPICIOUS = {
    "II without ADDL or SS": ("ID TIME DV AMT II\n1 0 . 9 12\n1 1 1 0 0", 0, "given once"),
    "zero dose": ("ID TIME DV AMT EVID\n1 0 . 0 1\n1 1 1 0 0", 0, "changes nothing"),
    "CENS without LIMIT": ("ID TIME DV CENS\n1 0 3 0\n1 1 1 1", 1, "anywhere below 1"),
    "repeated observation": ("ID TIME DV\n1 0 3\n1 0 1", 1, "a second time at time 0"),
    "no dose": ("ID TIME DV AMT\n1 0 . 9\n1 1 1 0\n2 0 5 0", 2, "no dose, though others have"),
    "order at equal times": ("ID TIME DV AMT\n1 0 . 9\n1 0 1 0", 1, "after the dose"),
}


@pytest.mark.parametrize("rule", SUSPICIOUS)
def test_suspicious_tables_are_read_with_a_warning(rule):
    text, row, message = SUSPICIOUS[rule]
    found = read(text).check()
    warned = found[found["rule"] == rule]
    assert warned["severity"].tolist() == ["warning"] and warned["row"].tolist() == [row]
    assert message in warned["message"].iloc[0]
    pd.testing.assert_frame_equal(check_frame(table(text)), found)


def test_nothing_to_say_about_a_clean_table():
    found = read(ONE_DOSE).check(states=["central"], positive=["DV"], modelled_rate=[], modelled_duration=[])
    assert found.empty and list(found) == ["severity", "rule", "subject", "row", "column", "message"]


def test_values_that_a_log_normal_error_cannot_have():
    dataset = read("ID TIME DV\n1 0 0\n1 1 2\n2 1 -3")
    found = dataset.check(positive=["DV"])
    assert found[["severity", "row", "subject", "column"]].values.tolist() == [
        ["error", 0, 1, "DV"],
        ["error", 2, 2, "DV"],
    ]
    with pytest.raises(
        DataError, match=r"row 0, subject 1, column DV: DV is 0, but its log-normal(.|\n)*row 2, subject 2"
    ):
        dataset.require(positive=["DV"])
    assert dataset.check().empty
    with pytest.raises(DataError, match="no output 'CP'"):
        dataset.check(positive=["CP"])


@pytest.mark.parametrize(("label", "fits"), [("1", True), ("2", True), ("3", False), ("central", True),
                                             ("Central", True), ("gut", False)])  # fmt: skip
def test_a_dose_enters_a_state_of_the_model(label, fits):
    dataset = read(f"ID TIME DV AMT CMT\n1 0 . 9 {label}\n1 1 1 0 .")
    found = dataset.check(states=["depot", "central"])
    assert found.empty == fits
    if fits:
        dataset.require(states=["depot", "central"])
        index = dataset.batch().doses.state_index(["depot", "central"])
        assert index[:, 0].tolist() == [0 if label == "1" else 1, -1]
    else:
        with pytest.raises(DataError, match="row 0, subject 1, column CMT: a dose enters compartment"):
            dataset.require(states=["depot", "central"])
        with pytest.raises(DataError, match=r"row 0.* 1 = depot, 2 = central"):
            dataset.batch().doses.state_index(["depot", "central"])


@pytest.mark.parametrize(("code", "what"), [(-1, "rate"), (-2, "duration")])
def test_a_modelled_infusion_needs_a_model_for_it(code, what):
    dataset = read(f"ID TIME DV AMT RATE\n1 0 . 9 {code}\n1 1 1 0 0")
    facts = {"states": ["depot", "central"], "modelled_rate": [], "modelled_duration": []}
    with pytest.raises(DataError, match=rf"row 0, subject 1, column RATE: RATE is {code}.*gives no {what} for depot"):
        dataset.require(**facts)
    dataset.require(**facts | {f"modelled_{what}": ["depot"]})
    with pytest.raises(DataError, match=f"gives no {what} for depot"):
        dataset.require(**facts | {f"modelled_{what}": ["central"]})


def test_the_description_counts_what_was_left_out():
    text = (
        "ID TIME AMT EVID MDV DVID DV ADDL II NOTE SEX WT\n"
        "1  0    10  1    1   .    .  3    12 a    m   70\n"
        "1  0    0   0    1   1    4  0    0  b    m   70\n"
        "1  5    0   0    0   1    3  0    0  c    m   70\n"
        "1  5    0   0    0   2    9  0    0  c    m   70\n"
        "1  6    0   2    1   .    .  0    0  c    m   70\n"
        "1  30   0   3    1   .    .  0    0  c    m   70\n"
        "1  36   0   0    0   1    2  0    0  c    m   70\n"
    )
    dataset = read(text, outputs={"cp": 1})
    told = dataset.describe()
    ignored = told.ignored.set_index("reason")
    assert ignored.loc["MDV is 1 on an observation row"].tolist() == [1, "row 1"]
    assert ignored.loc["DVID is not one of the outputs"].tolist() == [1, "row 3"]
    assert ignored.filter(like="cancelled", axis=0)["count"].tolist() == [1]
    assert told.counts["subjects"] == 1 and told.counts["rows"] == 7 and told.counts["observed values"] == 2
    assert told.counts["repeats by ADDL"] == 2 and told.counts["resets"] == 1 and told.counts["dose rows"] == 1
    unused = told.unused.set_index("column")["reason"]
    assert set(unused.index) == {"NOTE", "SEX"} and "text" in unused["SEX"]
    assert told.covariates["covariate"].tolist() == ["WT"]
    for part in ("observations", "cp", "ignored", "MDV is 1", "unused", "NOTE"):
        assert part in repr(told)


def test_the_description_of_a_published_table():
    told = phenobarbital().describe()
    assert told.counts["subjects"] == 59 and told.counts["observed values"] == 155
    assert told.counts["dose rows"] == 589
    row = told.observations.iloc[0]
    assert (row["values"], row["subjects"]) == (155, 59)
    assert told.ignored.empty and told.unused.empty


def test_the_summary_states_the_rule_of_time_varying_covariates():
    dataset = read("ID TIME DV CR\n1 0 1 10\n1 4 2 30", time_varying={"CR": "nocb"})
    assert "CR (nocb)" in repr(dataset)
    assert dataset.describe().covariates[["covariate", "rule"]].values.tolist() == [["CR", "nocb"]]


def test_a_check_needs_no_readable_table():
    found = check_frame(pd.DataFrame({"TIME": [0.0], "DV": [1.0]}))
    assert found["severity"].tolist() == ["error"] and "no column ID" in found["message"][0]
    with pytest.raises(DataError, match="no column ID"):
        Dataset.from_frame(pd.DataFrame({"TIME": [0.0], "DV": [1.0]}))
