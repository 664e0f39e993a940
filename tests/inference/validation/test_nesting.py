"""Nested models are recognised across classes, and their likelihood ratio has the right distribution."""

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import scipy.stats
import torch

import nlme_torch as nlme
from nlme_torch.inference.validation.nesting import Nesting, find_nesting


def model(name="M", *, declare, predict=lambda self, t, p, cov: p.a + p.b * t, individual=None):
    def __init__(self):
        nlme.Model.__init__(self)
        self.a, self.b, self.sigma = nlme.Normal(5.0, omega=1.0), nlme.Real(0.5), nlme.Positive(0.5)
        declare(self)

    members = {"__init__": __init__, "predict": predict}
    members["observe"] = lambda self, t, y, p: {"DV": dist.Normal(y, p.sigma)}
    if individual is not None:
        members["individual"] = individual
    return type(name, (nlme.Model,), members)()


def redeclared(**parameters):
    def declare(self):
        for name, value in parameters.items():
            if name in self._modules:
                del self._modules[name]
            setattr(self, name, value)

    return declare


def data():
    rng = np.random.default_rng(1)
    rows = []
    for i in range(20):
        weight, a = 60 + 20 * rng.random(), rng.normal(5, 1)
        for t in (0.0, 1.0, 2.0, 3.0):
            sex = ["f", "m"][i % 2]
            rows.append({"ID": i, "TIME": t, "DV": a + 0.5 * t + rng.normal(0, 0.5), "WT": weight, "SEX": sex})
    return nlme.Dataset.from_frame(pd.DataFrame(rows), covariates=["WT", "SEX"])


def fitted(one, table):
    return nlme.fit(one, table, nlme.FOCEI(), progress=False)


NOTHING = redeclared()


@pytest.fixture(scope="module")
def table():
    return data()


@pytest.fixture(scope="module")
def base(table):
    return fitted(model("Base", declare=NOTHING), table)


def weight(beta_of="a"):
    return redeclared(a=nlme.Normal(5.0, nlme.Shift("WT", ref=70), omega=1.0))


LARGER = {
    "a declared effect": (redeclared(a=nlme.Normal(5.0, nlme.Shift("WT", ref=70), omega=1.0)), {}, Nesting(1)),
    "two effects": (
        redeclared(a=nlme.Normal(5.0, nlme.Shift("WT", ref=70), nlme.Shift("SEX"), omega=1.0)),
        {},
        Nesting(2),
    ),
    "a variance": (redeclared(b=nlme.Normal(0.5, omega=0.1)), {}, Nesting(1, 1)),
    "a variance and a covariance": (
        redeclared(b=nlme.Normal(0.5, omega=0.1), both=nlme.Omega("a", "b")),
        {},
        Nesting(2, 1),
    ),
    "a coefficient in individual": (
        redeclared(beta=nlme.Real(0.1)),
        {"individual": lambda self, p, cov: {"b": p.b + p.beta * (cov.SEX == "m")}},
        Nesting(1),
    ),
    "an exponent": (
        redeclared(power=nlme.Positive(0.9)),
        {"predict": lambda self, t, p, cov: p.a + p.b * t**p.power},
        Nesting(1),
    ),
    "a part that vanishes at zero": (
        redeclared(extra=nlme.Positive(0.1)),
        {"predict": lambda self, t, p, cov: p.a + p.b * t + p.extra * torch.exp(-t) * (cov.SEX == "m")},
        Nesting(1, 1),
    ),
}


@pytest.mark.parametrize("case", LARGER)
def test_a_larger_class_is_seen_to_hold_the_smaller_one(case, base, table):
    declare, code, expected = LARGER[case]
    large = fitted(model("Large", declare=declare, **code), table)
    assert find_nesting(base, large) == expected
    assert find_nesting(large, base) is None


NOT = {
    "another equation": (redeclared(beta=nlme.Real(0.1)), {"predict": lambda self, t, p, cov: p.a + p.b * t**2}),
    "another parameter of the same number": (redeclared(b=nlme.Real(0.5), c=nlme.Real(0.1)), {
        "predict": lambda self, t, p, cov: p.a + torch.exp(p.b) * t + p.c}),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT)
