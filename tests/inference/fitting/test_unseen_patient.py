"""A patient without samples comes from a table: his rows say when to predict."""

import numpy as np
import pandas as pd
import pytest
from support.fitted_models import quick_fit

import nlme_torch as nlme


@pytest.mark.parametrize("flag", [{}, {"EVID": [2, 2]}, {"MDV": [1, 1]}])
def test_rows_of_a_patient_without_samples_are_predicted(flag):
    fit = quick_fit()
    rows = {"Subject": "new", "Time": [1.0, 8.0], "conc": np.nan, "Wt": 70.0, "Dose": 4.0}
    other = pd.concat([fit.data.frame.query("Subject == 1"), pd.DataFrame({**rows, **flag})], ignore_index=True)
    other = other.fillna({name: 0 for name in flag})
    if not flag:
        other = pd.DataFrame(rows).assign(EVID=0)
    data = nlme.Dataset.from_frame(other, id="Subject", outputs="conc", covariates=["Wt", "Dose"])
    patient = fit.individualise(data)
    found = patient.predictions.query("id == 'new'")
    assert found["time"].tolist() == [1.0, 8.0] and patient.eta.loc["new"].abs().max() == 0
    np.testing.assert_allclose(found["IPRED"], found["PRED"])
    seen = patient.predictions.query("id == 1")
    assert len(seen) == (11 if flag else 0)
