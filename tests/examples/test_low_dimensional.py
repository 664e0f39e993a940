"""The three small studies: closed forms and scipy for the truths, constraints and gradients of the networks."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.special import lambertw

import nlme_torch as nlme
from nlme_torch.model.density.density import Density

RK4 = nlme.RK4(steps=40)  # compiles nothing
SAMPLES = np.array([0, 2.8, 5.5, 10.4, 15.1, 23.6])


def typical(model, output="conc"):
    density = Density(model, nlme.examples.low_dimensional_design(1, output).batch(), RK4)
    with torch.no_grad():
        observed, _ = density.at().observe(torch.zeros(model.n_effects, 1, 1, 1, dtype=torch.float64))
    return observed[output].mean[density.batch.doses.kind[:, 0] == 0, 0, 0, 0].numpy()


def test_the_intravenous_truth_is_lamberts_function():
    vmax, km, c0 = 0.7, 3.0, 100 / 20
    expected = km * lambertw(c0 / km * np.exp((c0 - vmax * SAMPLES) / km)).real
    np.testing.assert_allclose(typical(nlme.examples.IntravenousTruth()), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["OralTruth", "ResponseTruth"])
def test_the_other_truths_are_what_scipy_integrates(name):
    def oral(t, y):
        return [-0.4 * y[0], 0.4 * y[0] - 20 * 0.7 * (y[1] / 20) / (3 + y[1] / 20)]

    def response(t, y):
        return [-0.15 * y[0], 0.3 * (10 * (1 - y[0] / 20 / (1 + y[0] / 20)) - y[1])]

    slopes, start, output = {
        "OralTruth": (oral, [100.0, 0.0], "conc"),
        "ResponseTruth": (response, [100.0, 10.0], "response"),
    }[name]
    found = solve_ivp(slopes, (0, 24), start, t_eval=SAMPLES, rtol=1e-10, atol=1e-12).y[1]
    expected = found / 20 if output == "conc" else found
    np.testing.assert_allclose(typical(getattr(nlme.examples, name)(), output), expected, atol=1e-6)


@pytest.mark.parametrize("study", ["Intravenous", "Oral", "Response"])
def test_every_subject_has_a_network_with_the_stated_shape(study):
    truth, model = (getattr(nlme.examples, study + kind)() for kind in ("Truth", "Network"))
    data = nlme.examples.low_dimensional_data(truth, 4, seed=1)
    assert data.n_observations == 24
    conditional = Density(model, data.batch(), RK4).at()
    eta = conditional.sample(2, torch.Generator().manual_seed(0)).detach().requires_grad_()
    joint = conditional.log_joint(eta)
    (gradient,) = torch.autograd.grad(joint.sum(), eta)
    assert joint.shape == (2, 1, 4) and bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any())
    with torch.no_grad():
        p = conditional.individual(eta)
        levels = torch.linspace(0, 8, 9, dtype=torch.float64)
        values = torch.stack([p.network(torch.full_like(eta[0], float(c))) for c in levels])
    assert values.shape == (9, 2, 1, 4) and float(values[0].abs().max()) == 0.0
    falls = values.diff(dim=0)
    assert bool((falls < 0).all() if study == "Response" else (falls > 0).all())
    assert float(values[-1].std()) > 0, "subjects differ"
