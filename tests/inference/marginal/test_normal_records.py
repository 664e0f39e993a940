"""Where the variance depends on the effects, and where FOCE may spare itself the typical subjects."""

import pyro.distributions as dist
import pytest
import torch
from support.foce_models import Wang, wang_data
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.inference.marginal.foce import Linearised
from nlme_torch.inference.marginal.normal_records import NormalRecords
from nlme_torch.model.density.density import Density


class Steps(Line):
    """The variance has no derivative with respect to the effects, and yet is not the same everywhere."""

    def observe(self, t, y, p):
        found = super().observe(t, y, p)
        return {name: dist.Normal(d.loc, torch.where(d.loc > 2, 2.0, 1.0) * d.scale) for name, d in found.items()}


@pytest.mark.parametrize(("kind", "expected"), [("additive", True), ("proportional", False), ("steps", False)])
def test_whether_variances_depend_on_effects(kind, expected):
    if kind == "proportional":
        density = Density(Wang("propMod"), wang_data().batch(), nlme.Auto())
    else:
        model = Line() if kind == "additive" else Steps()
        density = Density(model, lines_data(simulate_lines(subjects=8)[0]).batch(), nlme.Auto())
    assert NormalRecords(density, "FOCE").homoscedastic is expected


def test_sparing_the_typical_subjects_changes_nothing():
    density = Density(Line(), lines_data(simulate_lines(subjects=8)[0]).batch(), nlme.Auto())
    approximation = Linearised(density, "FOCE")
    centre = 0.3 * torch.ones_like(approximation.origin(1))
    values = {name: value.detach() for name, value in approximation.density.at().values.items()}
    spared = approximation.evaluate(values, centre, gradient=True)
    approximation.records.homoscedastic = False
    whole = approximation.evaluate(values, centre, gradient=True)
    torch.testing.assert_close(spared.value, whole.value)
    torch.testing.assert_close(spared.gradient, whole.gradient)
