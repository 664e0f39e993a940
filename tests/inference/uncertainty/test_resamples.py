"""Densities whose starts have their own observations, against one density per data set."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.inference.marginal.expansion_points import expand
from nlme_torch.inference.uncertainty.resamples import CaseResamples, ParametricResamples
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density


class TwoOutcomes(nlme.Model):
    """A log-normal concentration and a count, seen at different records."""

    def __init__(self):
        super().__init__()
        self.k = nlme.LogNormal(0.3, omega=0.1)
        self.base = nlme.LogNormal(4.0, omega=0.05)
        self.sigma = nlme.Positive(0.2)

    def predict(self, t, p, cov):
        return torch.exp(-p.k * t), p.base * torch.exp(-0.1 * t)

    def observe(self, t, y, p):
        return {"conc": dist.LogNormal(y[0].log(), p.sigma), "count": dist.Poisson(y[1])}


class OneOutcome(TwoOutcomes):
    def observe(self, t, y, p):
        return {"conc": super().observe(t, y, p)["conc"]}


@pytest.fixture(scope="module")
def frame():
    """A table of two outcomes with gaps."""
    rng = np.random.default_rng(0)
    rows = [
        {"ID": i, "TIME": float(j), "conc": rng.lognormal() if (i + j) % 3 else None, "count": j % 4 if j % 2 else None}
        for i in range(5)
        for j in range(1, 4 + i)
    ]
    return pd.DataFrame(rows)


def joined(model, frame, outputs):
    rows = frame[["ID", "TIME", *outputs]].dropna(subset=outputs, how="all")
    return Density(model, nlme.Dataset.from_frame(rows, outputs=outputs).batch(), nlme.Auto())


@pytest.mark.parametrize(
    "model, outputs, method",
    [
        (TwoOutcomes, ["conc", "count"], nlme.Laplace()),
        (TwoOutcomes, ["conc", "count"], nlme.Quadrature(nodes=3)),
        (OneOutcome, ["conc"], nlme.FOCEI()),
        (OneOutcome, ["conc"], nlme.FOCE()),
        (OneOutcome, ["conc"], nlme.FO()),
    ],
)
def test_values_and_gradients_are_those_of_separate_data_sets(frame, model, outputs, method):
    density = joined(model(), frame, outputs)
    draws = ParametricResamples.draw(density, 4, torch.Generator().manual_seed(0))
    members = torch.tensor([3, 0, 1])
    values = parameter_values(density.model, 3)
    values["k.typical"] = values["k.typical"] + torch.tensor([0.0, 0.2, -0.3], dtype=torch.float64)
    approximation, _ = draws.together(method, members)
    assert draws.together(method, members)[0] is approximation
    assert draws.together(method, members[:2])[0] is not approximation
    approximation, _ = draws.together(method, members)
    found = expand(approximation, values, approximation.origin(3), gradient=True).evaluation
    for start, number in enumerate(members.tolist()):
        one = method.approximation(Density(model(), draws.batch(number), nlme.Auto()))
        own = {name: value[start : start + 1] for name, value in values.items()}
        alone = expand(one, own, one.origin(1), gradient=True).evaluation
        torch.testing.assert_close(found.value[start], alone.value[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.gradient[start], alone.gradient[0], rtol=1e-6, atol=1e-7)
    part, index = approximation.restricted(torch.tensor([4, 1])), [4, 1]
    fewer = expand(part, values, part.origin(3)).evaluation
    torch.testing.assert_close(fewer.value, found.value[:, index], rtol=1e-9, atol=1e-9)


def test_simulated_observations_stand_where_there_was_one(frame):
    density = joined(TwoOutcomes(), frame, ["conc", "count"])
    draws = ParametricResamples.draw(density, 400, torch.Generator().manual_seed(1))
    batch = draws.batch(7)
    assert all(torch.equal(batch.outcomes[n].mask, density.batch.outcomes[n].mask) for n in ("conc", "count"))
    logs = draws.outcomes["conc"].log().mean((1, 2))  # E log conc = -exp(log k + omega / 2) t
    k = 0.3 * np.exp(0.05)
    times = density.batch.times.mean(1)
    assert logs.numpy() == pytest.approx(-(k * times).numpy(), rel=0.05)


def test_subjects_are_drawn_with_replacement(frame):
    density = joined(TwoOutcomes(), frame, ["conc", "count"])
    draws = CaseResamples.draw(density, 300, torch.Generator().manual_seed(1))
    assert (draws.weights.sum(1) == 5).all() and draws.weights.mean(0).numpy() == pytest.approx(np.ones(5), abs=0.2)
    assert draws.batch(2).subjects == tuple(density.batch.subjects[i] for i in draws.picked[2].tolist())


def test_censored_outcomes_are_not_simulated(frame):
    rows = frame[["ID", "TIME", "conc"]].dropna().assign(CENS=0)
    rows.loc[rows.index[0], "CENS"] = 1
    density = Density(OneOutcome(), nlme.Dataset.from_frame(rows, outputs=["conc"]).batch(), nlme.Auto())
    with pytest.raises(nlme.FitError, match="censored.*case_bootstrap"):
        ParametricResamples.draw(density, 2, torch.Generator())


def test_a_subject_counts_as_often_as_it_was_drawn(frame):
    density = joined(OneOutcome(), frame, ["conc"])
    picked = torch.tensor([[0, 0, 3, 3, 3], [4, 1, 1, 2, 0]])
    draws = CaseResamples(density, picked)
    assert draws.weights.tolist() == [[2, 0, 0, 3, 0], [1, 2, 1, 0, 1]]
    method = nlme.FOCEI()
    approximation, weights = draws.together(method, torch.tensor([1]))
    assert weights.tolist() == [[1, 2, 1, 0, 1]] and draws.together(method, torch.tensor([0]))[0] is approximation
    values = parameter_values(density.model)
    each = expand(approximation, values, approximation.origin(1)).evaluation.value[0]
    one = method.approximation(Density(OneOutcome(), draws.batch(1), nlme.Auto()))
    alone = expand(one, values, one.origin(1)).evaluation.value[0]
    torch.testing.assert_close((weights[0] * each).sum(), alone.sum(), rtol=1e-9, atol=1e-9)


class Unsolvable(OneOutcome):
    """Grows beyond all numbers in a subject whose effect is positive."""

    states = ("level",)
    predict = nlme.Model.predict

    def initial(self, p):
        return (1.0,)

    def dynamics(self, t, y, p):
        return (torch.where(p.k > 0.3, y.level**2 * 1e3, -p.k * y.level),)

    def observe(self, t, y, p):
        return {"conc": dist.LogNormal(y.level.log(), p.sigma)}


def test_a_subject_that_cannot_be_solved_fails_its_data_sets_alone(frame):
    density = joined(Unsolvable(), frame, ["conc"])
    draws = ParametricResamples.draw(density, 30, torch.Generator().manual_seed(3))
    drawn = draws.outcomes["conc"]
    assert drawn.shape == (density.batch.n_records, 30, 5)
    lost = torch.isnan(drawn)
    assert torch.equal(lost.all(0), lost.any(0)) and 0.3 < float(lost.double().mean()) < 0.7
    assert bool((lost.any(0).sum(1) < 5).any())
