"""Doses without a column of amounts are one message that says what to write, however many rows there are."""

import numpy as np
import pandas as pd
import pytest

import nlme_torch as nlme


def dosed(subjects=40):
    rows = [
        {
            "ID": i,
            "TIME": t,
            "DOSE_MG": 100.0 if t == 0 else np.nan,
            "DV": np.nan if t == 0 else 1.0,
            "EVID": int(t == 0),
        }
        for i in range(subjects)
        for t in (0.0, 1.0)
    ]
    return pd.DataFrame(rows)


def test_rows_of_doses_without_a_dose_column_are_one_problem():
    with pytest.raises(nlme.DataError, match=r"EVID marks 40 rows as doses.*row 0.*amt='DOSE_MG'") as caught:
        nlme.Dataset.from_frame(dosed())
    assert "has 1 problem" in str(caught.value)
    with pytest.raises(nlme.DataError, match=r"amt='\.\.\.'; the table has ID, TIME, X, DV, EVID"):
        nlme.Dataset.from_frame(dosed().rename(columns={"DOSE_MG": "X"}))


def test_rows_without_a_value_beside_what_looks_like_a_dose_column_are_one_problem():
    with pytest.raises(nlme.DataError, match=r"40 rows have no value of DV.*row 0.*amt='DOSE_MG'") as caught:
        nlme.Dataset.from_frame(dosed().drop(columns="EVID"))
    assert "has 1 problem" in str(caught.value)
    data = nlme.Dataset.from_frame(dosed().drop(columns="EVID"), amt="DOSE_MG")
    assert data.batch().doses is not None


def test_a_covariate_or_output_of_a_design_may_not_have_the_name_of_a_part():
    for arguments in ({"covariates": {"RATE": 1.0}}, {"outputs": "RATE"}):
        with pytest.raises(nlme.DataError, match="'RATE' has the name of a column that means the rate of an infusion"):
            nlme.Dataset.from_regimen(nlme.Regimen(10.0), [1.0], **arguments)
