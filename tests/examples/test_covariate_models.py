"""The truth with six covariates, written out again in numpy, and the models that have to find it."""

import numpy as np
import pytest
import torch

import nlme_torch as nlme
from nlme_torch.model.density.density import Density

RK4 = nlme.RK4(steps=20, compile=False)


def test_the_truths_parameters_are_the_stated_functions():
    design = nlme.examples.covariate_design(6, seed=3)
    density = Density(nlme.examples.CovariateTruth(), design.batch(), RK4)
    eta = 0.2 * torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = density.at().individual(eta[:, None, None])
    c1, c2, c3, c4, c5, c6, rest = design.covariates.to_numpy().T
    e = eta.numpy()
    expected = {
        "smax": 1.2 * np.exp(e[0]) + 3 * c1 / (12 + c1),
        "sc50": 0.02 * np.exp(e[1] + 0.2 * (c2 / 20) ** 0.75),
        "ka": 0.5 * np.exp(e[2] + 0.3 * c3 * c4),
        "vc": np.exp(e[3] + 0.3 * c3),
        "kout": 2.2 * np.exp(e[4] + 0.3 * c5 / (c6 + c5)),
    }
    expected["kin"] = rest * expected["kout"]
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name)[0, 0], value, rtol=1e-12)
    assert density.at().covariance()[0].diagonal().tolist() == pytest.approx([0.05] * 5)


def test_covariates_have_their_distributions_and_the_response_begins_at_rest():
    data = nlme.examples.covariate_data(400, seed=1)
    covariates = data.covariates
    for name, mean, variance in (
        ("c1", 10, 20), ("c2", 21, 21), ("c3", 0, 1), ("c4", 0, 1), ("c5", 11, 11), ("c6", 11, 11), ("R_eq", 1, 1 / 50),
    ):  # fmt: skip
        assert covariates[name].mean() == pytest.approx(mean, abs=4 * np.sqrt(variance / 400))
        assert covariates[name].var() == pytest.approx(variance, rel=0.45)
    first = data.frame[data.frame.TIME == 0].dropna(subset="yPD")
    error = first.yPD - first.R_eq
    assert error.std() == pytest.approx(0.1, rel=0.15) and abs(error.mean()) < 0.02


@pytest.mark.parametrize("name", ["WithoutCovariates", "CovariateNetwork"])
def test_the_models_can_be_evaluated(name):
    data = nlme.examples.covariate_data(4, seed=2)
    density = Density(nlme.scale_networks(getattr(nlme.examples, name)(), data, RK4), data.batch(), RK4)
    conditional = density.at()
    assert bool(torch.isfinite(conditional.log_joint(conditional.sample(2, torch.Generator().manual_seed(0)))).all())
