"""How many infusions of a steady state still run at the row that gives it, against counting them one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nlme_torch.model.dosing.dosing_events import MOST_OVERLAPS, GivenDoses, _running


def counted(lag, duration, interval):
    """Infusions begun one interval, two intervals, ... before the dose that end after the row; a cycle at most lags."""
    begins = min(lag, interval)
    return sum(begins - k * interval + duration > 0 for k in range(1, 200))


def found(lag, duration, interval, tail=True):
    def column(number):
        return torch.tensor(number, dtype=torch.float64).reshape(1, 1, 1, 1)

    nothing = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    doses = GivenDoses(None if lag is None else column(lag), nothing, nothing, column(duration), ())
    return _running(doses, column(interval), torch.tensor(tail).reshape(1, 1, 1, 1)).item()


@pytest.mark.parametrize(
    ("lag", "duration", "interval", "running"),
    [
        (0.0, 5.0, 12.0, 0),
        (0.0, 12.0, 12.0, 0),
        (0.0, 12.5, 12.0, 1),
        (0.0, 24.0, 12.0, 1),
        (0.0, 24.5, 12.0, 2),
        (8.0, 5.0, 12.0, 1),
        (7.0, 5.0, 12.0, 0),
        (30.0, 5.0, 12.0, 1),
        (30.0, 11.9, 12.0, 1),
        (30.0, 12.1, 12.0, 2),
        (None, 36.5, 12.0, 3),
    ],
)
def test_the_infusions_that_run_are_counted(lag, duration, interval, running):
    assert counted(lag or 0.0, duration, interval) == running
    assert found(lag, duration, interval) == running


# whole numbers of a quarter: ends that fall on the row exactly are part of the test
@settings(max_examples=200, deadline=None)
@given(st.integers(0, 200), st.integers(1, 400), st.integers(4, 100))
def test_any_lag_duration_and_interval(lag, duration, interval):
    lag, duration, interval = lag / 4, duration / 4, interval / 4
    assert found(lag, duration, interval) == counted(lag, duration, interval)


def test_other_rows_and_infusions_beyond_counting_have_none():
    assert found(0.0, 30.0, 12.0, tail=False) == 0
    assert found(0.0, 12.0 * (MOST_OVERLAPS + 1), 12.0) == MOST_OVERLAPS
    assert found(0.0, 12.0 * (MOST_OVERLAPS + 1) + 1, 12.0) == 0
