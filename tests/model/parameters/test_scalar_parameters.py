"""Transforms and the scalar parameters built on them, against the formulas."""

import math

import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from support.small_models import DOUBLE, Everything, Line, number

import nlme_torch as nlme
from nlme_torch.model.declare.scalars import all_scalars, structural_scalars
from nlme_torch.model.declare.values import (
    assign,
    component_values,
    flatten_values,
    free_names,
    free_scalar_count,
    parameter_values,
    unflatten_values,
)
from nlme_torch.model.parameters.transforms import Identity, Log, Logit

TRANSFORMS = {
    "identity": (Identity(), lambda x: x),
    "log": (Log(), math.exp),
    "logit": (Logit(), lambda x: 1 / (1 + math.exp(-x))),
    "bounds": (Logit(-2.0, 5.0), lambda x: -2 + 7 / (1 + math.exp(-x))),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform_is_the_formula_and_its_inverse(name):
    transform, formula = TRANSFORMS[name]
    x = torch.linspace(-8, 8, 33, dtype=DOUBLE)
    natural = transform.forward(x)
    torch.testing.assert_close(
        natural, torch.tensor([formula(v) for v in x.tolist()], dtype=DOUBLE), rtol=1e-14, atol=1e-15
    )
    torch.testing.assert_close(transform.inverse(natural), x, rtol=1e-10, atol=1e-12)
    assert all(transform.contains(v) for v in natural.tolist())


@pytest.mark.parametrize(
    "transform, outside",
    [
        (Identity(), (math.inf, math.nan)),
        (Log(), (0.0, -1.0, math.inf, math.nan)),
        (Logit(1.0, 2.0), (1.0, 2.0, 0.0, math.nan)),
    ],
    ids=str,
)
def test_transform_knows_its_range(transform, outside):
    assert not any(transform.contains(value) for value in outside)


def test_unordered_bounds_are_refused():
    with pytest.raises(nlme.ModelError, match="lower = 3.* not below upper = 3"):
        nlme.Bounded(3.0, 3.0, 3.0)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: nlme.Positive(0.0), r"Positive\(0.0\).*positive"),
        (lambda: nlme.Positive(float("nan")), "positive"),
        (lambda: nlme.Real(float("inf")), "real"),
        (lambda: nlme.Bounded(2.0, 0.0, 1.0), r"Bounded\(2.0\).*\(0, 1\)"),
        (lambda: nlme.LogNormal(-1.0), r"LogNormal\(-1.0\).*typical value must be positive"),
        (lambda: nlme.LogitNormal(1.5), r"LogitNormal\(1.5\)"),
        (lambda: nlme.LogNormal(1.0, omega=0.0), r"LogNormal\(1.0\): a variance must be a positive number, got 0"),
        (lambda: nlme.Normal(1.0, omega=nlme.Fixed(-1.0)), r"Normal\(1.0\): a variance"),
        (lambda: nlme.LogNormal(1.0, nlme.Power("WT", ref=70.0), nlme.Shift("WT")), "appears twice"),
        (lambda: nlme.Power("WT", ref=0.0), r"Power\('WT'\): ref must be positive"),
        (lambda: nlme.Latent(0), "at least one effect"),
    ],
)
def test_values_out_of_range_are_refused_by_name(make, words):
    with pytest.raises(nlme.ModelError, match=words):
        make()


def test_values_survive_the_estimation_scale():
    assert nlme.Positive(0.37).value.item() == pytest.approx(0.37, rel=1e-15)
    assert nlme.Bounded(0.8, 0.2, 2.0).value.item() == pytest.approx(0.8, rel=1e-15)
    assert nlme.LogitNormal(3.0, lower=1.0, upper=9.0).value.item() == pytest.approx(3.0, rel=1e-15)
    assert nlme.Normal(-4.0).value.dtype == DOUBLE


def test_covariate_regressors():
    weights = number([35.0, 70.0, 140.0])
    torch.testing.assert_close(nlme.Power("WT", ref=70.0).regressor(weights), number([-math.log(2), 0.0, math.log(2)]))
    torch.testing.assert_close(nlme.Shift("WT", ref=70.0).regressor(weights), number([-35.0, 0.0, 70.0]))


def test_prior_of_a_parameter_is_on_its_natural_scale():
    parameter = nlme.Positive(0.5, prior=dist.Gamma(2.0, 3.0))
    value = parameter.log_prior(number([math.log(0.5), math.log(2.0)]))
    expected = stats.gamma(2, scale=1 / 3).logpdf([0.5, 2.0])
    torch.testing.assert_close(value, number(expected.tolist()), rtol=1e-12, atol=0)


def test_fixed_parameters_are_not_estimated():
    model = Line(
        a=nlme.Normal(1.0, fixed=True),
        b=nlme.Normal(0.0, nlme.Shift("x", coefficient=0.2, fixed=True)),
        sigma=nlme.Positive(1.0, fixed=True),
    )
    assert set(free_names(model)) == {"b.typical", "_covariances.individual.log_sd"}
    assert free_scalar_count(model) == 3
    assert model.a.fixed and model.sigma.fixed and not model.b.fixed


def test_scalars_have_the_names_and_scales_that_a_reader_expects():
    model = Everything()
    scalars = all_scalars(model, parameter_values(model, starts=2))
    expected = {
        "ka": 1.2,
        "cl": 0.3,
        "cl_WT": 0.75,
        "v": 3.0,
        "v_WT": 0.01,
        "f": 0.7,
        "kout": 0.5,
        "power": 0.8,
        "shift": 0.1,
        "dose": 10.0,
        "sigma_pk": 0.3,
        "omega_cl": 0.1,
        "omega_v": 0.2,
        "omega_cl,v": 0.0,
        "omega_ka": 0.2,
        "omega_f": 0.1,
        "omega_uptake.W1[0,0]": 0.05,
        "loss.B[0,0]": 0.3,
        "loss.B[1,0]": 0.0,
    }
    for name, value in expected.items():
        assert scalars[name].tolist() == pytest.approx([value, value], rel=1e-12), name
    assert list(structural_scalars(model, parameter_values(model)))[:3] == ["ka", "cl", "cl_WT"]
    assert sum(name.startswith("drive.") for name in scalars) == 11
    assert sum(name.startswith("loss.B[") for name in scalars) == 7 + 6


def test_free_count_counts_every_estimated_number_once():
    # typical 4, covariate 2, population 3 + sigma 2, Omega 3 + 1 + 7, weights 11 + 7 + 7, loading 13
    assert free_scalar_count(Everything()) == 4 + 2 + 5 + 11 + 25 + 13


def test_values_apart_from_the_model():
    model = Everything()
    values = parameter_values(model, starts=3)
    names = ("ka.typical", "drive.weights", "_covariances.disposition.factor")
    vector = flatten_values(values, names)
    assert vector.shape == (3, 1 + 11 + 3)
    back = unflatten_values(vector + 1, values, names)
    torch.testing.assert_close(back["drive.weights"], values["drive.weights"] + 1)
    torch.testing.assert_close(back["_covariances.disposition.factor"], values["_covariances.disposition.factor"] + 1)
    assert back["cl.typical"].shape == (3,) and torch.equal(back["cl.typical"], values["cl.typical"])
    assert set(component_values(values, "_covariances.disposition")) == {"factor"}

    before = model.cl.value.item()
    assign(model, {"ka.typical": number([0.0, math.log(3.0), 0.0])}, start=1)
    assert model.ka.value.item() == pytest.approx(3.0) and model.cl.value.item() == before
    assert values["ka.typical"][0].item() == pytest.approx(math.log(1.2)), "values must be a copy, not a view"
