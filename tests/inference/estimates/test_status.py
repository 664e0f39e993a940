"""A fit's status is a type, the same in search, estimation and fit, and survives saving."""

import pytest
import torch

import nlme_torch as nlme
from nlme_torch.inference.optimise.bounds import Furthest
from nlme_torch.inference.optimise.minimisers import Iterate, Minimum
from nlme_torch.inference.optimise.optimality import Optimality
from nlme_torch.inference.optimise.outer_search import OuterSearch


@pytest.fixture(scope="module")
def theophylline():
    return nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline()


def test_every_minimiser_reports_how_it_ended():
    def bowl(x):
        return float(x.square().sum()), 2 * x

    def interrupted(x):
        if x.norm() < 2.9:
            raise KeyboardInterrupt
        return bowl(x)

    start, scale = torch.full((2,), 3.0, dtype=torch.float64), torch.eye(2, dtype=torch.float64)

    def status(optimiser, objective=bowl):
        found: Minimum = optimiser.minimise(objective, start, scale, lambda point: None)
        assert found.converged == (found.status is nlme.Status.CONVERGED)
        return found.status

    for optimiser in (nlme.BFGS(), nlme.LBFGS(), nlme.TrustRegion()):
        assert status(optimiser) is nlme.Status.CONVERGED
        assert status(optimiser, interrupted) is nlme.Status.INTERRUPTED
    assert status(nlme.TrustRegion(iterations=2)) is nlme.Status.ITERATIONS_USED
    assert status(nlme.Adam(iterations=3)) is nlme.Status.COMPLETED


def test_the_fit_carries_it_and_keeps_it_on_disk(theophylline, tmp_path):
    model, data = theophylline
    fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
    assert fit.status is nlme.Status.CONVERGED and fit.converged
    assert nlme.load(fit.save(tmp_path / "run"), model, data).status is nlme.Status.CONVERGED
    short = nlme.fit(model, data, nlme.FOCEI(optimiser=nlme.BFGS(iterations=2)), progress=False)
    assert short.status is nlme.Status.ITERATIONS_USED and not short.converged
    pooled = nlme.fit(model, data, nlme.Pooled(steps=3), progress=False)
    assert pooled.status is nlme.Status.COMPLETED
    whole = nlme.SAEM(schedule=nlme.StepSchedule(exploration=10, smoothing=5), chains=2)
    assert nlme.fit(model, data, whole, progress=False).status is nlme.Status.ITERATIONS_USED


def test_a_search_that_cannot_begin_says_so_and_loses_nothing():
    def nowhere(x):
        return float("inf"), torch.zeros_like(x)

    start, scale = torch.full((2,), 3.0, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    for optimiser in (nlme.BFGS(), nlme.LBFGS()):
        found = optimiser.minimise(nowhere, start, scale, lambda point: None)
        assert found.status is nlme.Status.STALLED and torch.equal(found.iterate.vector, start)
        assert found.iterate.value == float("inf") and "no value" in found.reason


def test_what_stands_is_kept_where_a_round_cannot_begin(monkeypatch):
    search = OuterSearch.__new__(OuterSearch)  # only its rounds matter here
    search.timed, search.scaled = False, lambda vector: torch.eye(1, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    search.furthest = Furthest(zero - 60, zero + 60, ("a",))
    here = Minimum(Iterate(zero, 5.0, zero + 1, 1.0), 3, 4, nlme.Status.STALLED, "stuck")
    there = here._replace(iterate=Iterate(zero, float("inf"), zero, float("inf")))
    rounds = iter([here, there])
    monkeypatch.setattr(search, "round", lambda vector, scale: next(rounds))
    steep = Optimality(gain=2.0, scale=torch.eye(1, dtype=torch.float64), bend=1.0, downward=zero)
    monkeypatch.setattr(search, "examine", lambda vector, slope: steep)
    monkeypatch.setattr(search, "unsure", lambda found, optimality: 0.0)
    ended = search.go(zero)
    assert ended.minimum.iterate.value == 5.0 and ended.minimum.status is nlme.Status.STALLED
    assert "no value where the search was to go on" in ended.minimum.reason
