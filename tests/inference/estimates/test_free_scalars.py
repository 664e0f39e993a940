"""The vector of parameters that have a standard error, and the scalars that it stands for."""

import pytest
import torch
from support.small_models import DOUBLE, Everything, Line

from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.parameters.transforms import Identity, Log, Logit


def scalars_of(model):
    return FreeScalars(model, parameter_values(model))


def test_what_is_fixed_or_a_network_weight_is_left_out():
    scalars = scalars_of(Everything())
    expected = ["ka", "cl", "cl_WT", "v", "v_WT", "f", "kout", "power", "shift", "sigma_pk", "sigma_pd"]
    assert [name for name in scalars.names if not name.startswith("omega_")] == expected
    assert {"omega_ka", "omega_cl", "omega_v", "omega_cl,v", "omega_uptake"} & set(scalars.names) >= {"omega_cl,v"}
    assert "omega_f" not in scalars.names and "dose" not in scalars.names
    kinds = dict(zip(scalars.names, map(type, scalars.scales), strict=True))
    assert (kinds["ka"], kinds["f"], kinds["v"], kinds["cl_WT"]) == (Log, Logit, Identity, Identity)
    assert (kinds["omega_ka"], kinds["omega_cl,v"]) == (Log, Identity)
    assert not any("weights" in label or "drive" in label for label in scalars.labels)
    assert {"omega_ka", "omega_cl,v", "cl_WT"} <= set(scalars.labels)


def test_the_natural_scale_and_its_derivatives():
    scalars = scalars_of(Line(full=True))
    values = dict(zip(scalars.names, scalars.natural(scalars.vector[None])[0].tolist(), strict=True))
    assert values == pytest.approx(
        {"a": 1, "b": 0, "b_x": 0, "sigma": 1, "omega_a": 1, "omega_b": 1, "omega_a,b": 0}, abs=1e-12
    )
    vector = scalars.vector + torch.linspace(-0.3, 0.4, len(scalars.vector), dtype=DOUBLE)
    scalars.whole = scalars.complete(vector[None])[0]
    steps = 1e-6 * torch.eye(len(vector), dtype=DOUBLE)
    numeric = (scalars.natural(vector + steps) - scalars.natural(vector - steps)) / 2e-6
    torch.testing.assert_close(scalars.jacobian(), numeric.mT, rtol=1e-7, atol=1e-8)


def test_nothing_to_estimate_is_refused():
    model = Line()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(FitError, match="everything is fixed"):
        scalars_of(model)
