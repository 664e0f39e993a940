"""Step sizes of the stochastic approximation."""

import pytest

import nlme_torch as nlme


def test_step_sizes_fall_as_the_power_says():
    schedule = nlme.StepSchedule(burn_in=5, exploration=10, smoothing=50, power=0.7)
    assert [schedule.step_size(k) for k in (-3, 0, 1)] == [1.0, 1.0, 1.0]
    assert schedule.step_size(50) == pytest.approx(50**-0.7)
    assert schedule.total == 65


def test_sums_of_the_steps_diverge_and_of_their_squares_converge():
    """Robbins and Monro's conditions, on the default: far enough to go anywhere, small enough to settle."""
    schedule = nlme.StepSchedule()
    steps = [schedule.step_size(k) for k in range(1, 200_000)]
    halves = sum(steps[:100_000]), sum(steps[100_000:])
    assert halves[1] > 0.2 * halves[0]
    squares = sum(s**2 for s in steps[:100_000]), sum(s**2 for s in steps[100_000:])
    assert squares[1] < 0.01 * squares[0]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"burn_in": -1}, "burn_in >= 0"),
        ({"exploration": -1}, "exploration >= 0"),
        ({"smoothing": 0}, "smoothing >= 1"),
        ({"power": 0.5}, r"power must lie in \(0.5, 1\], got 0.5"),
        ({"power": 1.1}, "got 1.1"),
    ],
)
def test_impossible_schedules_are_refused(options, words):
    with pytest.raises(nlme.FitError, match=words):
        nlme.StepSchedule(**options)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"chains": 0}, "at least one chain per subject, got 0"),
        ({"starts": 0}, "at least one start"),
        ({"annealing": 0.0}, r"\(0, 1\]"),
    ],
)
def test_impossible_settings_of_saem_are_refused(options, words):
    with pytest.raises(nlme.FitError, match=words):
        nlme.SAEM(**options)
