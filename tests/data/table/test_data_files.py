"""Public data files load as they are, with no more than names mapped; the counts are facts about them."""

import numpy as np
import pandas as pd
import pytest
from support.data_tables import shared

from nlme_torch.data import Dataset, DoseKind
from nlme_torch.examples import phenobarbital, theophylline


def test_theophylline_file():
    dataset = Dataset.from_csv(
        shared("theoph.csv"), id="Subject", time="Time", outputs="conc", covariates=("Wt", "Dose")
    )
    assert dataset == theophylline()


def test_phenobarbital_file():
    dataset = Dataset.from_csv(shared("phenobarb.csv"))
    assert dataset == phenobarbital()
    assert (dataset.n_subjects, dataset.n_observations, dataset.n_rows) == (59, 155, 744)
    batch = dataset.batch()
    assert int(batch.doses.mask.sum()) == 589 and int((batch.doses.kind == DoseKind.BOLUS).sum()) == 589
    frame = pd.read_csv(shared("phenobarb.csv"))
    assert float(batch.doses.amount.sum()) == pytest.approx(frame["AMT"].sum(), rel=1e-12)
    assert float(batch.outcomes["DV"].value.sum()) == pytest.approx(frame.loc[frame["EVID"] == 0, "DV"].sum())
    assert sorted(batch.covariates) == ["APGR", "WT"]


def test_warfarin_file():
    dataset = Dataset.from_csv(shared("warfarin.csv"), covariates=["wt", "age", "sex"])
    batch = dataset.batch()
    assert dataset.n_subjects == 32 and dataset.outputs == ("cp", "pca")
    assert {name: o.n_observations for name, o in batch.outcomes.items()} == {"cp": 251, "pca": 232}
    assert dataset.categories == {"sex": ("female", "male")}
    frame = pd.read_csv(shared("warfarin.csv"))
    first = frame.groupby("id", sort=False).first()
    np.testing.assert_array_equal(batch.covariates["sex"], (first["sex"] == "male").to_numpy(float))
    assert int(batch.doses.mask.sum()) == 32
    renamed = Dataset.from_csv(shared("warfarin.csv"), outputs={"PK": "cp", "PD": "pca"})
    assert renamed.n_observations == 251 + 232
    pk = Dataset.from_csv(shared("warfarin.csv"), outputs={"PK": "cp"})
    assert pk.n_observations == 251
    assert pk.describe().ignored["count"].tolist() == [232]


def test_viral_dynamics_file():
    covariates = ["iKa", "iCL", "iVc", "iQ", "iVp", "iDur"]
    dataset = Dataset.from_csv(
        shared("hiv_viral_dynamics.csv"), outputs={"CP": "CP", "virus": "Virus"}, covariates=covariates
    )
    frame = pd.read_csv(shared("hiv_viral_dynamics.csv"))
    observed = frame[frame["evid"] == 0]
    batch = dataset.batch()
    assert dataset.n_subjects == 100
    assert batch.outcomes["CP"].n_observations == observed["CP"].notna().sum()
    assert batch.outcomes["virus"].n_observations == observed["Virus"].notna().sum()
    assert batch.doses.compartments == ("Depot",)
    assert bool((batch.doses.kind[batch.doses.mask] == DoseKind.MODELLED_DURATION).all())
    assert batch.doses.state_index(("Depot", "Central")).max() == 0
    assert len(dataset.check(states=["Depot"], modelled_duration=["Depot"])) == 100  # observed at the time of the dose
    text = dataset.check(states=["Depot"], modelled_duration=[])["message"]
    assert text.str.contains("gives no duration for Depot").sum() == 100
