"""Likelihoods that level off: no maximum is claimed there, and none is denied where a start was merely far away."""

import math

import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.foce.rank import rank
from nlme_torch.inference.optimise.minimisers import Iterate, Minimum
from nlme_torch.inference.optimise.tails import FAR, Tail, far_away, tail_of_estimates
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.solve import choose_solver

METHODS = {
    "laplace": nlme.Laplace(),
    "trust region": nlme.Laplace(optimiser=nlme.TrustRegion()),
    "quadrature": nlme.Quadrature(nodes=3),
    "saem": nlme.SAEM(schedule=nlme.StepSchedule(exploration=80, smoothing=30)),
}


class Count(nlme.Model):
    """Counts whose logarithm of the rate is normal."""

    def __init__(self, start=0.0):
        super().__init__()
        self.lr = nlme.Normal(start, omega=0.3)

    def predict(self, t, p, cov):
        return p.lr + 0.0 * t

    def observe(self, t, y, p):
        return {"DV": dist.Poisson(y.exp())}


class Rate(nlme.Model):
    """Counts whose rate is log-normal."""

    def __init__(self, start=1.0):
        super().__init__()
        self.lr = nlme.LogNormal(start, omega=0.3)

    def predict(self, t, p, cov):
        return p.lr + 0.0 * t

    def observe(self, t, y, p):
        return {"DV": nlme.observation.Poisson(y)}


class Answer(Count):
    """Yes or no."""

    def observe(self, t, y, p):
        return {"DV": nlme.observation.Bernoulli(y)}


class Drift(Answer):
    """Yes or no, with a slope in time."""

    def __init__(self):
        super().__init__()
        self.slope = nlme.Real(0.1)

    def predict(self, t, p, cov):
        return p.lr + p.slope * t


class Score(Count):
    """Four scores, cutpoints at 0, d1 and d1 + d2."""

    def __init__(self):
        super().__init__()
        self.d1, self.d2 = nlme.Positive(1.0), nlme.Positive(1.0)

    def observe(self, t, y, p):
        return {"DV": nlme.observation.OrderedCategorical(y, (0.0 * p.d1, p.d1, p.d1 + p.d2))}


