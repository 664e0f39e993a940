"""Searches that run away: where an error may vanish the likelihood has no maximum, and this is said."""

import math

import pandas as pd
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.marginal import expansion_points
from nlme_torch.inference.marginal.objective import MarginalObjective
from nlme_torch.inference.optimise.bounds import FURTHEST, furthest
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.solve import choose_solver

TIMES = (0.5, 1.0, 2.0, 4.0, 8.0, 12.0)


class Delayed(nlme.Model):
    """A level that is exactly zero before a lag; zeros observed there are met without any error."""

    def __init__(self, a=0.2):
        super().__init__()
        self.lag = nlme.LogNormal(1.2, omega=0.1)
        self.rate = nlme.LogNormal(0.4, omega=0.1)
        self.a, self.b = nlme.Positive(a), nlme.Positive(0.1)

    def predict(self, t, p, cov):
        since = (t - p.lag).clamp(min=0.0)
        return 10 * (1 - torch.exp(-p.rate * since))

    def observe(self, t, y, p):
        return {"DV": nlme.observation.Combined2(y, p.a, p.b)}


@pytest.fixture(scope="module")
def delayed():
    generator = torch.Generator().manual_seed(4)

    def noise():
        return float(torch.randn((), generator=generator))

    rows = []
    for subject in range(10):
        lag, rate = 1.3 * math.exp(0.3 * noise()), 0.4 * math.exp(0.3 * noise())
        for time in TIMES:
            level = 10 * (1 - math.exp(-rate * max(time - lag, 0.0)))
            value = max(level + math.hypot(0.3, 0.1 * level) * noise(), 0.0)
            rows.append({"ID": subject, "TIME": time, "DV": value})
    return nlme.Dataset.from_frame(pd.DataFrame(rows))


def objective_of(model, data):
    density = Density(model, data.batch(), choose_solver(None))
    return MarginalObjective(nlme.FOCEI().approximation(density), parameter_values(model))


def test_a_likelihood_without_maximum_is_left_early_and_named(delayed):
    fit = nlme.fit(Delayed(a=1e-3), delayed, nlme.FOCEI(rescue=None), progress=False)
    assert fit.status is Status.UNBOUNDED and not fit.converged
    assert "a runs to 0" in fit.termination and any("without bound" in message for message in fit.warnings)
    evaluations = int(fit.termination.split("(")[1].split(" ")[0])
    assert evaluations < 150


def test_a_trust_region_is_stopped_there_too(delayed):
    method = nlme.FOCEI(optimiser=nlme.TrustRegion(), rescue=None)
    fit = nlme.fit(Delayed(a=1e-3), delayed, method, progress=False)
    assert fit.status is Status.UNBOUNDED and not fit.converged
    assert "a runs to 0" in fit.termination and any("without bound" in message for message in fit.warnings)


def test_the_local_maximum_is_found_all_the_same(delayed):
    right = nlme.fit(Delayed(), delayed, nlme.FOCEI(), progress=False)
    poor = nlme.fit(Delayed(a=1e-3), delayed, nlme.FOCEI(), progress=False)
    assert poor.status is right.status
    assert poor.minus2ll == pytest.approx(right.minus2ll, abs=0.01)
    assert any("without bound as a runs to 0" in message for message in poor.warnings)


def test_only_logarithms_have_an_end(delayed):
    objective = objective_of(Delayed(), delayed)
    bounds = furthest(objective.approximation, objective.initial)
    assert torch.equal(bounds.upper - bounds.lower, torch.full_like(bounds.upper, 2 * FURTHEST))
    beyond = objective.initial - 2 * FURTHEST
    assert torch.equal(bounds.inside(beyond), bounds.lower)
    slope = torch.zeros_like(beyond)
    slope[bounds.labels.index("a")], slope[bounds.labels.index("b")] = 8.0, -8.0
    outward = bounds.outward(bounds.inside(beyond), slope)
    assert bounds.described(outward) == "a runs to 0" and float(outward.sum()) == -1.0


def test_a_step_that_loses_most_modes_is_refused_without_a_search(delayed, monkeypatch):
    objective = objective_of(Delayed(), delayed)
    nowhere = objective.initial.clone()
    nowhere[list(furthest(objective.approximation, nowhere).labels).index("a")] = -400.0
    nowhere[list(furthest(objective.approximation, nowhere).labels).index("b")] = -400.0
    assert math.isfinite(objective.step(objective.initial)[0])

    def forbidden(*_, **__):
        raise AssertionError("searched")

    monkeypatch.setattr(expansion_points, "climb", forbidden)
    assert math.isinf(objective.step(nowhere)[0])
    with pytest.raises(AssertionError, match="searched"):
        objective(nowhere)


def test_saem_says_so_too(delayed):
    """A record of exactly zero at time zero in every subject, met exactly by any parameters."""
    frame = delayed.to_frame()[["ID", "TIME", "DV"]]
    frame = frame[frame["TIME"] >= 4]
    zeros = frame.groupby("ID", as_index=False).first().assign(TIME=0.0, DV=0.0)
    data = nlme.Dataset.from_frame(pd.concat([zeros, frame]).sort_values(["ID", "TIME"]))
    schedule = nlme.StepSchedule(exploration=60, smoothing=10)
    fit = nlme.fit(Delayed(), data, nlme.SAEM(schedule=schedule), seed=1, progress=False)
    assert fit.status is Status.UNBOUNDED and "a runs to 0" in fit.termination
    assert any("no maximum, it grows without bound as a runs to 0" in message for message in fit.warnings)
