"""The indirect-response truth against scipy, and the rungs of the ladder."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import nlme_torch as nlme
from nlme_torch.model.declare.values import free_names, parameter_values
from nlme_torch.model.density.density import Density

DOUBLE = torch.float64
RK4 = nlme.RK4(steps=4, compile=False)
RUNGS = (
    "NeuralODE", "GraphNeuralODE", "UniversalODE", "TargetedNetwork", "DeepNLME", "IndividualNetwork",
    "IndividualWeights", "IndividualResponse",
)  # fmt: skip


def by_scipy(second, eta):
    """Concentration and response of one subject at 0, 1, ..., 24 h, integrated from dose to dose."""
    smax, sc50, ka, vc, kout = np.array([2.9, 0.05, 0.5, 1.0, 2.2]) * np.exp(eta)
    cl, kin, n = 1.0, 0.8, 1.5

    def slopes(t, y):
        c = max(y[1] / vc, 0.0)
        effect = smax * c**n / (sc50**n + c**n)
        return [-ka * y[0], ka * y[0] - cl * c, kin * (1 + effect) - kout * y[2]]

    def run(start, stop, state):
        times = np.unique([start, *(h for h in range(25) if start <= h <= stop), stop])
        found = solve_ivp(slopes, (start, stop), state, method="LSODA", rtol=1e-10, atol=1e-12, t_eval=times)
        return found.t, found.y

    t1, y1 = run(0.0, second, [1.0, 0.0, kin / kout])
    t2, y2 = run(second, 24.0, y1[:, -1] + [1.0, 0.0, 0.0])
    hours = np.concatenate([y1[:, [t in range(25) for t in t1]], y2[:, [t in range(25) for t in t2]]], 1)
    return hours[1] / vc, hours[2]


def test_the_truth_is_what_scipy_integrates_plus_its_errors():
    design = nlme.examples.indirect_response_design(40, seed=5)
    eta = 0.3 * torch.randn(5, 40, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
    frame = nlme.simulate(nlme.examples.IndirectResponse(), design, seed=1, eta=eta).frame
    doses, seen = frame[frame.AMT > 0], frame[frame.AMT == 0]
    errors = {"yPK": [], "yPD": []}
    for k, (_, own) in enumerate(seen.groupby("ID")):
        second = float(doses[own.ID.iloc[0] == doses.ID].TIME.iloc[1])
        for name, values in zip(errors, by_scipy(second, eta[:, k].numpy()), strict=True):
            errors[name].append(own[name].to_numpy() - values)
    pk, pd = np.concatenate(errors["yPK"]), np.concatenate(errors["yPD"])
    # 1000 errors: standard deviations within four of their standard errors, 2.2 %
    assert abs(pk.mean()) < 4 * 0.02 / np.sqrt(1000) and pk.std() == pytest.approx(0.02, rel=0.09)
    assert abs(pd.mean()) < 4 * 0.1 / np.sqrt(1000) and pd.std() == pytest.approx(0.1, rel=0.09)


def test_the_population_has_the_stated_moments():
    frame = nlme.examples.indirect_response_data(3000, seed=7).frame
    second = frame[frame.AMT > 0].groupby("ID").TIME.max()
    assert second.mean() == pytest.approx(5.0, abs=4 * np.sqrt(25 / 40 / 3000))
    assert second.var() == pytest.approx(25 / 40, rel=0.12)
    rest = frame[(frame.AMT == 0) & (frame.TIME == 0)].yPD
    # R(0) = Kin / Kout is log-normal with omega^2 = 0.1, observed with sigma = 0.1
    mean, square = 0.8 / 2.2 * np.exp(0.05), (0.8 / 2.2) ** 2 * np.exp(0.1) * np.expm1(0.1)
    assert rest.mean() == pytest.approx(mean, abs=4 * np.sqrt((square + 0.01) / 3000))
    assert rest.var() == pytest.approx(square + 0.01, rel=0.12)
    assert frame.groupby("ID").size().eq(27).all()


def test_the_graph_model_conserves_mass():
    model, data = nlme.examples.GraphNeuralODE(), nlme.examples.indirect_response_data(3, seed=1)
    with torch.no_grad():
        model.elimination.weights.fill_(-60.0)  # softplus of it is the size of a weight
    density = Density(model, data.batch(), nlme.Tsit5(rtol=1e-9, atol=1e-11))
    eta = torch.zeros(0, 1, 1, 3, dtype=DOUBLE)
    conditional = density.at()
    states, solved = conditional.predict(conditional.individual(eta), eta)
    batch = density.batch
    given = torch.where(batch.doses.amount > 0, batch.doses.amount, 0.0).cumsum(0)
    assert bool(solved.all()) and float(states.depot[-1].min()) < 1.0, "something has been absorbed"
    mass = (states.depot + states.central)[:, 0, 0]
    torch.testing.assert_close(mass[batch.record_mask], given[batch.record_mask], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", RUNGS)
def test_every_rung_has_a_finite_log_joint_with_gradients(name):
    model, data = getattr(nlme.examples, name)(), nlme.examples.indirect_response_data(3, seed=1)
    density = Density(nlme.scale_networks(model, data, RK4), data.batch(), RK4)
    values = {key: value.requires_grad_() for key, value in parameter_values(model).items()}
    conditional = density.at(values)
    eta = 0.5 * conditional.sample(2, torch.Generator().manual_seed(0)).detach()
    joint = conditional.log_joint(eta)
    assert joint.shape == (2, 1, 3) and bool(torch.isfinite(joint).all())
    names = free_names(model)
    gradients = torch.autograd.grad(joint.sum(), [values[key] for key in names])
    for key, gradient in zip(names, gradients, strict=True):
        assert bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any()), key
