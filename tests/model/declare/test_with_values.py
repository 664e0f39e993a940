"""Values by the names that fits print, into a copy of a model."""

import pytest
import torch
from support.small_models import Everything, Line

import nlme_torch as nlme
from nlme_torch.model.declare.scalars import omega_scalars, structural_scalars
from nlme_torch.model.declare.values import parameter_values


def scalars(model):
    raw = parameter_values(model)
    return {k: float(v[0]) for k, v in {**structural_scalars(model, raw), **omega_scalars(model, raw)}.items()}


def test_every_printed_name_can_be_given_and_comes_back():
    model = Everything()
    wanted = {
        "ka": 2.5, "cl": 0.4, "cl_WT": 0.6, "f": 0.8, "kout": 0.9, "power": 1.5, "shift": -0.3, "sigma_pk": 0.05,
        "omega_ka": 0.3, "omega_cl": 0.2, "omega_v": 0.3, "omega_cl,v": -0.1,
    }  # fmt: skip
    changed = model.with_values(wanted)
    found = scalars(changed)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-12)
    assert scalars(model) == scalars(Everything())  # the model itself is not changed
    others = scalars(model)
    assert {k: v for k, v in found.items() if k not in wanted} == {k: v for k, v in others.items() if k not in wanted}
    assert isinstance(changed, Everything)


def test_an_unknown_name_is_told_with_those_there_are():
    with pytest.raises(nlme.FitError, match=r"names 'bb', .* it has 'a', 'b', 'b_x', 'sigma', 'omega_a'.*mean 'b'\?"):
        Line().with_values({"bb": 1.0})
    with pytest.raises(nlme.FitError, match="out of bounds"):
        Line().with_values({"sigma": -1.0})
    with pytest.raises(nlme.FitError, match="not positive definite"):
        Line(full=True).with_values({"omega_a,b": 5.0})


def test_what_a_fit_prints_gives_its_model_again():
    model = Line(full=True).with_values({"a": 3.0, "omega_a,b": 0.4, "sigma": 0.2})
    again = Line(full=True).with_values(scalars(model))
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
