"""The closed-form M-step: exact EM on linear models ends at the maximum likelihood estimate, with priors at the MAP."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import minimize
from support.mixed_linear import MixedLinear, lines_data, simulate_lines
from support.small_models import DOUBLE, Everything, Line, everything_data, number

import nlme_torch as nlme
from nlme_torch.inference.saem.m_step import ClosedForm
from nlme_torch.inference.saem.sufficient_statistics import Statistics
from nlme_torch.model.declare.scalars import all_scalars
from nlme_torch.model.declare.values import free_names, parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.residual_scale import residual_scales


@pytest.fixture(scope="module")
def lines():
    return simulate_lines(subjects=25, seed=5, sigma=0.3)


def natural(model, values):
    """b (without fixed zeros), Omega and sigma as numpy sees them."""
    scalars = {name: value.item() for name, value in all_scalars(model, values).items()}
    covariance = scalars.get("omega_a,b", 0.0)
    omega = np.array([[scalars["omega_a"], covariance], [covariance, scalars["omega_b"]]])
    return np.array([scalars["a"], scalars["b"], scalars["b_x"]]), omega, scalars["sigma"]


def exact_statistics(model, design, values):
    """Expectations of the complete-data statistics given the data, from the exact conditional distributions."""
    b, omega, sigma = natural(model, values)
    means, covariances = design.posterior(b, omega, sigma)
    x = np.array([matrix[0, 2] / matrix[0, 1] for matrix in design.fixed])  # the covariate
    mu = np.stack([np.full(len(x), b[0]), b[1] + b[2] * x])
    first = mu + means
    second = first @ first.T + covariances.sum(-1)
    residual = 0.0
    for n, (y, z) in enumerate(zip(design.responses, design.random, strict=True)):
        residual += np.square(y - z @ first[:, n]).sum() + np.trace(z @ covariances[..., n] @ z.T)
    (block,) = model.blocks
    seconds = {block.name: torch.from_numpy(second)[None]} if block.covariance.free() else {}
    return Statistics(torch.from_numpy(first)[:, None], seconds, {"sigma": number([residual])})


def exact_em(model, lines, iterations):
    frame, design = lines
    density = Density(model, lines_data(frame).batch(), nlme.Tsit5())
    scales = residual_scales(density)
    step = ClosedForm(density, scales)
    values = parameter_values(model)
    for _ in range(iterations):
        found = exact_statistics(model, design, values)
        found = found._replace(residual={name: found.residual[name] for name in scales})
        values = {**values, **step.step(density.at(values), found, 0.0)}
    return values


@pytest.mark.parametrize("full", [False, True])
def test_exact_em_ends_at_the_maximum_likelihood_estimate(lines, full):
    model = Line(full=full)
    b, omega, sigma = natural(model, exact_em(model, lines, 150))
    best = lines[1].maximum(full=full)
    np.testing.assert_allclose(b, best[0], atol=1e-5)
    np.testing.assert_allclose(omega, best[1], atol=1e-5)
    assert sigma == pytest.approx(best[2], abs=1e-5)
    assert lines[1].minus2ll(b, omega, sigma) <= best[3] + 1e-7


def test_every_step_of_exact_em_raises_the_likelihood(lines):
    model, minus2ll = Line(full=True), []
    for iterations in range(0, 12, 2):
        minus2ll.append(lines[1].minus2ll(*natural(model, exact_em(model, lines, iterations))))
    assert all(later < earlier for earlier, later in zip(minus2ll[:-1], minus2ll[1:], strict=True))


def test_correlated_effects_share_information_about_the_means(lines):
    """With a covariate on one parameter only, the means are generalised least squares, not averages by parameter."""
    frame, design = lines
    model = Line(full=True)
    density = Density(model, lines_data(frame).batch(), nlme.Tsit5())
    values = parameter_values(model)
    omega = np.array([[0.5, 0.3], [0.3, 0.4]])
    values["_covariances.ab.factor"] = model.blocks[0].covariance.maximise(torch.from_numpy(omega)[None])["factor"]
    phi = torch.randn(2, 1, 25, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    new = ClosedForm(density, {}).step(
        density.at(values), Statistics(phi, {"ab": torch.eye(2, dtype=DOUBLE)[None] * 100}, {}), 0.0
    )
    x = density.batch.covariates["x"].numpy()
    designs = [np.array([[1.0, 0.0, 0.0], [0.0, 1.0, value]]) for value in x]
    weight = np.linalg.inv(omega)
    information = sum(d.T @ weight @ d for d in designs)
    score = sum(d.T @ weight @ phi[:, 0, n].numpy() for n, d in enumerate(designs))
    expected = np.linalg.solve(information, score)
    found = [new["a.typical"].item(), new["b.typical"].item(), new["b.covariates.x.beta"].item()]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    plain = np.linalg.lstsq(np.column_stack([np.ones(25), x]), phi[1, 0].numpy(), rcond=None)[0]
    assert np.abs(plain[0] - expected[1]) > 1e-3, "the case must tell the two apart"


def test_fixed_values_stay_and_the_rest_adapts_to_them(lines):
    frame, design = lines
    model = Line(
        a=nlme.Normal(2.5, omega=0.5, fixed=True),
        b=nlme.Normal(0.0, nlme.Shift("x", coefficient=0.5, fixed=True), omega=0.5),
    )
    values = exact_em(model, lines, 150)
    assert values["a.typical"].item() == 2.5 and values["b.covariates.x.beta"].item() == 0.5
    shifted = tuple(y - x @ [2.5, 0.0, 0.5] for y, x in zip(design.responses, design.fixed, strict=True))
    rest = MixedLinear(shifted, tuple(x[:, 1:2] for x in design.fixed), design.random)
    b, omega, sigma, _ = rest.maximum()
    found = natural(model, values)
    assert found[0][1] == pytest.approx(b[0], abs=1e-5) and found[2] == pytest.approx(sigma, abs=1e-5)
    np.testing.assert_allclose(found[1], omega, atol=1e-5)


def test_fixed_omega_stays(lines):
    model = Line(a=nlme.Normal(1.0, omega=nlme.Fixed(0.3)), b=nlme.Normal(0.0, nlme.Shift("x"), omega=nlme.Fixed(0.3)))
    values = exact_em(model, lines, 200)
    b, omega, sigma = natural(model, values)
    np.testing.assert_allclose(omega, 0.3 * np.eye(2), rtol=1e-14)
    best = minimize(
        lambda s: lines[1].minus2ll(lines[1].gls(omega, math.exp(s[0])), omega, math.exp(s[0])),
        [-1.0],
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-11},
    )
    assert sigma == pytest.approx(math.exp(best.x[0]), abs=1e-6)
    np.testing.assert_allclose(b, lines[1].gls(omega, sigma), atol=1e-6)


def test_scalar_omega_is_the_mean_variance(lines):
    class Common(Line):
        def __init__(self):
            super().__init__()
            self.pair = nlme.Omega("a", "b", structure=nlme.Scalar(0.5))

    model = Common()
    b, omega, sigma = natural(model, exact_em(model, lines, 150))
    assert omega[0, 0] == pytest.approx(omega[1, 1], rel=1e-12)

    def objective(vector):
        omega = math.exp(vector[0]) * np.eye(2)
        return lines[1].minus2ll(lines[1].gls(omega, math.exp(vector[1])), omega, math.exp(vector[1]))

    best = minimize(objective, [-1.0, -1.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-11})
    assert omega[0, 0] == pytest.approx(math.exp(best.x[0]), abs=1e-5) and sigma == pytest.approx(
        math.exp(best.x[1]), abs=1e-5
    )


PRIORS = {
    "normal": (dist.Normal(number(3.0), number(0.05)), lambda a: -0.5 * ((a - 3.0) / 0.05) ** 2),
    "student": (
        dist.StudentT(number(3.0), number(3.0), number(0.02)),
        lambda a: -2 * np.log1p(((a - 3.0) / 0.02) ** 2 / 3),
    ),
    "ridge": (nlme.L2(40.0), lambda a: -40 * a**2),
    "lasso": (nlme.L1(30.0), lambda a: -30 * abs(a)),
}


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_on_a_typical_value_gives_the_map(lines, name):
    prior, log_prior = PRIORS[name]
    model = Line(a=nlme.Normal(2.0, omega=1.0, prior=prior))
    b, omega, sigma = natural(model, exact_em(model, lines, 150))

    def objective(vector):
        return 0.5 * lines[1].minus2ll(
            np.array(vector[:3]), np.diag(np.exp(vector[3:5])), math.exp(vector[5])
        ) - log_prior(vector[0])

    start = np.concatenate([b, np.log(np.diag(omega)), [math.log(sigma)]])
    best = minimize(
        objective, start, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10, "maxiter": 8000, "maxfev": 8000}
    )
    assert objective(start) <= best.fun + 1e-6
    assert abs(b[0] - lines[1].maximum()[0][0]) > 0.01, "the prior must matter"


def test_a_lasso_strong_enough_sets_the_typical_value_to_zero(lines):
    model = Line(a=nlme.Normal(2.0, omega=1.0, prior=nlme.L1(3000.0)))
    b, _, _ = natural(model, exact_em(model, lines, 40))
    assert abs(b[0]) < 1e-6


def test_a_prior_on_the_residual_scale_gives_its_map(lines):
    model = Line(sigma=nlme.Positive(0.5, prior=dist.LogNormal(number(math.log(0.2)), number(0.02))))
    b, omega, sigma = natural(model, exact_em(model, lines, 150))

    def objective(vector):
        omega, sigma = np.diag(np.exp(vector[:2])), math.exp(vector[2])
        prior = -math.log(sigma) - 0.5 * ((math.log(sigma) - math.log(0.2)) / 0.02) ** 2
        return 0.5 * lines[1].minus2ll(lines[1].gls(omega, sigma), omega, sigma) - prior

    best = minimize(
        objective, [-1.0, -1.0, -1.5], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-11, "maxiter": 4000}
    )
    assert sigma == pytest.approx(math.exp(best.x[2]), rel=1e-5)
    np.testing.assert_allclose(np.diag(omega), np.exp(best.x[:2]), rtol=1e-4)


# ------------------------------------------------------------------ weights, starts, annealing


def test_population_weights_are_the_mean_of_the_subjects_weights_and_shrink_under_a_ridge():
    class Weights(nlme.Model):
        def __init__(self, prior=None):
            super().__init__()
            self.net = nlme.RandomWeights(nlme.MLP(1, 2, 1, prior=prior), omega=nlme.Diagonal(0.5))
            self.sigma = nlme.Positive(0.3)

        def predict(self, t, p, cov):
            return p.net(t)

        def observe(self, t, y, p):
            return {"yPD": dist.Normal(y, p.sigma)}

    frame = everything_data().frame.drop(columns="yPK").assign(yPD=1.0)
    data = nlme.Dataset.from_frame(frame, outputs=["yPD"], covariates=["WT"])
    phi = torch.randn(7, 1, 5, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    for prior, ridge in ((None, 0.0), (nlme.L2(3.0), 3.0)):
        model = Weights(prior)
        density = Density(model, data.batch(), nlme.Tsit5())
        found = ClosedForm(density, {}).step(
            density.at(), Statistics(phi, {"net": torch.eye(7, dtype=DOUBLE)[None] * 50}, {}), 0.0
        )
        # maximise -sum_i (phi_i - w)^2 / (2 omega) - ridge w^2
        expected = phi[:, 0].sum(-1) / 0.5 / (5 / 0.5 + 2 * ridge)
        torch.testing.assert_close(found["net.network.weights"][0], expected, rtol=1e-8, atol=1e-10)


def test_starts_are_maximised_apart(lines):
    frame, design = lines
    model = Line(full=True)
    density = Density(model, lines_data(frame).batch(), nlme.Tsit5())
    step = ClosedForm(density, {"sigma": ("DV",)})
    generator = torch.Generator().manual_seed(0)
    values = {
        k: v + 0.1 * torch.randn(v.shape, generator=generator, dtype=DOUBLE)
        for k, v in parameter_values(model, starts=3).items()
    }
    phi = torch.randn(2, 3, 25, generator=generator, dtype=DOUBLE)
    second = torch.einsum("isn,jsn->sij", phi, phi) + 5 * torch.eye(2, dtype=DOUBLE)
    together = step.step(density.at(values), Statistics(phi, {"ab": second}, {"sigma": number([1.0, 2.0, 3.0])}), 0.9)
    for start in range(3):
        alone = step.step(
            density.at({k: v[start : start + 1] for k, v in values.items()}),
            Statistics(phi[:, start : start + 1], {"ab": second[start : start + 1]}, {"sigma": number([1.0 + start])}),
            0.9,
        )
        for name, value in alone.items():
            torch.testing.assert_close(together[name][start], value[0], rtol=1e-10, atol=1e-12)


def test_annealing_bounds_the_fall_of_every_variance_and_nothing_else(lines):
    frame, design = lines
    model = Line(full=True)
    density = Density(model, lines_data(frame).batch(), nlme.Tsit5())
    step = ClosedForm(density, {"sigma": ("DV",)})
    conditional = density.at()  # Omega = I, sigma = 1
    n = density.batch.n_observations
    phi = torch.zeros(2, 1, 25, dtype=DOUBLE)
    # mean (0, 0); second moment per subject: a large variance, a tiny one, correlation 0.8
    tiny, large = 1e-4, 4.0
    moment = torch.tensor([[large, 0.8 * math.sqrt(large * tiny)], [0.8 * math.sqrt(large * tiny), tiny]], dtype=DOUBLE)
    found = step.step(conditional, Statistics(phi, {"ab": 25 * moment[None]}, {"sigma": number([1e-6 * n])}), 0.97)
    omega = model.blocks[0].covariance.matrix({"factor": found["_covariances.ab.factor"]})[0]
    torch.testing.assert_close(omega.diagonal(), number([large, 0.97]), rtol=1e-10, atol=0)
    assert (omega[0, 1] / omega.diagonal().prod().sqrt()).item() == pytest.approx(0.8, rel=1e-8)
    assert found["sigma.unconstrained"].exp().square().item() == pytest.approx(0.97, rel=1e-12)
    free = step.step(conditional, Statistics(phi, {"ab": 25 * moment[None]}, {"sigma": number([1e-6 * n])}), 0.0)
    omega = model.blocks[0].covariance.matrix({"factor": free["_covariances.ab.factor"]})[0]
    torch.testing.assert_close(omega, moment, rtol=1e-8, atol=1e-12)
    assert free["sigma.unconstrained"].exp().square().item() == pytest.approx(1e-6, rel=1e-10)


def test_what_has_a_closed_form_is_declared_and_the_rest_is_left():
    model = Everything()
    density = Density(model, everything_data().batch(), nlme.RK4(4, compile=False))
    covered = ClosedForm(density, residual_scales(density)).covered()
    left = set(free_names(model)) - covered
    assert left == {
        "kout.unconstrained",
        "power.unconstrained",
        "shift.unconstrained",
        "drive.weights",
        "loss.network.weights",
        "loss.loading",
    }


def test_effects_that_the_data_cannot_tell_apart_are_refused(lines):
    frame, _ = lines
    data = nlme.Dataset.from_frame(frame.assign(same=1.0), covariates=["x", "same"])
    model = Line(b=nlme.Normal(0.0, nlme.Shift("same"), nlme.Shift("x")))
    density = Density(model, data.batch(), nlme.Tsit5())
    with pytest.raises(nlme.ModelError, match="'b'.*cannot be told apart.*same"):
        ClosedForm(density, {})
    fixed = Line(b=nlme.Normal(0.0, nlme.Shift("same", fixed=True), nlme.Shift("x")))
    ClosedForm(Density(fixed, data.batch(), nlme.Tsit5()), {})
