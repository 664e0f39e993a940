"""Ctrl-C: every method returns what stands, and says that it was interrupted."""

import math
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.inference.foce import maximum_likelihood
from nlme_torch.inference.marginal import several_starts
from nlme_torch.inference.marginal.objective import MarginalObjective
from nlme_torch.inference.optimise import gradient_step
from nlme_torch.inference.pooled import pooled
from nlme_torch.inference.uncertainty import bootstrap
from nlme_torch.inference.uncertainty.side_by_side import minimise_side_by_side
from nlme_torch.model.density.density import Density

FOCEI = nlme.FOCEI(optimiser=nlme.BFGS(iterations=4))


@pytest.fixture(scope="module")
def data():
    return lines_data(simulate_lines(subjects=6, seed=9)[0])


@pytest.fixture(scope="module")
def fit(data):
    return nlme.fit(Line(), data, nlme.FOCEI(), progress=False)


def interrupting(function, at):
    """The function, until its call number ``at``."""
    calls = 0

    def called(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return called


@dataclass(frozen=True)
class Interrupted:
    """A method that is interrupted in its fit number ``at``: it says so, or has nothing and raises."""

    at: int
    says: bool = True
    done: tuple = ()

    def estimate(self, density, generator, progress):
        self.done.append(1)
        found = replace(FOCEI.estimate(density, generator, progress), status=nlme.Status.CONVERGED)
        if len(self.done) < self.at:
            return found
        if not self.says:
            raise KeyboardInterrupt
        return replace(found, status=nlme.Status.INTERRUPTED)


def estimated(method, data):
    density = Density(Line(), data.batch(), nlme.Tsit5())
    return method.estimate(density, torch.Generator().manual_seed(0), False)


@pytest.mark.parametrize("at", [1, 4])
def test_pooled_returns_the_values_of_the_last_step(data, monkeypatch, at):
    whole = estimated(nlme.Pooled(steps=8), data)
    monkeypatch.setattr(pooled, "gradient_step", interrupting(gradient_step.gradient_step, at))
    found = estimated(nlme.Pooled(steps=8), data)
    assert found.status is nlme.Status.INTERRUPTED and len(found.trace) == at - 1
    assert found.termination == f"{at - 1} steps of Adam, interrupted"
    columns = ["a", "b", "sigma"]
    assert found.trace[columns].to_numpy().tolist() == whole.trace[columns].to_numpy()[: at - 1].tolist()


def test_an_interrupted_warm_up_is_no_start(data, monkeypatch):
    monkeypatch.setattr(pooled, "gradient_step", interrupting(gradient_step.gradient_step, 2))
    found = estimated(nlme.SAEM(warm_up=nlme.Pooled(steps=5)), data)
    assert found.status is nlme.Status.INTERRUPTED and len(found.trace) == 0
    assert found.values["a.typical"].item() == 1.0


@pytest.mark.parametrize("says", [False, True])
def test_stages_end_at_the_one_that_was_interrupted(data, says):
    last = nlme.Pooled(steps=2)
    found = estimated(nlme.Staged(nlme.Pooled(steps=3), Interrupted(1, says, []), last), data)
    assert found.status is nlme.Status.INTERRUPTED
    assert "stage 2" in found.termination and "stage 3" not in found.termination
    assert all(bool(torch.isfinite(value).all()) for value in found.values.values())
    with pytest.raises(KeyboardInterrupt):
        estimated(nlme.Staged(Interrupted(1, False, []), last), data)


@pytest.mark.parametrize("says", [False, True])
def test_a_bootstrap_keeps_the_data_sets_that_were_fitted(fit, says):
    found = nlme.case_bootstrap(fit, Interrupted(4, says, []), samples=6, progress=False)
    assert found.status is nlme.Status.INTERRUPTED
    assert found.estimates.notna().all(axis=1).tolist() == [True] * 3 + [False] * 3
    assert found.table["se"].notna().all() and "interrupted; the table is of the 3 data sets" in str(found)
    with pytest.raises(KeyboardInterrupt):
        nlme.case_bootstrap(fit, Interrupted(2, says, []), samples=6, progress=False)


def test_data_sets_that_are_fitted_together_stand_where_they_had_ended(fit, monkeypatch):
    whole = nlme.case_bootstrap(fit, samples=12, progress=False)
    real = bootstrap.evaluate_several
    monkeypatch.setattr(bootstrap, "evaluate_several", interrupting(real, 8))
    found = nlme.case_bootstrap(fit, samples=12, progress=False)
    done = found.estimates.notna().all(axis=1)
    assert found.status is nlme.Status.INTERRUPTED and 2 <= done.sum() < 12
    assert found.estimates[done].equals(whole.estimates[done])


def test_side_by_side_minima_say_which_had_ended():
    calls = []

    def objectives(vectors, centre, which):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        scale = torch.where(which == 0, 1.0, 50.0)[:, None]
        value = (scale * (vectors - 1).square()).sum(1)
        return several_starts.SeveralValues(value, 2 * scale * (vectors - 1), centre)

    begin = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    found = minimise_side_by_side(objectives, begin, torch.zeros(0, 2, 1), torch.eye(1, dtype=torch.float64))
    assert found.interrupted and found.converged.tolist() == [True, False]


@pytest.mark.parametrize("says", [False, True])
def test_cross_validation_keeps_its_folds(data, says):
    method = Interrupted(6, says, [])
    found = nlme.cross_validate(
        lambda name: Line(), data, method, candidates=["one", "two", "three"], folds=3, likelihood=FOCEI, progress=False
    )
    assert found.status is nlme.Status.INTERRUPTED and found.best == "one"
    assert math.isfinite(found.table.loc["one", "held_out"])
    assert found.table.loc[["two", "three"], "held_out"].isna().all()
    values = found.subjects.set_index(["candidate", "fold"])["log_likelihood"]
    assert values["two", 2].notna().all() and values["two", 3].isna().all()
    assert "interrupted" in str(found)
    assert (found.table["failed"] == 0).all(), "an interrupt is no failure"
    one = nlme.cross_validate(Line(), data, Interrupted(2, says, []), folds=3, likelihood=FOCEI, progress=False)
    assert one.best is None and one.subjects["log_likelihood"].notna().sum() == 2 and "interrupted" in str(one)


@pytest.mark.parametrize("says", [False, True])
def test_multistart_keeps_its_fits(says, monkeypatch):
    model, data = nlme.examples.TargetedNetwork(), nlme.examples.indirect_response_data(4, seed=1)
    short, real, calls = nlme.Pooled(steps=2), nlme.fit, []

    def fitted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2 and not says:
            raise KeyboardInterrupt
        found = real(*args, **kwargs)
        return replace(found, status=nlme.Status.INTERRUPTED) if len(calls) == 2 else found

    monkeypatch.setattr(sys.modules["nlme_torch.inference.strategies.multistart"], "fit", fitted)
    found = nlme.multistart(
        model, data, short, starts=3, keep=3, warm_up=short, solver=nlme.RK4(steps=2), progress=False,
        likelihood=nlme.Laplace(mode_starts=1),
    )  # fmt: skip
    assert found.status is nlme.Status.INTERRUPTED and len(found.fits) == (2 if says else 1)
    assert found.best.status is nlme.Status.COMPLETED and "interrupted" in str(found)


@pytest.mark.parametrize("place", ["its tails", "better modes", "its doubts", "a second start"])
def test_what_a_search_has_found_stands_while_its_end_is_looked_at(data, fit, monkeypatch, place):
    method = nlme.FOCEI()
    if place == "its tails":
        monkeypatch.setattr(maximum_likelihood, "judged", interrupting(maximum_likelihood.judged, 1))
    elif place == "its doubts":
        monkeypatch.setattr(maximum_likelihood, "doubtful_modes", interrupting(maximum_likelihood.doubtful_modes, 1))
    elif place == "better modes":
        method = nlme.FOCEI(optimiser=nlme.TrustRegion())
        monkeypatch.setattr(MarginalObjective, "search", interrupting(MarginalObjective.search, 1))
    else:
        method = nlme.FOCEI(starts=2)
        monkeypatch.setattr(MarginalObjective, "check_gradient", interrupting(MarginalObjective.check_gradient, 2))
    found = nlme.fit(Line(), data, method, progress=False)
    assert found.status is nlme.Status.INTERRUPTED and any("interrupted" in warning for warning in found.warnings)
    assert found.minus2ll == pytest.approx(fit.minus2ll, abs=1e-3) and found.eta.notna().all(axis=None)
