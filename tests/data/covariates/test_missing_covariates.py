"""Covariates that some subjects lack are refused unless the user says how they are filled, and then it is said."""

import numpy as np
import pandas as pd
import pytest

import nlme_torch as nlme


def frame():
    rows = [{"ID": i, "TIME": t, "DV": 1.0, "WT": w, "SEX": s} for i, w, s in PEOPLE for t in (0.0, 1.0)]
    made = pd.DataFrame(rows)
    made.loc[7, "WT"] = 64.0  # the fourth subject's weight stands in a later row alone
    return made


PEOPLE = [(1, 60.0, "f"), (2, None, "m"), (3, 80.0, None), (4, None, "f"), (5, 90.0, "f")]
READ = {"covariates": ["WT", "SEX"]}


def test_without_a_rule_every_subject_that_lacks_a_covariate_is_named_with_what_to_write():
    with pytest.raises(nlme.DataError, match="3 problems") as caught:
        nlme.Dataset.from_frame(frame(), **READ)
    message = str(caught.value)
    assert "row 2, subject 2, column WT" in message
    assert "row 4, subject 3, column SEX" in message
    assert "row 6, subject 4, column WT" in message
    assert "missing={'WT': 'median'}" in message


def test_the_median_is_that_of_the_subjects_that_have_a_value():
    data = nlme.Dataset.from_frame(frame(), **READ, missing={"WT": "median", "SEX": "mode"})
    weights = [60.0, float(np.median([60.0, 80.0, 64.0, 90.0])), 80.0, 64.0, 90.0]
    assert data.covariates["WT"].tolist() == weights
    levels = data.categories["SEX"]
    assert [levels[int(code)] for code in data.covariates["SEX"]] == ["f", "m", "f", "f", "f"]
    assert "WT carried back to the first row in 1 subject, filled with the median 72 in 1 of 5 subjects" in repr(data)
    assert "SEX filled with the mode f in 1 of 5 subjects" in repr(data)
    assert "filled with the median 72" in repr(data.describe())


def test_a_value_of_the_users_fills_and_carrying_alone_leaves_nothing_to_guess():
    data = nlme.Dataset.from_frame(frame(), **READ, missing={"WT": 70.0, "SEX": "m"})
    assert data.covariates["WT"].tolist() == [60.0, 70.0, 80.0, 64.0, 90.0]
    with pytest.raises(nlme.DataError, match="row 2, subject 2, column WT") as caught:
        nlme.Dataset.from_frame(frame(), **READ, missing={"WT": "carry", "SEX": "m"})
    assert "subject 4" not in str(caught.value)


def test_a_column_with_gaps_becomes_a_covariate_by_a_rule_alone():
    assert nlme.Dataset.from_frame(frame()).covariate_names == ()
    assert nlme.Dataset.from_frame(frame(), missing={"WT": "median"}).covariate_names == ("WT",)


def test_what_changes_in_time_is_filled_at_the_start_and_carried_forward_later():
    table = frame()
    table["CR"] = [np.nan, 1.0, np.nan, np.nan, 3.0, np.nan, 4.0, 5.0, np.nan, np.nan]
    data = nlme.Dataset.from_frame(table, time_varying=["CR"], covariates=[], missing={"CR": "median"})
    values = data.batch().covariates["CR"]
    middle = float(np.median([1.0, 3.0, 4.0]))
    assert values.T.tolist() == [[1.0, 1.0], [middle, middle], [3.0, 3.0], [4.0, 5.0], [middle, middle]]


def test_parts_and_simulations_of_filled_data_keep_the_values():
    data = nlme.Dataset.from_frame(frame(), **READ, missing={"WT": "median", "SEX": "mode"})
    assert data.subset([2, 3]).covariates["WT"].tolist() == [72.0, 80.0]
    again = nlme.Dataset.from_frame(data.frame, **READ)
    assert again.hash == data.hash
    assert data.with_regimen(nlme.Regimen(1.0), [1.0]).covariates["WT"].tolist() == data.covariates["WT"].tolist()


def test_rules_that_cannot_be_followed_are_refused():
    with pytest.raises(nlme.DataError, match=r"column WGT: given in missing= but is no covariate"):
        nlme.Dataset.from_frame(frame(), **READ, missing={"WGT": "median"})
    with pytest.raises(nlme.DataError, match=r"text has no median; say missing=\{'SEX': 'mode'\}"):
        nlme.Dataset.from_frame(frame(), **READ, missing={"WT": 70.0, "SEX": "median"})
    with pytest.raises(nlme.DataError, match="'heavy' is not a number"):
        nlme.Dataset.from_frame(frame(), **READ, missing={"WT": "heavy", "SEX": "mode"})


def test_a_covariate_may_be_named_both_as_a_covariate_and_as_changing():
    table = frame().assign(CR=np.arange(10.0), WT=70.0)
    both = nlme.Dataset.from_frame(table, covariates=["WT", "CR"], time_varying=["CR"])
    one = nlme.Dataset.from_frame(table, covariates=["WT"], time_varying=["CR"])
    assert both.hash == one.hash
    assert both.batch().interpolation == {"CR": "locf"}


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"SEX": "estimate"}, "column SEX: missing= cannot estimate a covariate"),
        ({"SEX": "modes"}, "column SEX: .* is no rule and no level. Did you mean 'mode'"),
        ({"WT": "meadian"}, "column WT: .* is no rule and no level. Did you mean 'median'"),
    ],
)
def test_a_text_that_is_neither_a_rule_nor_a_level_becomes_no_level(rule, said):
    with pytest.raises(nlme.DataError, match=said):
        nlme.Dataset.from_frame(frame(), missing={"WT": 70.0, "SEX": "f", **rule}, **READ)
    unknown = nlme.Dataset.from_frame(frame(), missing={"WT": 70.0, "SEX": "unknown"}, **READ)
    assert unknown.categories["SEX"] == ("f", "m", "unknown")