def table(value, subjects=15, records=5):
    """A data set of what a function of two uniform numbers gives."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for subject in range(subjects):
        own = float(torch.rand((), generator=generator))
        for time in range(records):
            u = float(torch.rand((), generator=generator))
            rows.append({"ID": subject, "TIME": float(time), "DV": float(value(own, u))})
    return nlme.Dataset.from_frame(pd.DataFrame(rows))


def scores_without(missing):
    """Three of four scores."""
    seen = [score for score in range(4) if score != missing]
    return table(lambda own, u: seen[int(2.999 * (0.7 * u + 0.3 * own))])


def ended_endless(fit, said):
    assert fit.status is Status.UNBOUNDED and not fit.converged
    assert any("no maximum" in message and said in message for message in fit.warnings), fit.warnings


@pytest.mark.parametrize(
    ("method", "model", "value", "said"),
    [
        ("laplace", Count, 0, "lr runs to -infinity"),
        ("saem", Count, 0, "lr runs to -infinity"),
        ("trust region", Rate, 0, "lr runs to 0"),
        ("laplace", Rate, 0, "lr runs to 0"),
        ("quadrature", Answer, 1, "lr runs to infinity"),
    ],
)
def test_outcomes_that_are_all_alike_have_no_maximum(method, model, value, said):
    ended_endless(nlme.fit(model(), table(lambda own, u: value), METHODS[method], seed=1, progress=False), said)


def test_where_the_search_begins_does_not_matter():
    ended_endless(nlme.fit(Count(-8.0), table(lambda own, u: 0), nlme.Laplace(), progress=False), "lr runs to")


@pytest.mark.parametrize(
    ("method", "missing", "said"),
    [
        ("laplace", 0, "lr runs to infinity and d1 runs to infinity"),
        ("laplace", 1, "d1 runs to 0"),
        ("laplace", 3, "d2 runs to infinity"),
        ("saem", 3, "d2 runs to infinity"),
    ],
)
def test_a_category_that_is_never_seen_has_no_maximum(method, missing, said):
    """Without the lowest one, location and cutpoint leave together, along no straight line."""
    ended_endless(nlme.fit(Score(), scores_without(missing), METHODS[method], seed=1, progress=False), said)


def test_answers_that_time_separates():
    frame = table(lambda own, u: 0).to_frame()
    frame["DV"] = (frame["TIME"] >= 2).astype(float)
    fit = nlme.fit(Drift(), nlme.Dataset.from_frame(frame[["ID", "TIME", "DV"]]), nlme.Laplace(), progress=False)
    ended_endless(fit, "slope runs to infinity")


@pytest.mark.parametrize("method", ["laplace", "saem"])
def test_ordinary_outcomes_have_one(method):
    data = table(lambda own, u: u < 0.3 + 0.4 * own)
    fit = nlme.fit(Drift(), data, METHODS[method], seed=1, progress=False)
    assert fit.status is not Status.UNBOUNDED
    assert not any("no maximum" in message for message in fit.warnings)


class Decay(nlme.Model):
    """An exponential decay with two parts of error."""

    def __init__(self, unit=1.0):
        super().__init__()
        self.a, self.k = nlme.LogNormal(unit, omega=0.1), nlme.LogNormal(1.0, omega=0.1)
        self.add, self.prop = nlme.Positive(unit), nlme.Positive(0.1)

    def predict(self, t, p, cov):
        return p.a * torch.exp(-p.k * t)

    def observe(self, t, y, p):
        return {"DV": nlme.observation.Combined2(y, p.add, p.prop)}


def decays(unit, early=1.0):
    generator = torch.Generator().manual_seed(3)

    def noise():
        return float(torch.randn((), generator=generator))

    rows = []
    for subject in range(20):
        level, rate = 10 * math.exp(0.3 * noise()), 0.5 * math.exp(0.3 * noise())
        for time in (0.1, 0.5, 1.0, 2.0, 4.0):
            value = level * math.exp(-rate * time) + 0.3 * (early if time < 1.5 else 1.0) * noise()
            rows.append({"ID": subject, "TIME": time, "DV": unit * value})
    return nlme.Dataset.from_frame(pd.DataFrame(rows))


@pytest.mark.parametrize(("method", "start"), [(nlme.FOCEI(), 1e12), (METHODS["saem"], 1.0)], ids=["near", "far"])
def test_other_units_are_no_flight(method, start):
    """Amounts of 1e13, begun at one or near: nothing runs away, and the estimates are those of units of one."""
    fit = nlme.fit(Decay(start), decays(1e12), method, seed=1, progress=False)
    assert fit.status is not Status.UNBOUNDED and "runs to" not in fit.termination
    assert not any("has run to" in message for message in fit.warnings)
    assert fit.parameters.loc["a", "estimate"] == pytest.approx(9.84e12, rel=0.02)


def test_small_units_are_no_flight():
    fit = nlme.fit(Decay(1e-12), decays(1e-12), nlme.FOCEI(), progress=False)
    assert fit.converged and not any("run to" in message or "runs to" in message for message in fit.warnings)


def test_a_part_of_the_error_that_is_not_there_is_no_flight_either():
    """High levels have the smaller error: the proportional part falls to nothing, and what is left is a maximum."""
    fit = nlme.fit(Decay(), decays(1.0, early=0.4), nlme.FOCEI(), progress=False)
    assert fit.converged
    assert any("prop has fallen to nothing" in message for message in fit.warnings)


def test_estimates_of_any_method_can_be_asked():
    model, data = Count(0.0), table(lambda own, u: 0)
    density = Density(model, data.batch(), choose_solver(None))
    far = {**parameter_values(model), "lr.typical": torch.full((1,), -25.0, dtype=torch.float64)}
    assert tail_of_estimates(density, far).running == "lr runs to -infinity"
    assert tail_of_estimates(density, parameter_values(model)) == Tail()


def test_what_is_far():
    model = Decay()
    before = parameter_values(model)
    assert not far_away(model, {**before, "a.typical": before["a.typical"] + 0.9 * FAR})
    assert far_away(model, {**before, "a.typical": before["a.typical"] - 1.1 * FAR})
    assert far_away(model, {**before, "add.unconstrained": before["add.unconstrained"] + math.nan})


def test_what_is_said():
    assert "levels off as a runs to 0" in Tail("a runs to 0").explained()
    assert "without bound as a runs to 0" in Tail("a runs to 0", (), False).explained()
    assert Tail().fallen_to_nothing() == [] and "drop it" in Tail("", ("b",)).fallen_to_nothing()[0]


def test_a_tail_beats_a_maximum_that_is_no_higher():
    point = Iterate(torch.zeros(1), 10.0, torch.zeros(1), 0.0)
    maximum = Minimum(point, 1, 1, Status.CONVERGED, "")
    level = replace_value(maximum, 10.0, Status.UNBOUNDED, levels_off=True)
    lower = replace_value(maximum, 9.0, Status.CONVERGED)
    endless = replace_value(maximum, -50.0, Status.UNBOUNDED)
    assert sorted([endless, maximum, level, lower], key=rank) == [lower, level, maximum, endless]


def replace_value(found, value, status, levels_off=False):
    return found._replace(iterate=found.iterate._replace(value=value), status=status, levels_off=levels_off)
