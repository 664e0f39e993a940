"""Likelihood profiles against SciPy on the exact marginal likelihood of a linear mixed model."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import chi2
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme

NAMES = ["a", "b", "b_x", "sigma", "omega_a", "omega_b", "omega_a,b"]


@pytest.fixture(scope="module")
def correlated():
    frame, design = simulate_lines(subjects=25, seed=2)
    return nlme.fit(Line(full=True), lines_data(frame), nlme.FOCEI(), progress=False), design


def exact(design, point):
    values = dict(zip(NAMES, point, strict=True))
    omega = np.array([[values["omega_a"], values["omega_a,b"]], [values["omega_a,b"], values["omega_b"]]])
    if values["sigma"] <= 0 or np.linalg.eigvalsh(omega)[0] <= 0:
        return 1e10
    return design.minus2ll(np.array(point[:3]), omega, values["sigma"])


def profiled(design, start, name, value):
    """The minimum over all other parameters, without gradients or Cholesky factors."""
    place = NAMES.index(name)

    def objective(others):
        return exact(design, np.insert(others, place, value))

    others = np.delete(start, place)
    found = minimize(objective, others, method="BFGS")
    found = minimize(objective, found.x, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-8, "maxfev": 4000})
    return found.fun, found.x


@pytest.mark.parametrize("name", ["sigma", "omega_a,b"])
def test_limits_are_those_of_the_exact_profile(correlated, name):
    fit, design = correlated
    found = nlme.profile(fit, name, points=0, progress=False)
    start = found.table.loc[found.table["difference"] == 0, NAMES].to_numpy()[0]
    lowest = exact(design, start)
    cut = chi2.ppf(0.95, 1)
    for limit in (found.lower, found.upper):
        fall, _ = profiled(design, start, name, limit)
        assert fall - lowest == pytest.approx(cut, rel=2e-3)
    assert len(found.table) < 10  # few re-estimations
    assert found.warnings == () and found.lower < found.estimate < found.upper


def test_other_parameters_are_re_estimated_at_every_point(correlated):
    fit, design = correlated
    found = nlme.profile(fit, "omega_a", level=0.9, points=1, progress=False)
    assert found.table["omega_a"].is_monotonic_increasing and (found.table["difference"] >= 0).all()
    others = [name for name in NAMES if name != "omega_a"]
    row = found.table[found.table["omega_a"] == found.upper].iloc[0]
    fall, expected = profiled(design, row[NAMES].to_numpy(), "omega_a", row["omega_a"])
    assert row["difference"] == pytest.approx(chi2.ppf(0.9, 1), rel=2e-3)
    assert row[others].to_numpy(dtype=float) == pytest.approx(expected, rel=5e-3, abs=5e-4)


def test_a_variance_that_may_be_zero_has_no_lower_limit():
    frame, _ = simulate_lines(subjects=12, omega=((0.4, 0.0), (0.0, 1e-5)), seed=1)
    fit = nlme.fit(Line(), lines_data(frame), nlme.FOCEI(), progress=False)
    found = nlme.profile(fit, "omega_b", points=0, progress=False)
    assert found.lower == 0.0 and 0 < found.upper < 1
    assert "no lower limit" in found.warnings[0]


def test_theophylline_by_focei_agrees_with_refits_at_a_fixed_value(theophylline):
    """The difference at a limit is what two ordinary fits give, one of them with the parameter fixed there."""
    fit = nlme.fit(nlme.examples.TheophyllineClosedForm(), theophylline, nlme.FOCEI(), progress=False)
    found = nlme.profile(fit, "ka", points=0, progress=False)
    model = nlme.examples.TheophyllineClosedForm()
    model.ka.typical.data.fill_(math.log(found.upper))
    model.ka.typical.requires_grad_(False)
    held = nlme.fit(model, theophylline, nlme.FOCEI(), progress=False)
    assert held.ofv - fit.ofv == pytest.approx(chi2.ppf(0.95, 1), rel=2e-3)


def test_an_unknown_parameter_is_refused(correlated):
    fit, _ = correlated
    with pytest.raises(nlme.FitError, match="'slope' is no estimated.*omega_a,b"):
        nlme.profile(fit, "slope")
