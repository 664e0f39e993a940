"""From a table to padded tensors and back."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data_tables import ONE_DOSE, read

from nlme_torch import DataError
from nlme_torch.data import Dataset
from nlme_torch.examples import theophylline

NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)


@st.composite
def tables(draw):
    """A table with ties in time, rows without value, a constant and a time-varying covariate, odd ids."""
    blocks = []
    labels = draw(st.lists(st.integers(-50, 50), min_size=1, max_size=5, unique=True))
    for label in labels:
        count = draw(st.integers(1, 6))
        times = sorted(draw(st.lists(st.integers(0, 8), min_size=count, max_size=count)))
        values = draw(st.lists(NUMBERS, min_size=count, max_size=count))
        other = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        other[draw(st.integers(0, count - 1))] = False
        blocks.append(
            pd.DataFrame(
                {
                    "ID": label,
                    "TIME": [time / 4 for time in times],
                    "DV": [np.nan if blank else value for value, blank in zip(values, other, strict=True)],
                    "EVID": [2 if blank else 0 for blank in other],
                    "WT": draw(NUMBERS),
                    "CRCL": draw(st.lists(NUMBERS, min_size=count, max_size=count)),
                }
            )
        )
    return pd.concat(blocks, ignore_index=True)


def rows_of(batch) -> pd.DataFrame:
    """The table that a batch stands for, in the order of its rows."""
    record, subject = torch.nonzero(batch.rows >= 0, as_tuple=True)
    outcome = batch.outcomes["DV"]
    frame = pd.DataFrame(
        {
            "ID": [batch.subjects[index] for index in subject],
            "TIME": batch.times[record, subject].numpy(),
            "DV": torch.where(outcome.mask, outcome.value, torch.nan)[record, subject].numpy(),
            "EVID": np.where(outcome.mask[record, subject].numpy(), 0, 2),
            "WT": batch.covariates["WT"][subject].numpy(),
            "CRCL": batch.covariates["CRCL"][record, subject].numpy(),
        },
        index=batch.rows[record, subject].numpy(),
    )
    return frame.sort_index()


@settings(max_examples=60, deadline=None)
@given(frame=tables(), data=st.data())
def test_table_to_batch_to_rows_is_the_identity(frame, data):
    dataset = Dataset.from_frame(frame, covariates="WT", time_varying="CRCL")
    batch = dataset.batch()
    pd.testing.assert_frame_equal(rows_of(batch), frame)
    assert (batch.rows >= 0).equal(batch.record_mask)
    assert batch.n_observations == dataset.n_observations == frame["DV"].notna().sum()
    assert bool((batch.times.diff(dim=0) >= 0).all())
    last = frame.groupby("ID", sort=False)["TIME"].last().to_numpy()
    np.testing.assert_array_equal(batch.times[-1], last)
    # any choice of subjects is the batch of their rows
    index = data.draw(st.lists(st.integers(0, dataset.n_subjects - 1), min_size=1, unique=True).map(sorted))
    chosen = frame[frame["ID"].isin([dataset.subjects[i] for i in index])]
    selected = batch.select(index)
    pd.testing.assert_frame_equal(rows_of(selected), chosen)
    alone = Dataset.from_frame(chosen, covariates="WT", time_varying="CRCL").batch()
    for name in ("times", "record_mask"):
        assert getattr(selected, name).equal(getattr(alone, name))


def test_the_layout_is_record_by_subject():
    text = ONE_DOSE.replace("DV\n", "DV MDV\n").replace(".\n", ". 1\n").replace(".0\n", ".0 0\n")
    batch = read(text + "2 5 0 4.0 0\n2 6 0 . 1\n").batch()
    assert batch.subjects == (1, 2)
    torch.testing.assert_close(batch.times, torch.tensor([[0.0, 0], [1, 2], [4, 5], [4, 6]], dtype=torch.float64))
    assert batch.record_mask.tolist() == [[True, True], [True, True], [True, True], [False, True]]
    assert batch.rows.tolist() == [[0, 3], [1, 4], [2, 5], [-1, 6]]
    assert batch.outcomes["DV"].mask.tolist() == [[False, False], [True, True], [True, True], [False, False]]
    assert batch.outcomes["DV"].value.tolist() == [[0.0, 0.0], [5.0, 6.0], [3.0, 4.0], [0.0, 0.0]]
    assert batch.dtype == torch.float64


def test_theophylline_is_the_published_table():
    dataset = theophylline()
    batch = dataset.batch()
    assert dataset.n_subjects == 12 and dataset.n_observations == 132 == batch.n_observations
    assert batch.times.shape == (11, 12) and bool(batch.record_mask.all())
    assert dataset.outputs == ("conc",) and dataset.covariate_names == ("Wt", "Dose")
    assert batch.doses is None
    # facts of the table: mean of all concentrations and the peak of subject 1
    conc = batch.outcomes["conc"].value
    assert float(conc.mean()) == pytest.approx(4.960455, abs=1e-6)
    assert float(conc[:, 0].max()) == 10.5
    assert sum(conc[0] == 0) == 9
    torch.testing.assert_close(
        batch.covariates["Wt"][0] * batch.covariates["Dose"][0], torch.tensor(79.6 * 4.02).double()
    )


def test_moving_and_copying_a_batch():
    batch = read("ID TIME AMT DV WT\n1 0 10 . 7\n1 1 0 2 7").batch()
    half = batch.to(dtype=torch.float32)
    assert half.times.dtype == half.covariates["WT"].dtype == half.doses.amount.dtype == torch.float32
    assert half.rows.dtype == torch.long and half.record_mask.dtype == torch.bool
    assert batch.times.dtype == torch.float64
    for twin in (copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert twin.times.equal(batch.times) and twin.doses.amount.equal(batch.doses.amount)
        assert dict(twin.covariates).keys() == {"WT"}
    with pytest.raises(TypeError):
        batch.covariates["WT"] = batch.times
    assert (
        Dataset.from_frame(pd.DataFrame({"ID": [1], "TIME": [0], "DV": [1]})).batch(torch.float32).dtype
        == torch.float32
    )


def test_selecting_nobody_or_a_stranger():
    batch = theophylline().batch()
    with pytest.raises(DataError, match="non-empty"):
        batch.select([])
    with pytest.raises(DataError, match="subjects 0..11"):
        batch.select([3, 12])
    twice = batch.select([4, 4])
    assert twice.subjects == (batch.subjects[4],) * 2 and twice.times.shape == (11, 2)
