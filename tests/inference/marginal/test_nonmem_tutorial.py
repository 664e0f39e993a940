"""Objectives at NONMEM's estimates equal NONMEM's, on the data of a published tutorial."""

import numpy as np
import pytest
import torch
from support.tutorial_models import (
    AVAILABLE,
    BelowLimit,
    Covariates,
    Sites,
    TargetMediated,
    below_limit_data,
    below_limit_params,
    covariates_data,
    covariates_params,
    reference,
    sites_data,
    sites_params,
    target_mediated_data,
    target_mediated_params,
)

import nlme_torch as nlme
from nlme_torch.model.declare.natural import values_from_natural
from nlme_torch.model.density.density import Density

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="the tutorial's data may not be bundled")


def test_focei_with_covariates():
    run = reference("covariates_501")["FOCEI"]
    found = nlme.ofv(Covariates(), covariates_data(), nlme.FOCEI(), params=covariates_params(run["estimates"]))
    assert found.ofv == pytest.approx(run["objective"], abs=1e-3)


@pytest.mark.slow
def test_focei_of_a_target_mediated_equation():
    run = reference("tmdd")["FOCEI"]
    params = target_mediated_params(run["estimates"])
    found = nlme.ofv(TargetMediated(), target_mediated_data(), nlme.FOCEI(), params=params)
    assert found.ofv == pytest.approx(run["objective"], abs=1e-3)


@pytest.mark.slow
def test_focei_with_all_effects_of_a_site_in_one_block():
    """Two independent programs give 1584.2245; NONMEM's own objective with levels is another quantity."""
    run = reference("site_subject_occasion")["FOCEI with levels"]
    found = nlme.ofv(Sites(), sites_data(), nlme.FOCEI(), params=sites_params(run["estimates"]))
    assert found.ofv == pytest.approx(1584.2245, abs=1e-3)


AWAY = {  # where three subjects have better modes than the one downhill from zero
    **dict.fromkeys(("cl", "v1", "q", "v2"), float(np.exp(2.0))),
    "sigma": 0.2,
    "omega": (0.14 * np.eye(4) + 0.01).tolist(),
}


@pytest.mark.parametrize("mode_starts", [None, 2, 4])
def test_the_best_modes_however_many_climbs(mode_starts):
    """By the modes of largest joint density, found by climbs from 300 points for every subject: 617.5646."""
    found = nlme.ofv(BelowLimit(), below_limit_data(), nlme.Laplace(mode_starts=mode_starts), params=AWAY)
    assert found.ofv == pytest.approx(617.5646, abs=1e-3)
    near = found.subjects[found.subjects["next_mode"] < 5]
    assert len(near) == 4  # as many as those climbs found
    assert any("a second conditional mode" in message for message in found.warnings)


def test_modes_are_exact_where_the_curvature_is_nearly_singular():
    """Newton's method in extended precision from the modes found stays where it is."""
    run = reference("blq")["IMP"]
    found = nlme.ofv(BelowLimit(), below_limit_data(), nlme.Laplace(), params=below_limit_params(run["estimates"]))
    density = Density(BelowLimit(), below_limit_data().batch(), nlme.Auto())
    conditional = density.at(values_from_natural(density.model, below_limit_params(run["estimates"])))
    eta = torch.as_tensor(found.modes.to_numpy().T.copy()).requires_grad_()
    for _ in range(3):
        slopes = torch.autograd.grad(conditional.log_joint(eta[:, None, None]).sum(), eta, create_graph=True)[0]
        hessian = torch.stack([torch.autograd.grad(slope.sum(), eta, retain_graph=True)[0] for slope in slopes])
        step = torch.linalg.solve(hessian.permute(2, 0, 1), -slopes.detach().mT[..., None])[..., 0].mT
        eta = (eta + step).detach().requires_grad_()
    moved = (eta.detach() - torch.as_tensor(found.modes.to_numpy().T.copy())).abs()
    assert float(moved.max()) < 1e-6
