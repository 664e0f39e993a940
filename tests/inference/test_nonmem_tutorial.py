"""Objectives at NONMEM's estimates equal NONMEM's, on the data of a published tutorial."""

import pytest
from tutorial_models import (
    AVAILABLE,
    Covariates,
    Sites,
    TargetMediated,
    covariates_data,
    covariates_params,
    reference,
    sites_data,
    sites_params,
    target_mediated_data,
    target_mediated_params,
)

import nlme_torch as nlme

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="the tutorial's data may not be bundled")


def test_focei_with_covariates():
    run = reference("covariates_501")["FOCEI"]
    found = nlme.ofv(Covariates(), covariates_data(), nlme.FOCEI(), params=covariates_params(run["estimates"]))
    assert found.ofv == pytest.approx(run["objective"], abs=1e-3)


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
