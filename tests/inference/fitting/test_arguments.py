"""Arguments of public functions that are of another kind: an error of the library's own that names them.

The suite runs under a type checker, users do not: this file is a program, which a test runs without one.
"""

import inspect
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from support.fitted_models import made_fit

import nlme_torch as nlme

FO = nlme.FO()
FIT = made_fit(nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline())
MODEL, DATA = FIT.model, FIT.data
HUGE = 10**400
"""No double."""

NO_FITS = [None, "run1", MODEL, [FIT], 3]


def every_diagnostic(fit):
    """Call everything of ``nlme.diagnostics`` and ``nlme.plots`` whose first argument is a fit; all must refuse."""
    refusals = []
    functions = [f for place in (nlme.diagnostics, nlme.plots) for f in vars(place).values()]
    for function in filter(inspect.isfunction, functions):
        first, *others = inspect.signature(function).parameters.values()
        if first.name == "fit" and function is not nlme.plots.fit_pages:  # which is lazy
            needed = [each for each in others if each.default is each.empty and each.kind is not each.KEYWORD_ONLY]
            try:
                function(fit, *("x" for _ in needed))
            except nlme.NLMEError as error:
                assert "a fit is needed" in str(error), (function, error)
                refusals.append(error)
            else:
                raise AssertionError(f"{function.__name__} takes {fit!r:.60}")
    assert len(refusals) > 25
    raise refusals[0]


