"""Doses, resets and steady states of a table, against answers that know nothing of the package."""

import numpy as np
import pytest
import torch
from hypothesis import given as given_by
from hypothesis import settings
from hypothesis import strategies as st
from support.dosing_histories import Absorption, ClosedForm, random_history, small_steps, superpose, table

import nlme_torch as nlme
from nlme_torch.model import Density

TIGHT = nlme.Tsit5(1e-10, 1e-12)
MODEL, CLOSED = Absorption(), ClosedForm()


def solved(model, data, solver=TIGHT, seed=0):
    """States at the records, individual parameters, and the batch, at random effects."""
    density = Density(model, data.batch(), solver)
    conditional = density.at()
    with torch.no_grad():
        eta = 0.5 * conditional.sample(1, torch.Generator().manual_seed(seed))
        individual = conditional.individual(eta)
        states, fine = conditional.predict(individual, eta)
    assert bool(fine.all()), [text for text, where in conditional.trajectory(individual, eta).refusals if where.any()]
    parameters = [
        {name: value.expand(1, 1, data.n_subjects)[0, 0, k].item() for name, value in vars(individual).items()}
        for k in range(data.n_subjects)
    ]
    return torch.stack(states, 1)[:, :, 0, 0], parameters, density.batch


def compare(frame, answers, tolerance, solver=TIGHT, seed=0, models=(MODEL, CLOSED)):
    """Check the states at all rows of all subjects."""
    data = nlme.Dataset.from_frame(frame)
    for model in models:
        states, parameters, batch = solved(model, data, solver, seed)
        for column, subject in enumerate(batch.subjects):
            here = batch.rows[:, column] >= 0
            found = states[here, :, column].numpy()
            rows = list(frame[frame["ID"] == subject].itertuples())
            for answer in answers:
                expected = answer(rows, parameters[column])
                assert np.abs(found - expected).max() < tolerance, (model, answer, frame[frame["ID"] == subject])


@settings(max_examples=15, deadline=None)  # forty more side by side below
@given_by(seed=st.integers(0, 2**32 - 1), subjects=st.integers(1, 3))
def test_solution_is_the_sum_of_closed_form_responses(seed, subjects):
    rng = np.random.default_rng(seed)
    compare(table([random_history(rng, k) for k in range(subjects)]), [superpose], 1e-6, seed=seed % 1000)


def test_forty_histories_by_closed_form_and_by_small_steps():
    rng = np.random.default_rng(1)
    compare(table([random_history(rng, k) for k in range(40)]), [superpose, small_steps], 1e-6)


@pytest.mark.slow
def test_a_thousand_histories_by_closed_form_and_by_small_steps():
    rng = np.random.default_rng(2)
    compare(table([random_history(rng, k) for k in range(1000)]), [superpose, small_steps], 1e-6)


@pytest.mark.parametrize(
    "solver", [nlme.Tsit5(1e-6, 1e-8, compile=False), nlme.TorchDiffEq(rtol=1e-6, atol=1e-8)], ids=str
)
def test_other_solvers(solver):
    rng = np.random.default_rng(3)
    compare(table([random_history(rng, k) for k in range(3)]), [superpose], 1e-4, solver, models=[MODEL])
