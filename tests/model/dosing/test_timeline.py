"""Stops of a solution and the records among them; what a model's dosing may look like."""

import pytest
import torch

import nlme_torch as nlme
from nlme_torch.model.dosing.dosing import Dosing, dosing_value
from nlme_torch.model.dosing.dosing_events import Timeline
from nlme_torch.solve import Solution, Statistics


def column(*numbers, dtype=torch.float64):
    return torch.tensor(numbers, dtype=dtype).reshape(-1, 1, 1, 1)


def timeline():
    """Five stops, of which the second, third and fifth are records."""
    return Timeline(column(0.0, 1.0, 2.0, 2.5, 3.0), None, column(1, 2, 4, dtype=torch.long))


def test_the_record_that_each_stop_follows():
    assert timeline().last_records().flatten().tolist() == [0, 0, 1, 1, 2]
    plain = Timeline(column(0.0, 1.0), None, None)
    assert plain.last_records().shape == (2, 1, 1, 1) and plain.last_records().flatten().tolist() == [0, 1]


@pytest.mark.parametrize(("stop", "record"), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)])
def test_how_many_records_a_solution_reached(stop, record):
    states = torch.arange(5.0, dtype=torch.float64).reshape(5, 1, 1, 1, 1)
    nothing = torch.zeros(1, 1, 1, dtype=torch.long)
    solution = Solution(states, nothing, nothing + stop, Statistics(nothing, nothing, nothing, nothing))
    found = timeline().at_records(solution)
    assert found.states.flatten().tolist() == [1.0, 2.0, 4.0] and found.reached.item() == record


@pytest.mark.parametrize("shape", [(3, 1, 1, 2), (5, 1, 1, 3), (2, 1, 1, 1), (1, 5, 1, 1, 2)])
def test_dosing_is_one_number_for_each_subject(shape):
    like = torch.zeros(5, 1, 1, 2, dtype=torch.float64)
    with pytest.raises(nlme.ModelError, match="not one number per subject"):
        dosing_value({"depot": Dosing(lag=torch.ones(shape))}, "depot", "lag", like)
    for good in ((), (2,), (1, 2), (4, 3, 2), (5, 4, 3, 2), (1, 1, 1, 1)):
        value = dosing_value({"depot": Dosing(lag=torch.ones(good))}, "depot", "lag", like)
        assert value.dim() == 4 and value.dtype == like.dtype
