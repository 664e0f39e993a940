"""Regimens written down, added up, and turned into designs."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from support.data_tables import read

from nlme_torch import DataError
from nlme_torch.data import Dataset, DoseKind, Regimen

LOADING = Regimen(300.0, compartment="depot")
MAINTENANCE = Regimen(100.0, time=12.0, compartment="depot", every=12.0, additional=2)


def test_a_regimen_is_its_nonmem_rows():
    frame = (LOADING + MAINTENANCE).to_frame()
    assert frame["TIME"].tolist() == [0, 12] and frame["AMT"].tolist() == [300, 100]
    assert frame["II"].tolist() == [0, 12] and frame["ADDL"].tolist() == [0, 2]
    assert frame["CMT"].tolist() == ["depot"] * 2 and frame["EVID"].tolist() == [1, 1]
    kinds = Regimen(5, rate=2) + Regimen(5, duration=3) + Regimen(5, rate="modelled") + Regimen(5, duration="modelled")
    assert kinds.to_frame()["RATE"].tolist() == [2, 0, -1, -2]
    assert kinds.to_frame()["DUR"].tolist() == [0, 3, 0, 0]


def test_regimens_add_up_in_order_of_time():
    together = MAINTENANCE + LOADING + Regimen(1, time=3, steady_state=True, every=6)
    assert len(together) == 3 and together.to_frame()["TIME"].tolist() == [0, 3, 12]
    assert together.to_frame()["SS"].tolist() == [0, 1, 0]
    assert (LOADING + MAINTENANCE) + LOADING == LOADING + (MAINTENANCE + LOADING)
    assert together == copy.deepcopy(together) == pickle.loads(pickle.dumps(together))
    assert hash(LOADING) == hash(Regimen(300.0, compartment="depot")) and LOADING != MAINTENANCE
    with pytest.raises(TypeError):
        LOADING + 3
    with pytest.raises(AttributeError, match="does not change"):
        LOADING.doses = ()


def test_delayed_and_scaled():
    later = (LOADING + MAINTENANCE).delayed(24.0)
    assert later.to_frame()["TIME"].tolist() == [24, 36]
    double = Regimen(10.0, rate=5.0).scaled(2.0)
    assert double == Regimen(20.0, rate=10.0)
    assert Regimen(10.0, duration=2.0).scaled(3.0) == Regimen(30.0, duration=2.0)


def test_it_says_what_it_holds():
    text = repr(LOADING + MAINTENANCE + Regimen(5, rate=2.5) + Regimen(7, every=24, steady_state=True))
    assert text == (
        "Regimen(300 into depot at 0, 100 into depot at 12 and 2 more every 12, 5 into 1 at 0, rate 2.5, "
        "7 into 1 at 0, steady state 1 of every 24)"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"amount": -1.0}, "amount=-1.0"),
        ({"amount": float("nan")}, "amount=nan"),
        ({"amount": 1.0, "additional": 2}, "needs the interval every="),
        ({"amount": 1.0, "every": 1.0, "additional": -1}, "additional=-1"),
        ({"amount": 1.0, "rate": 1.0, "duration": 1.0}, "not both"),
        ({"amount": 1.0, "rate": "modelled", "duration": "modelled"}, "not both"),
        ({"amount": 1.0, "duration": -2.0}, "duration=-2.0"),
        ({"amount": 1.0, "steady_state": True}, "needs the interval every="),
        ({"amount": 1.0, "steady_state": 3, "every": 2.0}, "steady_state=3"),
        ({"amount": 0.0, "rate": 2.0}, "infusion without end"),
        ({"amount": 1.0, "time": float("inf")}, "time=inf"),
    ],
)
def test_regimens_that_cannot_be_meant(arguments, message):
    with pytest.raises(DataError, match=message):
        Regimen(**arguments)


def test_a_design_for_simulation():
    dataset = Dataset.from_regimen(
        LOADING + MAINTENANCE,
        [0.0, 6.0, 40.0],
        subjects=3,
        covariates={"WT": [60.0, 70.0, 80.0], "AGE": 40.0},
        outputs=["cp", "pca"],
    )
    assert dataset.subjects == (1, 2, 3) and dataset.outputs == ("cp", "pca") and dataset.n_observations == 0
    batch = dataset.batch()
    assert batch.times[:, 1].tolist() == [0, 0, 6, 12, 24, 36, 40]
    assert batch.doses.amount[:, 1].tolist() == [300, 0, 0, 100, 100, 100, 0]
    assert batch.covariates["WT"].tolist() == [60, 70, 80] and batch.covariates["AGE"].tolist() == [
        40,
        40,
        40,
    ]
    looks = dataset.prediction_rows[batch.rows[:, 0].numpy()] & (batch.rows[:, 0] >= 0).numpy()
    assert batch.times[torch.as_tensor(looks), 0].tolist() == [0, 6, 40]
    assert dataset.frame.loc[dataset.prediction_rows, "EVID"].unique().tolist() == [2]


def test_designs_by_subject():
    dataset = Dataset.from_regimen(
        {"a": Regimen(1.0), "b": Regimen(2.0, duration=0.5)},
        {"a": [1.0], "b": [2.0, 3.0]},
        subjects=["a", "b"],
        covariates=pd.DataFrame({"WT": [50.0, 60.0]}, index=["b", "a"]),
    )
    batch = dataset.batch()
    assert batch.record_mask.sum(0).tolist() == [2, 3]
    assert batch.doses.amount[0].tolist() == [1, 2]
    assert batch.doses.kind[0].tolist() == [DoseKind.BOLUS, DoseKind.DURATION]
    assert batch.covariates["WT"].tolist() == [60, 50]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regimen": {1: Regimen(1.0)}, "subjects": 2}, "subject 2 has no regimen"),
        ({"regimen": {1: Regimen(1.0), 9: Regimen(1.0)}}, "no subject 9"),
        ({"subjects": ["a", "b", "a"]}, "subject 'a' is named twice"),
        ({"covariates": {"WT": [1.0, 2.0]}}, "covariate 'WT' has shape"),
        ({"covariates": pd.DataFrame({"WT": [1.0]}, index=[5])}, "no line for subject 1"),
        ({"covariates": pd.DataFrame({"WT": [1.0, 2.0]}, index=[1, 1])}, "subject 1 has 2 lines"),
        ({"covariates": {"WT": np.nan}}, "covariate is missing"),
        ({"times": {7: [1.0]}}, "subject 7"),
    ],
)
def test_designs_that_cannot_be(arguments, message):
    with pytest.raises(DataError, match=message):
        Dataset.from_regimen(**{"regimen": Regimen(1.0), "times": [1.0]} | arguments)


def test_the_same_subjects_under_other_doses():
    dataset = read(
        "ID TIME AMT DV WT DIET CR\n1 0 10 . 60 fed 5\n1 1 0 3 60 fed 7\n1 5 0 2 60 fed 9\n"
        "2 2 10 . 80 not 6\n2 4 0 1 80 not 8\n",
        covariates=["WT", "DIET"],
        time_varying={"CR": "linear"},
    )
    other = dataset.with_regimen(Regimen(50.0, every=2.0, additional=1), times=[0.5, 3.0])
    assert other.n_observations == 0 and other.outputs == dataset.outputs
    batch = other.batch()
    # rows of the old table stay, because a covariate changes there, but are no rows at which to look
    assert batch.times[:, 0].tolist() == [0, 0, 0.5, 1, 2, 3, 5]
    assert batch.doses.amount[:, 0].tolist() == [50, 0, 0, 0, 50, 0, 0]
    assert other.frame.loc[other.prediction_rows, "TIME"].tolist() == [0.5, 3, 0.5, 3]
    assert batch.covariates["WT"].tolist() == [60, 80] and batch.covariates["DIET"].tolist() == [0, 1]
    assert batch.covariates["CR"][:, 0].tolist() == [5, 5, 6, 7, 7.5, 8, 9]
    assert batch.times[:, 1].tolist() == [0, 0.5, 2, 2, 3, 4, 4]
    assert batch.covariates["CR"][:, 1].tolist() == [6, 6, 6, 6, 7, 8, 8]
    assert other.categories == dataset.categories
    same = dataset.with_regimen(Regimen(50.0))
    assert same.frame.loc[same.prediction_rows, "TIME"].tolist() == [1, 5, 4]
    with pytest.raises(DataError, match="subject 2 has no regimen"):
        dataset.with_regimen({1: Regimen(1.0)})


def test_an_infusion_may_outlast_its_interval():
    design = Dataset.from_regimen(Regimen(10.0, rate=1.0, every=5.0, additional=1), [20.0])
    doses = design.batch().doses
    assert doses.rate[doses.mask].tolist() == [1.0, 1.0] and doses.amount[doses.mask].tolist() == [10.0, 10.0]
