import math

import pytest
from tables import table

from nlme_torch import DataError
from nlme_torch.data import Dataset


def test_codes_and_limits_reach_the_batch():
    frame = table(DV=[5.0, 0.1, 0.1, 9.0], CENS=[0, 1, 1, -1], LIMIT=[".", 0.0, ".", "."])
    outcome = Dataset.from_frame(frame).batch().outcomes["DV"]
    assert outcome.censoring[:, 0].tolist() == [0, 1, 1, -1]
    assert outcome.limit[1:, 0].tolist() == [0.0, -math.inf, math.inf]
    assert outcome.mask.all() and outcome.value[:, 0].tolist() == [5.0, 0.1, 0.1, 9.0]


def test_without_censored_values_there_is_nothing():
    outcome = Dataset.from_frame(table(DV=[5.0, 0.1], CENS=[0, 0])).batch().outcomes["DV"]
    assert outcome.censoring is None and outcome.limit is None


def test_only_the_censored_output_carries_codes():
    frame = table(DV=[5.0, 0.1, 70.0], DVID=[1, 1, 2], CENS=[0, 1, 0])
    outcomes = Dataset.from_frame(frame).batch().outcomes
    assert outcomes["DV1"].censoring[:, 0].tolist() == [0, 1, 0]
    assert outcomes["DV2"].censoring is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"DV": [5.0, 1.0], "CENS": [0, 2]}, "row 2, subject 1, column CENS: 2 is not a CENS"),
        ({"DV": [5.0, "."], "CENS": [0, 1], "EVID": [0, 0]}, "row 2, subject 1, column CENS: CENS without a value"),
        ({"DV": [5.0, 1.0], "CENS": [0, 1], "LIMIT": [0, 2]}, "row 2.*column LIMIT: LIMIT 2 does not lie below"),
        ({"DV": [5.0, 1.0], "CENS": [0, -1], "LIMIT": [0, 0.5]}, "column LIMIT: LIMIT 0.5 does not lie above"),
    ],
)
def test_bad_censoring(columns, message):
    with pytest.raises(DataError, match=message):
        Dataset.from_frame(table(**columns))


def test_censoring_of_a_row_with_two_values():
    frame = table(A=[1.0, 2.0], B=[1.0, 2.0], CENS=[0, 1])
    with pytest.raises(DataError, match="row 2.*several observed values"):
        Dataset.from_frame(frame, outputs=["A", "B"])


def test_cens_without_limit_is_reported_by_check():
    found = Dataset.from_frame(table(DV=[5.0, 0.1], CENS=[0, 1])).check()
    assert found[["severity", "rule", "row", "column"]].values.tolist() == [["warning", "CENS without LIMIT", 2, "CENS"]]
    assert len(Dataset.from_frame(table(DV=[5.0, 0.1], CENS=[0, 1], LIMIT=[0, 0])).check()) == 0
