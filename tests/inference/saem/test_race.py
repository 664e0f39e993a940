"""Successive halving of starts: who goes on, for how long, and in which order."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line, number

import nlme_torch as nlme
from nlme_torch.inference.effects.moves import Moves
from nlme_torch.inference.saem.step import SAEMAlgorithm
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density


class Standstill(SAEMAlgorithm):
    """SAEM that never moves a parameter, and counts its iterations by the number of starts."""

    def __init__(self, density):
        schedule = nlme.StepSchedule(exploration=10, smoothing=1)
        super().__init__(
            density, schedule=schedule, chains=2, moves=Moves(), annealing=1.0, learning_rate=0.0, gradient_steps=0
        )
        self.steps = []

    def step(self, state, generator, smoothing):
        self.steps.append(state.values["a.typical"].shape[0])
        return state


@pytest.fixture(scope="module")
def lines():
    return simulate_lines(subjects=12, seed=3, sigma=0.25)


def test_the_likeliest_starts_remain_best_first(lines):
    frame, design = lines
    algorithm = Standstill(Density(Line(full=True), lines_data(frame).batch(), nlme.Tsit5(compile=False)))
    typical = [5.0, -1.0, 2.4, 0.0, 2.0, 3.5, -3.0]
    values = {name: value.clone() for name, value in parameter_values(algorithm.density.model, starts=7).items()}
    values["a.typical"] = number(typical)
    race = nlme.Race(keep=2, iterations=4, growth=1.5)
    kept = race.run(algorithm, values, torch.Generator().manual_seed(0))["a.typical"].tolist()
    # for a linear model Laplace's approximation is exact
    exact = sorted(typical, key=lambda a: design.minus2ll(np.array([a, 0.0, 0.0]), np.eye(2), 1.0))
    assert kept == exact[:2]
    assert algorithm.steps == [7] * 4 + [4] * 6
    assert race.rounds(7) == [(7, 4), (4, 6)]


def test_a_start_without_a_likelihood_is_overtaken(lines):
    frame, _ = lines
    algorithm = Standstill(Density(Line(full=True), lines_data(frame).batch(), nlme.Tsit5(compile=False)))
    values = {name: value.clone() for name, value in parameter_values(algorithm.density.model, starts=3).items()}
    values["a.typical"] = number([2.0, 2.0, 3.0])

    def init(current, generator):
        state = SAEMAlgorithm.init(algorithm, current, generator)
        return state._replace(values={**current, "a.typical": number([2.0, 1e200, 3.0])})

    algorithm.init = init
    kept = nlme.Race(keep=2, iterations=1).run(algorithm, values, torch.Generator().manual_seed(0))
    assert kept["a.typical"].tolist() == [2.0, 3.0]


def test_a_fit_says_who_won(lines):
    frame, _ = lines
    method = nlme.SAEM(
        starts=5, race=nlme.Race(keep=2, iterations=5), schedule=nlme.StepSchedule(exploration=10, smoothing=5)
    )
    fit = nlme.fit(Line(), lines_data(frame), method, seed=1, progress=False)
    assert "the best of the 2 that won a race of 5 starts, by Laplace log-likelihood (-" in fit.termination
    alone = replace(method, race=nlme.Race(keep=1, iterations=1))
    fit = nlme.fit(Line(), lines_data(frame), alone, seed=1, progress=False)
    assert "; the winner of a race of 5 starts;" in fit.termination


@pytest.mark.parametrize("wrong", [{"keep": 0}, {"iterations": 0}, {"growth": 0.9}, {"growth": float("nan")}])
def test_a_race_that_cannot_be_run_is_refused(wrong):
    with pytest.raises(nlme.FitError, match="Race: "):
        nlme.Race(**wrong)


def test_a_race_needs_more_starts_than_it_keeps():
    with pytest.raises(nlme.FitError, match="keeps 2 starts"):
        nlme.SAEM(starts=2, race=nlme.Race(keep=2))


def test_a_start_that_cannot_be_evaluated_is_out(lines):
    frame, _ = lines
    algorithm = Standstill(Density(Line(full=True), lines_data(frame).batch(), nlme.Tsit5(compile=False)))
    values = {name: value.clone() for name, value in parameter_values(algorithm.density.model, starts=5).items()}
    values["a.typical"] = number([2.0, torch.inf, 3.0, torch.nan, 2.5])
    kept = nlme.Race(keep=2, iterations=3).run(algorithm, values, torch.Generator().manual_seed(0))
    assert len(kept["a.typical"]) == 2 and torch.isfinite(kept["a.typical"]).all()
    assert algorithm.steps[0] == 3
    values["a.typical"] = number([torch.nan] * 5)
    with pytest.raises(nlme.FitError, match="not finite at the typical values"):
        nlme.Race(keep=2, iterations=3).run(algorithm, values, torch.Generator().manual_seed(0))