def test_what_is_no_special_case_is_not_taken_for_one(case, base, table):
    declare, code = NOT[case]
    assert find_nesting(base, fitted(model("Other", declare=declare, **code), table)) is None


def test_the_mixture_is_that_of_simulated_likelihood_ratios():
    """One variance at its bound: half of the mass at zero; two: a quarter, as draws of max(0, z)^2 show."""
    rng = np.random.default_rng(3)
    z = rng.normal(size=(400_000, 3))
    one = np.maximum(z[:, 0], 0) ** 2
    two = one + np.maximum(z[:, 1], 0) ** 2
    mixed = one + z[:, 2] ** 2
    for x in (0.5, 2.0, 4.0):
        for nesting, draws in ((Nesting(1, 1), one), (Nesting(2, 2), two), (Nesting(2, 1), mixed)):
            assert nesting.p_value(x) == pytest.approx((draws >= x).mean(), abs=3e-3)
    assert Nesting(1, 1).p_value(0.0) == 1.0
    assert Nesting(3).p_value(2.0) == pytest.approx(scipy.stats.chi2.sf(2.0, 3))
    assert Nesting(1, 1).distribution == "50:50 of chi2(0), chi2(1)"
    assert Nesting(2).distribution == "chi2(2)"


def test_the_comparison_answers_which_covariates(base, table):
    wt = fitted(model("Wt", declare=weight()), table)
    both = redeclared(a=nlme.Normal(5.0, nlme.Shift("WT", ref=70), nlme.Shift("SEX"), omega=1.0))
    wt_sex = fitted(model("WtSex", declare=both), table)
    comparison = nlme.compare(base, wt, wt_sex)
    assert list(comparison.table.index) == ["Base", "Wt", "WtSex"]
    assert list(comparison.table["fitted by"]) == ["FOCEI"] * 3
    tests = comparison.tests.set_index(["model", "within"])
    assert set(tests.index) == {("Base", "Wt"), ("Base", "WtSex"), ("Wt", "WtSex")}
    for (small, large), test in tests.iterrows():
        ratio = comparison.table.loc[small, "-2LL"] - comparison.table.loc[large, "-2LL"]
        assert test["chi2"] == pytest.approx(ratio, abs=1e-9) and ratio > 0
        assert test["p"] == pytest.approx(scipy.stats.chi2.sf(ratio, test["df"]))
    assert "likelihood-ratio tests" in str(comparison) and "chi2(2)" in str(comparison)
    assert "<table" in comparison._repr_html_()


def test_only_settings_in_which_methods_differ_are_shown(base, table):
    other = nlme.fit(model("Base", declare=NOTHING), table, nlme.FOCEI(mode_starts=2), progress=False)
    names = nlme.compare(a=base, b=other).table["fitted by"]
    assert list(names) == ["FOCEI(mode_starts=None)", "FOCEI(mode_starts=2)"]
    assert list(nlme.compare(base, other).table.index) == ["Base 1", "Base 2"]


def test_the_user_may_say_what_cannot_be_seen(base, table):
    declare, code = NOT["another equation"]
    other = fitted(model("Other", declare=declare, **code), table)
    assert nlme.compare(a=base, b=other).tests.empty
    for nested in ({"a": "b"}, ["a", "b"]):
        tests = nlme.compare(a=base, b=other, nested=nested).tests
        assert tests[["model", "within", "df"]].values.tolist() == [["a", "b", 1]]
    with pytest.raises(nlme.FitError, match="'b' is a special case of 'a'.*write the smaller one first"):
        nlme.compare(a=base, b=other, nested=["b", "a"])
    with pytest.raises(nlme.FitError, match="names 'c'; the fits are 'a', 'b'"):
        nlme.compare(a=base, b=other, nested={"a": "c"})


def test_what_is_no_fit_is_told(base):
    with pytest.raises(nlme.FitError, match="argument 1 is a list and no fit"):
        nlme.compare([base, base])
    with pytest.raises(nlme.FitError, match="b is a Base and no fit"):
        nlme.compare(a=base, b=base.model)
