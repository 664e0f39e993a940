"""From dosing rows to records: repeats, resets, steady state, infusions, the clock."""

import pandas as pd
import pytest
import torch
from support.data_tables import read

import nlme_torch as nlme
from nlme_torch import DataError
from nlme_torch.data import DoseKind

HEADER = "ID TIME AMT RATE DUR ADDL II SS EVID CMT DV\n"


def doses_of(batch, subject=0):
    """Time, amount, kind, steady state, reset of every dosing event of a subject."""
    doses = batch.doses
    at = (doses.mask | doses.reset)[:, subject] & batch.record_mask[:, subject]
    return [
        (
            float(batch.times[r, subject]),
            float(doses.amount[r, subject]),
            DoseKind(int(doses.kind[r, subject])),
            int(doses.steady_state[r, subject]),
            bool(doses.reset[r, subject]),
        )
        for r in torch.nonzero(at)[:, 0]
    ]


def test_every_way_to_give_a_dose():
    batch = read(HEADER + "1 0 90 0  0 0 0  0 1 1 .\n1 1 90 45 0 0 0  0 1 1 .\n1 2 90 0  3 0 0  0 1 1 .\n"
                 "1 3 90 -1 0 0 0  0 1 1 .\n1 4 90 -2 0 0 0  0 1 1 .\n1 5 0  9  0 0 0  1 1 1 .\n"
                 "1 6 90 0  0 0 12 2 1 1 .\n1 7 0  0  0 0 0  0 3 . .\n1 8 90 0  0 0 0  0 4 1 .\n"
                 "1 9 0  0  0 0 0  0 2 . .\n1 9 0  0  0 0 0  0 0 . 5\n").batch()  # fmt: skip
    kind = DoseKind
    assert doses_of(batch) == [
        (0, 90, kind.BOLUS, 0, False), (1, 90, kind.RATE, 0, False), (2, 90, kind.DURATION, 0, False),
        (3, 90, kind.MODELLED_RATE, 0, False), (4, 90, kind.MODELLED_DURATION, 0, False),
        (5, 0, kind.RATE, 1, False), (6, 90, kind.BOLUS, 2, False), (7, 0, kind.NONE, 0, True),
        (8, 90, kind.BOLUS, 0, True),
    ]  # fmt: skip
    doses = batch.doses
    assert doses.rate[:, 0].tolist() == [0, 45, 0, 0, 0, 9, 0, 0, 0, 0, 0]
    assert doses.duration[:, 0].tolist() == [0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0]
    assert doses.interval[:, 0].tolist() == [0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 0]
    assert doses.source[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, -1, -1]
    assert batch.outcomes["DV"].mask[:, 0].tolist() == [False] * 10 + [True]


def test_repeats_are_records_before_the_rows_of_the_same_time():
    batch = read(HEADER + "1 0 100 0 0 3 12 0 1 1 .\n1 12 0 0 0 0 0 0 0 . 5\n1 30 0 0 0 0 0 0 0 . 4\n").batch()
    assert batch.times[:, 0].tolist() == [0, 12, 12, 24, 30]
    assert batch.doses.amount[:, 0].tolist() == [100, 100, 0, 100, 0]
    assert batch.rows[:, 0].tolist() == [0, -1, 1, -1, 2]
    assert batch.doses.source[:, 0].tolist() == [0, 0, -1, 0, -1]
    assert batch.outcomes["DV"].value[:, 0].tolist() == [0, 0, 5, 0, 4]


def test_repeats_after_the_last_row_are_not_made_but_counted():
    data = read(HEADER + "1 0 100 0 0 9 12 0 1 1 .\n1 30 0 0 0 0 0 0 0 . 4\n")
    assert len(doses_of(data.batch())) == 3
    assert data.describe().ignored["count"].tolist() == [7]
    assert len(doses_of(data.with_times([60.0]).batch())) == 6


@pytest.mark.parametrize("stop", ["3", "4", "1"])
def test_a_reset_or_a_new_steady_state_cancels_what_is_pending(stop):
    amount, steady, interval = (0, 0, 0) if stop == "3" else (7, int(stop == "1"), 6 * int(stop == "1"))
    row = f"1 24 {amount} 0 0 0 {interval} {steady} {stop} 1 .\n"
    data = read(HEADER + "1 0 100 0 0 9 12 0 1 1 .\n" + row + "1 50 0 0 0 0 0 0 0 . 4\n")
    given = [entry for entry in doses_of(data.batch()) if entry[1] == 100]
    # the one due at the same time comes first, and what it did is undone
    assert [entry[0] for entry in given] == [0, 12, 24]
    assert data.describe().ignored["count"].tolist() == [7]


def test_the_repeats_of_a_steady_state_dose_are_plain_doses():
    batch = read(HEADER + "1 0 100 0 0 2 12 1 1 1 .\n1 30 0 0 0 0 0 0 0 . 4\n").batch()
    assert batch.doses.steady_state[:, 0].tolist() == [1, 0, 0, 0]
    assert batch.doses.interval[:, 0].tolist() == [12, 0, 0, 0]


