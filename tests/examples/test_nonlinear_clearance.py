"""Saturable elimination with covariates: the truth written out again for scipy, its covariates, and its networks."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import nlme_torch as nlme
from nlme_torch.model.density.density import Density

RK4 = nlme.RK4(steps=30)  # compiles nothing


def test_the_truth_is_what_scipy_integrates():
    design = nlme.examples.nonlinear_clearance_design(3, seed=4)
    eta = 0.3 * torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    density = Density(nlme.examples.NonlinearClearance(), design.batch(), RK4)
    with torch.no_grad():
        observed, _ = density.at().observe(eta[:, None, None])
    found = observed["conc"].mean[:, 0, 0].numpy()
    batch = density.batch
    for k, row in enumerate(design.covariates.itertuples()):
        e = eta[:, k].numpy()
        ka = np.exp(e[0]) + 0.5 * (row.AGE / 55) ** 2
        imax = 1.1 * np.exp(e[1]) + 1.6 * (row.W + row.AGE) / row.W
        ic50 = 0.4 * np.exp((row.W / 75) ** 2 + e[2])
        vc = 0.8 * np.exp(e[3] + row.W / 75 * row.c / (1 + row.c))

        def slopes(t, y, ka=ka, imax=imax, ic50=ic50, vc=vc):
            return [-ka * y[0], ka * y[0] - imax * y[1] / (ic50 * vc + y[1])]

        options = {"method": "LSODA", "rtol": 1e-10, "atol": 1e-12}
        first = solve_ivp(slopes, (0, 2), [8.0, 0.0], t_eval=np.arange(0, 2, 0.5), **options).y
        middle = solve_ivp(slopes, (0, 2), [8.0, 0.0], **options).y[:, -1] + [8.0, 0.0]
        later = solve_ivp(slopes, (2, 8), middle, t_eval=np.arange(2, 8.1, 0.5), **options).y
        samples = (batch.doses.kind[:, k] == 0).numpy()
        expected = np.concatenate([first[1], later[1]]) / vc
        np.testing.assert_allclose(found[samples, k], expected, atol=1e-5)


def test_covariates_have_their_distributions():
    covariates = nlme.examples.nonlinear_clearance_design(3000, seed=1).covariates
    assert covariates.AGE.mean() == pytest.approx(55, abs=4 * 10 / np.sqrt(3000))
    assert covariates.AGE.std() == pytest.approx(10, rel=0.06)
    assert covariates.c.mean() == pytest.approx(0.4, abs=4 * 0.2 / np.sqrt(3000))
    assert covariates.W.min() >= 25
    # mean of a normal cut off two standard deviations below
    density, above = np.exp(-2) / np.sqrt(2 * np.pi), 0.9772499
    assert pytest.approx(75 + 25 * density / above, abs=4 * 25 / np.sqrt(3000)) == covariates.W.mean()


@pytest.mark.parametrize("name", ["SaturableWithoutCovariates", "ClearanceNetwork", "ClearanceCovariateNetwork"])
def test_no_amount_is_lost_or_negative_and_gradients_are_finite(name):
    data, model = nlme.examples.nonlinear_clearance_data(3, seed=2), getattr(nlme.examples, name)()
    conditional = Density(model, data.batch(), RK4).at()
    eta = conditional.sample(2, torch.Generator().manual_seed(0)).detach().requires_grad_()
    joint = conditional.log_joint(eta)
    (gradient,) = torch.autograd.grad(joint.sum(), eta)
    assert bool(torch.isfinite(joint).all()) and bool(torch.isfinite(gradient).all())
    assert bool((gradient != 0).flatten(1).any(1).all())
    with torch.no_grad():
        states, solved = conditional.predict(conditional.individual(eta), eta)
    assert bool(solved.all()) and float(states.central.min()) >= 0
    assert float((states.depot + states.central).max()) <= 16.0
