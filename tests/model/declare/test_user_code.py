"""User code that leaves PyTorch is an error that says where, and never ends the process."""

import math
import threading

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Distribution

import nlme_torch as nlme
from nlme_torch.inference.likelihood.likelihood import check_likelihood
from nlme_torch.model.declare.arguments import check_arguments
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
    with pytest.raises(nlme.ModelError, match=rf"(?s)Decay\.{where}, line \d+ of .*The line hands .* to NumPy"):
        nlme.simulate(Decay(*arguments), decays(), seed=1)


def men_heavier(value, cov):
    return value if cov.SEX == "male" else 2 * value


def chosen(value, cov):
    if (value > 0.2) and (value < 30):
        return value
    return 2 * value


BRANCHES = {
    "a level": men_heavier,
    "a covariate": lambda value, cov: 2 * value if cov.WT > 60 else value,
    "if": chosen,
    "max": lambda value, cov: max(value, 0.01 * value),
}
NUMBERS = {
    "math.exp": lambda value, cov: value * math.exp(value),
    "item": lambda value, cov: value.item() + 0 * value,
    "tolist": lambda value, cov: value * sum(value.flatten().tolist()),
    "range": lambda value, cov: sum((value for _ in range(value)), 0 * value),
    "format": lambda value, cov: value * len(f"{value:.3f}"),
}


def written(method, function):
    """A decay one of whose methods applies a function to a value of its own."""

    class Written(Decay):
        def individual(self, p, cov):
            return {"rate": function(p.k, cov)} if method == "individual" else {"rate": p.k}

        def dosing(self, p):
            return {"amount": nlme.Dosing(lag=function(p.k, None))} if method == "dosing" else {}

        def initial(self, p):
            return (function(p.k, None) if method == "initial" else 1.0,)

        def dynamics(self, t, y, p):
            return (-p.rate * (function(y.amount, None) if method == "dynamics" else y.amount),)

        def observe(self, t, y, p):
            return {"DV": dist.Normal(function(y.amount, None) if method == "observe" else y.amount, p.sigma)}

    class Closed(nlme.Model):
        def __init__(self):
            super().__init__()
            self.k, self.sigma = nlme.LogNormal(0.3), nlme.Positive(0.1)

        def predict(self, t, p, cov):
            return torch.exp(-p.k * function(t, cov))

        def observe(self, t, y, p):
            return {"DV": dist.Normal(y, p.sigma)}

    return Closed() if method == "predict" else Written()


def people(subjects):
    frame = pd.concat([decays().frame] * 2).drop_duplicates().query(f"ID < {subjects}")
    frame["SEX"], frame["WT"] = np.where(frame.ID == 1, "female", "male"), 55.0 + 10 * frame.ID
    return nlme.Dataset.from_frame(frame, covariates=["SEX", "WT"])


OF_COVARIATES = ("a level", "a covariate")
METHODS = ("individual", "dosing", "initial", "dynamics", "observe", "predict")
CASES = [
    (method, name)
    for name in (*BRANCHES, *NUMBERS)
    for method in METHODS
    if name not in OF_COVARIATES or method in ("individual", "predict")
]


@pytest.mark.parametrize(("method", "name"), CASES)
def test_python_that_asks_for_one_number_is_an_error_that_says_what_to_write(method, name):
    says = "torch.where" if name in BRANCHES else "function of the same name in torch"
    for subjects in (
        (3,) if name in (*OF_COVARIATES, "tolist") else (3, 1)
    ):  # one subject would decide for all its chains
        with pytest.raises(nlme.ModelError, match=rf"(?s){method}, line \d+ of tests.*{says}"):
            nlme.simulate(written(method, (BRANCHES | NUMBERS)[name]), people(subjects), seed=1)


def test_one_number_for_all_may_be_asked_for():
    def checked(value, cov):
        assert (value > -100).all() and f"{value}"
        return value

    for method in ("individual", "initial", "dynamics", "observe", "predict"):
        nlme.simulate(written(method, checked), people(3), seed=1)


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


def test_what_is_no_model_no_data_no_seed_and_no_device_is_told_what_to_write():
    data = decays()
    fit = nlme.fit(Decay(), data, nlme.FO(optimiser=nlme.BFGS(iterations=1)), progress=False)
    for kind, said, arguments in (
        (nlme.ModelError, r"write Decay\(\)", (Decay, data, 0)),
        (nlme.ModelError, r"write fit\.model", (fit, data, 0)),
        (nlme.ModelError, "a dict was given", ({}, data, 0)),
        (nlme.DataError, r"from_frame\(frame\)", (Decay(), data.frame, 0)),
        (nlme.FitError, "seed must be a whole number", (Decay(), data, None)),
        (nlme.FitError, "seed must be a whole number", (Decay(), data, 1.5)),
        (nlme.FitError, "seed must be a whole number", (Decay(), data, 2**80)),
        (nlme.FitError, "no device 'gpu'", (Decay(), data, 0, "gpu")),
    ):
        with pytest.raises(kind, match=said):
            check_arguments("fit", *arguments)
    for method in ("laplace", nlme.Laplace):
        with pytest.raises(nlme.FitError, match=r"settings: nlme\.ImportanceSampling\(\)"):
            check_likelihood("nlme.loglik", method)
    with pytest.raises(nlme.ModelError, match=r"shape \(3, 3\).*give \(1, 3\)"):
        nlme.simulate(Decay(), data, seed=1, eta=torch.zeros(3, 3).double())
    with torch.inference_mode(), pytest.raises(nlme.FitError, match="inference_mode"):
        nlme.fit(Decay(), data, progress=False)
    torch.set_default_device("meta")
    try:
        with pytest.raises(nlme.FitError, match="set_default_device"):
            nlme.simulate(Decay(), data, seed=1)
    finally:
        torch.set_default_device("cpu")