def test_repeats_of_a_reset_dose_do_not_reset_again():
    batch = read(HEADER + "1 0 100 0 0 1 12 0 4 1 .\n1 30 0 0 0 0 0 0 0 . 4\n").batch()
    assert batch.doses.reset[:, 0].tolist() == [True, False, False]


def test_without_evid_a_row_with_an_amount_is_a_dose():
    batch = read("ID TIME AMT DV\n1 0 100 .\n1 1 . 5\n1 2 0 4\n").batch()
    assert doses_of(batch) == [(0, 100, DoseKind.BOLUS, 0, False)] and batch.n_observations == 2


def test_a_table_without_doses_has_none():
    assert read("ID TIME DV EVID AMT\n1 0 5 0 0\n").batch().doses is None
    assert read("ID TIME DV\n1 0 5\n").batch().doses is None


def test_compartments_by_number_by_name_and_by_default():
    text = "ID TIME AMT CMT DV\n1 0 9 {} .\n1 1 9 {} .\n1 2 9 {} .\n1 3 0 . 5\n"
    states = ("depot", "central", "effect")
    for cells, expected in [
        (("2", "1", "."), [1, 0, 0]),
        (("central", "Depot", "EFFECT"), [1, 0, 2]),
        (("0", "2.0", "depot"), [0, 1, 0]),
    ]:
        doses = read(text.format(*cells)).batch().doses
        assert doses.state_index(states)[:, 0].tolist() == [*expected, -1]


@pytest.mark.parametrize("cell", ["4", "gut"])
def test_a_dose_into_an_unknown_compartment(cell):
    data = read(f"ID TIME AMT CMT DV\n7 0 9 1 .\n7 1 9 {cell} .\n7 2 0 . 5\n")
    with pytest.raises(DataError, match=r"row 1: a dose enters compartment .*1 = depot, 2 = central"):
        data.batch().doses.state_index(("depot", "central"))
    with pytest.raises(DataError, match=r"row 1, subject 7, column CMT: a dose enters .*1 depot, 2 central"):
        data.require(states=("depot", "central"))


def test_the_clock_may_be_set_back_at_a_reset():
    text = "ID TIME EVID AMT DV\n" + "".join(
        f"{who} 0 1 100 .\n{who} 1 0 0 5\n{who} 5 0 0 3\n{who} 0 {{}} 50 .\n{who} 1 0 0 6\n" for who in (1, 2)
    )
    data = read(text.format(4, 4) + "3 2 0 0 1\n")
    batch = data.batch()
    assert batch.times[:, 1].tolist() == [0, 1, 5, 5, 6]
    assert (batch.times - batch.time_shift)[:, 1].tolist() == [0, 1, 5, 0, 1]
    assert batch.time_shift[:, 2].tolist() == [0] * 5 and batch.times[:, 2].tolist() == [2] * 5
    longer = data.with_times({1: [5.5]})
    assert longer.frame["TIME"].tolist()[:6] == [0, 1, 5, 0, 0.5, 1]
    assert longer.subset([1]).batch().times[:, 0].tolist() == [0, 1, 5, 5, 5.5, 6]
    with pytest.raises(DataError, match="row 8, subject 2, column TIME: time goes back from 5 to 0"):
        read(text.format(4, 1))


def test_labels_with_blanks_around_them_are_given_new_times():
    frame = pd.DataFrame({"ID": ["A ", "A ", " B"], "TIME": [1.0, 3.0, 2.0], "DV": [5.0, 4.0, 3.0]})
    data = nlme.Dataset.from_frame(frame)
    longer = data.with_times({"A": [2.0], "B": [4.0]})
    assert longer.subjects == data.subjects == ("A", "B")
    assert longer.frame["ID"].tolist() == ["A ", "A ", "A ", " B", " B"]
    assert longer.frame["TIME"].tolist() == [1.0, 2.0, 3.0, 2.0, 4.0]


def test_a_repeat_falls_on_the_row_of_its_time_despite_rounding():
    text = "ID TIME AMT ADDL II DV\n1 0.1 100 2 0.1 .\n1 0.3 0 0 0 5\n1 1 0 0 0 4\n"
    assert 0.1 + 2 * 0.1 != 0.3
    batch = read(text).batch()
    assert batch.times[:, 0].tolist() == [0.1, 0.2, 0.3, 0.3, 1.0]
    assert batch.rows[:, 0].tolist() == [0, -1, -1, 1, 2]


def test_only_what_rounding_parts_is_one_time():
    """0.1 + 2 x 0.1 is not 0.3 in binary, and is its row's time; 2.0000003 is another time than 2."""
    rows = "1 0.1 9 0 0 2 0.1 0 1 1 .\n1 0.3 0 0 0 0 0 0 0 . 5\n1 1 9 0 0 1 1 0 1 1 .\n1 2.0000003 0 0 0 0 0 0 0 . 5\n"
    times = [time for time, *_ in doses_of(read(HEADER + rows).batch())]
    assert times[2] == 0.3 and times[4] == 2.0