CALLS = {
    "loglik": (nlme.loglik, "a fit is needed", NO_FITS),
    "held_out": (lambda fit: nlme.held_out(fit, DATA), "a fit is needed", NO_FITS),
    "standard_errors": (lambda fit: nlme.standard_errors(fit, FO), "a fit is needed", NO_FITS),
    "profile": (lambda fit: nlme.profile(fit, "cl", progress=False), "a fit is needed", NO_FITS),
    "sir": (nlme.sir, "a fit is needed", NO_FITS),
    "case_bootstrap": (nlme.case_bootstrap, "a fit is needed", NO_FITS),
    "parametric_bootstrap": (nlme.parametric_bootstrap, "a fit is needed", NO_FITS),
    "leave_one_out": (nlme.leave_one_out, "a fit is needed", NO_FITS),
    "augment": (lambda fit: nlme.augment(fit, nlme.MLP(1, 2)), "a fit is needed", NO_FITS),
    "Ensemble": (nlme.Ensemble, "a fit is needed", [MODEL, [MODEL, FIT], 3, "run1"]),
    "diagnostics": (every_diagnostic, "a fit is needed", NO_FITS),
    "kind": (lambda kind: FIT.with_standard_errors(FO, kind=kind), "kind must be 'sandwich'", [None, "r", 3, [], {}]),
    "level": (
        lambda level: FIT.with_standard_errors(FO, level=level), "level must",
        [None, "95", 95, 0, -1.0, math.nan, math.inf, [], {}, HUGE, np.array([0.9, 0.95])],
    ),
    "level of a profile": (
        lambda level: nlme.profile(FIT, "cl", FO, level=level, progress=False), "level must", [95, 1.0, "x", math.nan]
    ),
    "level of SIR": (lambda level: nlme.sir(FIT, FO, level=level), "level must", [95, None]),
    "level of a bootstrap": (lambda level: nlme.case_bootstrap(FIT, FO, level=level), "level must", [95, None]),
    "step": (lambda step: nlme.standard_errors(FIT, FO, step=step), "step must", [None, "x", 0.0, -1e-3, math.inf]),
    "points": (
        lambda points: nlme.profile(FIT, "cl", FO, points=points, progress=False), "points must",
        [None, "x", -1, 1.5, [], torch.tensor(1.0)],
    ),
    "name": (lambda name: nlme.profile(FIT, name, FO), "profile", [None, 3, ["cl"], np.array([1.0, 2.0])]),
    "proposals": (lambda count: nlme.sir(FIT, FO, proposals=count), "proposals must", [None, "x", 10.5]),
    "samples": (lambda count: nlme.case_bootstrap(FIT, FO, samples=count), "samples", [None, "x", 1, 2.5, True]),
    "folds": (lambda folds: nlme.cross_validate(MODEL, DATA, FO, folds=folds), "folds", [None, "x", [], 2.5, 100]),
    "times": (FIT.predict, "finite numbers", ["x", object(), HUGE, math.nan, {1: "x"}, [[1.0], [2.0]]]),
    "starts": (lambda starts: FIT.individualise(DATA, starts), "starts must", [None, "x", 0, 1.5, True, HUGE]),
    "subjects": (DATA.subset, "subset", [None, 3, math.nan, object(), torch.tensor(1.0), []]),
    "params": (
        lambda params: nlme.ofv(MODEL, DATA, FO, params=params), "params",
        ["x", 3, [1.0], torch.tensor(1.0), {3: 1.0}, {None: 1.0}, {"cl": HUGE}, {"cl": "x"}, {"cl": None}],
    ),
    "values": (MODEL.with_values, "params", [None, 3, "x", [1.0]]),
    "path": (FIT.save, "path must", [None, 3, b"x", [], math.nan]),
    "path of a stream": (nlme.from_nonmem, "path must", [None, 3, b"x", []]),
    "data of a stream": (lambda data: nlme.from_nonmem("run1.mod", data=data), "data must", [3, b"x", []]),
    "estimates": (lambda file: nlme.from_nonmem("run1.mod", file), "estimates must", [3, b"x", []]),
    "path of load": (lambda path: nlme.load(path, MODEL, DATA), "path must", [None, 3, [], math.nan]),
    "amount": (nlme.Regimen, "Regimen", [None, [], {}, "x", (1, 2), np.array([1.0, 2.0]), HUGE, -1, math.nan]),
    "delay": (nlme.Regimen(1.0).delayed, "Regimen.delayed", [None, "x", math.inf]),
    "factor": (nlme.Regimen(1.0).scaled, "Regimen.scaled", [None, "x", -1, math.nan, HUGE]),
    "levels": (
        lambda levels: nlme.Dataset.from_frame(DATA.frame, id="Subject", time="Time", outputs="conc", levels=levels),
        "levels", ["x", 3, [1], math.nan],
    ),
    "start": (
        lambda start: nlme.Dataset.from_frame(DATA.frame, id="Subject", time="Time", outputs="conc", start=start),
        "start", ["x", HUGE, math.nan, [0.0]],
    ),
    "outputs": (
        lambda names: nlme.Dataset.from_frame(DATA.frame, id="Subject", time="Time", outputs=names),
        "outputs", [torch.tensor(1.0), 3, object()],
    ),
    "device": (lambda device: nlme.ofv(MODEL, DATA, FO, device=device), "no device", ["gpu", HUGE, []]),
}  # fmt: skip


def every_call():
    """Make every call with everything that is of another kind."""
    for call, (function, words, given) in CALLS.items():
        for value in given:
            try:
                function(value)
            except nlme.NLMEError as error:
                assert re.search(words, str(error)), (call, value, error)
            else:
                raise AssertionError(f"{call} takes {value!r:.60}")


def numbers_of_other_libraries():
    """NumPy's and PyTorch's numbers are numbers."""
    assert nlme.Regimen(np.float64(3.0)) == nlme.Regimen(3.0)
    assert nlme.Regimen(torch.tensor(3.0)).scaled(np.int64(2)).doses[0].amount == 6.0
    assert len(DATA.subset(np.array([1, 2])).subjects) == 2
    expected = nlme.ofv(MODEL, DATA, FO, params={"cl": 2.0}).ofv
    assert nlme.ofv(MODEL, DATA, FO, params={"cl": torch.tensor(2.0)}).ofv == expected


def test_what_is_of_another_kind_is_named():
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.stdout.strip() == "all refused", done.stderr


if __name__ == "__main__":
    every_call()
    numbers_of_other_libraries()
    print("all refused")
