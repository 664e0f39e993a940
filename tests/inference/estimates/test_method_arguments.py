"""What is given for a method and is none is told by every public function, before any work."""

import subprocess
import sys

import pytest

import nlme_torch as nlme
from nlme_torch.inference.estimates.method_arguments import APPROXIMATIONS, PURPOSES, check_method

UNCHECKED = """
import nlme_torch as nlme
data, model, quiet = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm(), {"progress": False}
fit = nlme.fit(model, data, nlme.FO(), progress=False)
for wrong in ("saem", "FOCEI()", nlme.SAEM, 3, nlme.BFGS()):
    calls = {
        "fit: ": lambda: nlme.fit(model, data, wrong, **quiet),
        "fit: likelihood: ": lambda: nlme.fit(model, data, likelihood=wrong, **quiet),
        "ofv: ": lambda: nlme.ofv(model, data, wrong),
        "loglik: ": lambda: nlme.loglik(fit, wrong),
        "held_out: likelihood: ": lambda: nlme.held_out(fit, data, wrong),
        "cross_validate: ": lambda: nlme.cross_validate(model, data, wrong, **quiet),
        "cross_validate: likelihood: ": lambda: nlme.cross_validate(model, data, likelihood=wrong, **quiet),
        "multistart: ": lambda: nlme.multistart(model, data, wrong, **quiet),
        "multistart: likelihood: ": lambda: nlme.multistart(model, data, likelihood=wrong, **quiet),
        "case_bootstrap: ": lambda: nlme.case_bootstrap(fit, wrong, **quiet),
        "parametric_bootstrap: ": lambda: nlme.parametric_bootstrap(fit, wrong, **quiet),
        "profile: ": lambda: nlme.profile(fit, "cl", wrong, **quiet),
        "sir: ": lambda: nlme.sir(fit, wrong, **quiet),
        "standard_errors: ": lambda: nlme.standard_errors(fit, wrong),
        "loglik: method": lambda: nlme.compare(one=fit, other=fit, method=wrong),
    }
    for place, call in calls.items():
        try:
            call()
        except nlme.FitError as error:
            assert str(error).startswith(place.removesuffix("method")), (place, error)
            assert " is no " in str(error) and "; write one with its settings: nlme." in str(error), error
        else:
            raise AssertionError((place, wrong))
for starts in (0, 1.5, "many"):
    try:
        fit.individualise(data, starts)
    except nlme.FitError as error:
        assert "individualise: starts must be a whole number" in str(error), error
    else:
        raise AssertionError(starts)
print("all refused")
"""


def test_every_function_says_what_it_needs():
    """The suite runs under a type checker, users do not: these messages are theirs."""
    done = subprocess.run([sys.executable, "-c", UNCHECKED], capture_output=True, text=True)
    assert done.stdout.strip() == "all refused", done.stderr


def test_what_is_meant_by_a_name_is_named():
    for purpose, (_, names) in PURPOSES.items():
        for name in names:
            assert callable(getattr(nlme, name))
            with pytest.raises(nlme.FitError, match=rf"settings: nlme\.{name}\(\)\."):
                check_method("f", name.lower(), (purpose,), "nlme.Other()")
    with pytest.raises(nlme.FitError, match=r"settings: nlme\.Other\(\)\."):
        check_method("f", "saem", ("approximation",), "nlme.Other()")


def test_what_can_do_it_passes():
    check_method("f", None, ("estimate",), "nlme.SAEM()")
    for name in APPROXIMATIONS:
        method = getattr(nlme, name)()
        for purpose in ("estimate", "approximation"):
            check_method("f", method, (purpose,), "nlme.SAEM()")
        check_method("f", method, ("information", "approximation"), "nlme.SAEM()")
