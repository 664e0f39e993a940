"""Random dosing histories: what a table becomes, against a queue that is worked off row by row."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlme_torch.data import Dataset, Event


@st.composite
def histories(draw):
    """Up to three subjects with doses, repeats, steady states, resets, looks, observations, and ties."""
    rows = []
    for subject in range(1, draw(st.integers(1, 3)) + 1):
        time = 0
        for _ in range(draw(st.integers(1, 7))):
            time += draw(st.integers(0, 4))
            event = draw(st.sampled_from(list(Event)))
            row = {"ID": subject, "TIME": float(time), "EVID": int(event), "DV": "."}
            if event == Event.OBSERVATION:
                row["DV"] = draw(st.integers(1, 9))
            if event in (Event.DOSE, Event.RESET_DOSE):
                row["AMT"] = float(draw(st.integers(1, 9)))
                row["CMT"] = draw(st.sampled_from(["1", "central", "."]))
                row["ADDL"] = draw(st.integers(0, 4))
                row["SS"] = draw(st.sampled_from([0, 0, 1, 2]))
                row["II"] = float(draw(st.integers(2, 5)))
                row["RATE"] = draw(st.sampled_from([0.0, 5.0, -1.0, -2.0]))
            rows.append(row)
        rows.append({"ID": subject, "TIME": float(time + draw(st.integers(0, 6))), "EVID": 0, "DV": 1})
    frame = pd.DataFrame(rows, columns=["ID", "TIME", "EVID", "DV", "AMT", "CMT", "ADDL", "SS", "II", "RATE"])
    return frame.astype(object).where(frame.notna(), ".")


def work_off(frame: pd.DataFrame, subject: int) -> tuple[list, int]:
    """A subject's records (time, row, amount, steady state, reset, source), and how many repeats were lost.

    A queue holds the repeats to come; what is due by a row's time is given before that row, and a reset or a
    new steady state empties the queue.
    """
    queue, records, lost = [], [], 0
    for index, row in frame[frame["ID"] == subject].iterrows():
        is_dose, resets = row["EVID"] in (1, 4), row["EVID"] in (3, 4)
        due = sorted(entry for entry in queue if entry[0] <= row["TIME"])
        queue = [entry for entry in queue if entry[0] > row["TIME"]]
        records += [(time, -1, amount, 0, False, source) for time, source, amount in due]
        if resets or (is_dose and row["SS"] == 1):
            lost, queue = lost + len(queue), []
        amount, steady = (row["AMT"], row["SS"]) if is_dose else (0.0, 0)
        records.append((row["TIME"], index, amount, steady, resets, index if is_dose or resets else -1))
        if is_dose:
            queue += [(row["TIME"] + k * row["II"], index, row["AMT"]) for k in range(1, int(row["ADDL"]) + 1)]
    return records, lost + len(queue)


@settings(max_examples=120, deadline=None)
@given(frame=histories())
def test_repeats_are_the_doses_of_a_queue(frame):
    dataset = Dataset.from_frame(frame)
    batch, lost = dataset.batch(), 0
    for column, subject in enumerate(batch.subjects):
        expected, missed = work_off(frame, subject)
        lost += missed
        here = batch.record_mask[:, column]
        assert int(here.sum()) == len(expected)
        assert batch.times[here, column].tolist() == [record[0] for record in expected]
        assert batch.rows[here, column].tolist() == [record[1] for record in expected]
        if batch.doses is not None:
            doses = batch.doses
            assert doses.amount[here, column].tolist() == [record[2] for record in expected]
            assert doses.steady_state[here, column].tolist() == [record[3] for record in expected]
            assert doses.reset[here, column].tolist() == [record[4] for record in expected]
            assert doses.source[here, column].tolist() == [record[5] for record in expected]
            assert not bool((doses.mask | doses.reset)[~here, column].any())
    ignored = dataset.describe().ignored
    assert ignored.loc[ignored["reason"].str.startswith("ADDL"), "count"].sum() == lost


@settings(max_examples=40, deadline=None)
@given(frame=histories(), times=st.lists(st.floats(0, 60), max_size=5))
def test_new_times_change_no_event_up_to_the_old_end(frame, times):
    old = Dataset.from_frame(frame)
    new = old.with_times(
        {label: [t + frame.loc[frame["ID"] == label, "TIME"].iloc[0] for t in times] for label in old.subjects}
    )
    before, after = old.batch(), new.batch()
    if before.doses is None:
        return
    for column in range(old.n_subjects):
        events = [
            [
                (b.times[r, column].item(), b.doses.amount[r, column].item(), b.doses.reset[r, column].item())
                for r in range(b.n_records)
                if b.doses.source[r, column] >= 0
            ]
            for b in (before, after)
        ]
        assert events[1][: len(events[0])] == events[0]
        assert all(time > before.times[-1, column] for time, _, _ in events[1][len(events[0]) :])


@pytest.mark.parametrize("first", ["dose", "observation"])
def test_file_order_decides_at_equal_times(first):
    rows = [{"AMT": 5.0, "EVID": 1, "DV": "."}, {"AMT": 0.0, "EVID": 0, "DV": 2.0}]
    frame = pd.DataFrame(rows if first == "dose" else rows[::-1]).assign(ID=1, TIME=3.0)
    batch = Dataset.from_frame(frame).batch()
    assert batch.outcomes["DV"].mask[:, 0].tolist() == [first != "dose", first == "dose"]
    assert batch.doses.mask[:, 0].tolist() == [first == "dose", first != "dose"]
    warned = Dataset.from_frame(frame).check()["rule"].tolist()
    assert ("order at equal times" in warned) == (first == "dose")
