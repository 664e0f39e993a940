"""Dosing columns and doses by themselves: kinds, small rates, what is blanked, which state a dose enters."""

import pytest
import torch
from support.data_tables import read

from nlme_torch import DataError
from nlme_torch.data import DoseKind

HEADER = "ID TIME AMT RATE DUR ADDL II SS EVID CMT DV\n"


def test_every_kind_is_one_of_its_own():
    """Two kinds of one number would be one kind."""
    assert [kind.value for kind in DoseKind] == [0, 1, 2, 3, 4, 5] and len(DoseKind.__members__) == 6


def test_slow_infusions_are_infusions():
    """A rate, a duration, a dose below one are as good as any other."""
    batch = read(HEADER + "1 0 0.2 0.5 0 0 0 0 1 1 .\n1 9 0.2 0 0.5 0 0 0 1 1 .\n1 12 . . . . . . 0 . 5\n").batch()
    assert batch.doses.kind[:, 0].tolist() == [DoseKind.RATE, DoseKind.DURATION, DoseKind.NONE]
    assert batch.doses.rate[:, 0].tolist() == [0.5, 0, 0] and batch.doses.duration[:, 0].tolist() == [0, 0.5, 0]
    assert batch.doses.interval[:, 0].tolist() == [0, 0, 0]


def test_a_reset_needs_no_amounts():
    batch = read("ID TIME EVID DV\n1 0 0 5\n1 1 3 .\n1 2 0 4\n").batch()
    assert batch.doses.reset[:, 0].tolist() == [False, True, False] and not batch.doses.mask.any()
    assert read("ID TIME DV\n1 0 5\n").batch().doses is None


@pytest.mark.parametrize("compartment", ["1.5", "-2"])
def test_what_is_no_compartment_of_a_dose(compartment):
    with pytest.raises(DataError, match="is no compartment: write a state's name or number|CMT"):
        read(HEADER + f"1 0 100 0 0 0 0 0 1 {compartment} .\n1 9 . . . . . . 0 . 5\n")


def test_events_are_blanked_where_asked_and_nowhere_else():
    batch = read(HEADER + "1 0 90 45 0 0 12 1 1 2 .\n1 2 80 0 0 0 0 0 4 1 .\n1 9 . . . . . . 0 . 5\n").batch()
    doses = batch.doses
    where = torch.tensor([[True], [False], [False]])
    less = doses.without(where)
    assert less.compartments == doses.compartments
    blank = {"amount": 0, "kind": 0, "rate": 0, "duration": 0, "compartment": -1, "steady_state": 0, "interval": 0}
    for name, nothing in {**blank, "reset": False, "source": -1}.items():
        before, after = getattr(doses, name), getattr(less, name)
        assert after.dtype == before.dtype and after[0, 0] == nothing, name
        assert torch.equal(after[1:], before[1:]), name


def test_which_state_a_dose_enters():
    """By name, else without regard to case, else by number; rows that are no dose enter none."""
    batch = read(HEADER + "1 0 90 0 0 0 0 0 1 Central .\n1 2 80 0 0 0 0 0 1 1 .\n1 9 . . . . . . 0 . 5\n").batch()
    assert batch.doses.state_index(("depot", "central")).T.tolist() == [[1, 0, -1]]
    assert batch.doses.state_index(("central", "Central")).T.tolist() == [[1, 0, -1]]
    with pytest.raises(DataError, match="row 0: a dose enters compartment 'Central'(.|\n)*1 = depot, 2 = peripheral"):
        batch.doses.state_index(("depot", "peripheral"))
    only = batch.doses.without(torch.tensor([[True], [False], [False]]))  # the name stands for no dose any more
    assert only.state_index(("depot",)).T.tolist() == [[-1, 0, -1]]
