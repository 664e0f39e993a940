"""User code that leaves PyTorch is an error that says where, and never ends the process."""

import threading

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Distribution

import nlme_torch as nlme
from nlme_torch.model.observation.unchecked import unchecked


class Decay(nlme.Model):
    states = ("amount",)

    def __init__(self, function=torch.tanh, outer=torch.abs):
        super().__init__()
        self.k, self.sigma = nlme.LogNormal(0.3), nlme.Positive(0.1)
        self.function, self.outer = function, outer

    def initial(self, p):
        return (1.0,)

    def dynamics(self, t, y, p):
        return (-p.k * self.function(y.amount),)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(self.outer(y.amount), p.sigma)}


def decays():
    rows = [{"ID": i, "TIME": t, "DV": np.exp(-0.3 * t)} for i in range(3) for t in (0.0, 1.0, 2.0)]
    return nlme.Dataset.from_frame(pd.DataFrame(rows))


@pytest.mark.parametrize(("arguments", "where"), [((np.tanh,), "dynamics"), ((torch.tanh, np.abs), "observe")])
def test_numpy_on_a_state_is_an_error_that_names_the_line(arguments, where):
    with pytest.raises(nlme.ModelError, match=rf"Decay\.{where}, line \d+, hands .* to NumPy"):
        nlme.simulate(Decay(*arguments), decays(), seed=1)


def test_overlapping_evaluations_in_threads_leave_the_checks_as_they_were():
    before = Distribution._validate_args
    inside, go_on = threading.Event(), threading.Event()

    def evaluate():
        with unchecked():
            inside.set()
            go_on.wait(10)

    thread = threading.Thread(target=evaluate)
    with unchecked():
        thread.start()
        assert inside.wait(10)
        with unchecked():
            assert Distribution._validate_args is False
    assert Distribution._validate_args is False  # the other thread is still at it
    go_on.set()
    thread.join()
    assert Distribution._validate_args == before


def test_two_threads_simulate_what_one_does():
    expected = [nlme.simulate(Decay(), decays(), seed=seed).frame["DV"].to_numpy() for seed in (1, 2)]
    found, errors = {}, []

    def run(seed):
        try:
            for _ in range(3):
                found[seed] = nlme.simulate(Decay(), decays(), seed=seed).frame["DV"].to_numpy()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert Distribution._validate_args
    for seed in (1, 2):
        assert found[seed].shape == expected[seed - 1].shape
