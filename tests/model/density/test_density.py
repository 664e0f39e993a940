"""The log joint density against loops over subjects in numpy and scipy, and what padding, starts
and failures may not do."""

import math

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.integrate import solve_ivp
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import DOUBLE, Everything, Line, everything_data, number

import nlme_torch as nlme
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.observed import observed_records

TIGHT = nlme.Tsit5(rtol=1e-10, atol=1e-12, compile=False)
COARSE = nlme.Tsit5(rtol=1e-3, atol=1e-5, compile=False)  # where both sides take the same steps


def joined(model, data, solver=TIGHT):
    return Density(model, data.batch(), solver)


def draw(*shape, seed=0, scale=0.5):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


# ------------------------------------------------------------------ the linear Gaussian model


@pytest.fixture(scope="module")
def lines():
    return simulate_lines(subjects=7, seed=1)


def with_values(model, b, omega, sigma):
    """The model's raw values at natural ones: b = (intercept, slope, coefficient), Omega (2, 2), sigma."""
    values = parameter_values(model)
    (block,) = model.blocks
    values |= {
        f"_covariances.{block.name}.{k}": v for k, v in block.covariance.maximise(torch.as_tensor(omega)[None]).items()
    }
    values["a.typical"], values["b.typical"] = number([b[0]]), number([b[1]])
    values["b.covariates.x.beta"], values["sigma.unconstrained"] = number([b[2]]), number([math.log(sigma)])
    return values


B, SIGMA = (1.7, -0.4, 0.3), 0.6
FULL_OMEGA = np.array([[0.5, 0.2], [0.2, 0.3]])


@pytest.mark.parametrize("full", [False, True])
def test_log_joint_of_a_linear_model_by_a_loop(lines, full):
    frame, design = lines
    omega = FULL_OMEGA if full else np.diag(np.diag(FULL_OMEGA))
    model = Line(full=full)
    conditional = joined(model, lines_data(frame)).at(with_values(model, B, omega, SIGMA))
    eta = draw(2, 3, 1, 7)
    value = conditional.log_joint(eta)
    assert value.shape == (3, 1, 7)
    for chain in range(3):
        for subject in range(7):
            effects = eta[:, chain, 0, subject].numpy()
            mean = design.fixed[subject] @ B + design.random[subject] @ effects
            expected = stats.norm(mean, SIGMA).logpdf(design.responses[subject]).sum()
            torch.testing.assert_close(
                conditional.log_likelihood(eta)[chain, 0, subject].item(), expected, rtol=1e-12, atol=1e-12
            )
            expected += stats.multivariate_normal(np.zeros(2), omega).logpdf(effects)
            assert value[chain, 0, subject].item() == pytest.approx(expected, rel=1e-12)


def test_the_oracle_by_cross_products_is_the_textbook_one(lines):
    _, design = lines
    dense = -2 * sum(design.log_marginal(np.array(B), FULL_OMEGA, SIGMA))
    assert design.minus2ll(np.array(B), FULL_OMEGA, SIGMA) == pytest.approx(dense, rel=1e-12)
    best = design.gls(FULL_OMEGA, SIGMA)
    for direction in np.eye(3):
        assert -2 * sum(design.log_marginal(best + 1e-3 * direction, FULL_OMEGA, SIGMA)) > design.minus2ll(
            best, FULL_OMEGA, SIGMA
        )


@pytest.mark.parametrize("full", [False, True])
def test_joint_over_posterior_is_the_exact_marginal(lines, full):
    """log p(y, eta) - log p(eta | y) = log p(y) at every eta: the whole density at once, constants included."""
    frame, design = lines
    omega = FULL_OMEGA if full else np.diag(np.diag(FULL_OMEGA))
    model = Line(full=full)
    conditional = joined(model, lines_data(frame)).at(with_values(model, B, omega, SIGMA))
    means, covariances = design.posterior(np.array(B), omega, SIGMA)
    eta = torch.from_numpy(means)[:, None, None] + draw(2, 4, 1, 7, seed=3)
    joint = conditional.log_joint(eta)[:, 0].numpy()
    for subject in range(7):
        posterior = stats.multivariate_normal(means[:, subject], covariances[..., subject])
        marginal = joint[:, subject] - posterior.logpdf(eta[:, :, 0, subject].numpy().T)
        exact = design.log_marginal(np.array(B), omega, SIGMA)[subject]
        np.testing.assert_allclose(marginal, exact, rtol=1e-11)


# ------------------------------------------------------------------ everything at once, independently


def scipy_log_joint(model, data, eta):
    """The model of small_models.Everything once more, for one subject at a time, without any of the library."""
    frame, values = data.frame, {k: v.detach().numpy() for k, v in model.named_parameters()}
    softplus = lambda x: np.logaddexp(0, x)  # noqa: E731

    def mlp(weights, sizes, *inputs):
        hidden, start = np.array(inputs), 0
        for layer, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            matrix = weights[start : start + n_in * n_out].reshape(n_out, n_in)
            start += n_in * n_out
            hidden = matrix @ hidden + weights[start : start + n_out]
            start += n_out
            hidden = np.tanh(hidden) if layer < len(sizes) - 2 else hidden
        return hidden[0]

    result = []
    for index, subject in enumerate(data.subjects):
        rows = frame[subject == frame.ID]
        wt = rows.WT.iloc[0]
        e = dict(zip(model.effect_labels, eta[:, index].tolist(), strict=True))
        ka = np.exp(values["ka.typical"] + e["eta_ka"])
        cl = np.exp(values["cl.typical"] + values["cl.covariates.WT.beta"] * np.log(wt / 70) + e["eta_cl"])
        v = values["v.typical"] + values["v.covariates.WT.beta"] * (wt - 70) + e["eta_v"]
        f = 1 / (1 + np.exp(-values["f.typical"] - e["eta_f"]))
        kout, power = np.exp(values["kout.unconstrained"]), 0.2 + 1.8 / (1 + np.exp(-values["power.unconstrained"]))
        z = [e["z[0]"], e["z[1]"]]
        uptake = values["uptake.network.weights"] + np.array(
            [e[n] for n in model.effect_labels if n.startswith("uptake.")]
        )
        loading = np.zeros((7, 2))
        loading[np.tril_indices(7, 0, 2)] = values["loss.loading"]
        loss = values["loss.network.weights"] + loading @ [e["loss.z[0]"], e["loss.z[1]"]]

        def slope(t, y, ka=ka, cl=cl, v=v, kout=kout, z=z, uptake=uptake, loss=loss, wt=wt):
            absorbed = ka * softplus(mlp(uptake, (1, 2, 1), t / 5)) * y[0]
            lost = cl / v * softplus(1 + mlp(loss, (1, 2, 1), y[1])) * y[1]
            drive = mlp(values["drive.weights"], (3, 2, 1), y[1] / v, *z)
            return [-absorbed, absorbed - lost, kout * (1 + wt / 70 * drive - y[2])]

        times = rows.TIME.to_numpy()
        start = [values["dose.unconstrained"] * f, 0.0, 1 + 0.1 * z[0]]
        states = solve_ivp(slope, (times[0], times[-1]), start, t_eval=times, rtol=1e-11, atol=1e-12, method="DOP853").y
        pk_mean = np.log(states[1] / v + 0.05) * power + values["shift.unconstrained"]
        sd_pk, sd_pd = np.exp(values["sigma_pk.unconstrained"]), np.exp(values["sigma_pd.unconstrained"])
        pk, pd_ = rows.yPK.to_numpy(float), rows.yPD.to_numpy(float)
        total = np.nansum(stats.lognorm(sd_pk, scale=np.exp(pk_mean)).logpdf(pk))
        total += np.nansum(stats.norm(states[2], sd_pd).logpdf(pd_))
        variances = {"eta_ka": 0.2, "eta_f": 0.1}
        for label, effect in e.items():
            if label in ("eta_cl", "eta_v"):
                continue
            total += stats.norm(0, np.sqrt(variances.get(label, 0.05 if label.startswith("uptake.") else 1.0))).logpdf(
                effect
            )
        covariance = model.blocks[0].covariance.current().numpy()
        total += stats.multivariate_normal([0, 0], covariance).logpdf([e["eta_cl"], e["eta_v"]])
        result.append(total)
    return result


@pytest.fixture(scope="module")
def everything():
    model = Everything()
    with torch.no_grad():
        model.get_parameter("_covariances.disposition.factor")[1] = 0.15  # correlated
        model.loss.loading[:] = torch.linspace(-0.3, 0.4, 13)
    return model, everything_data()


def test_every_kind_of_component_by_scipy(everything):
    model, data = everything
    eta = draw(model.n_effects, 1, 1, data.n_subjects, scale=0.4)
    value = joined(model, data).at().log_joint(eta)[0, 0]
    np.testing.assert_allclose(value.numpy(), scipy_log_joint(model, data, eta[:, 0, 0]), rtol=1e-8)


def test_subjects_do_not_see_each_other(everything):
    """Alone, without padding and without the others: the same numbers."""
    model, data = everything
    eta = draw(model.n_effects, 2, 1, data.n_subjects)
    together = joined(model, data, COARSE).at().log_joint(eta)
    for index, subject in enumerate(data.subjects):
        alone = joined(model, data.subset([subject]), COARSE).at().log_joint(eta[..., index : index + 1])
        torch.testing.assert_close(alone[..., 0], together[..., index], rtol=1e-12, atol=1e-12)


def test_starts_and_chains_are_separate_evaluations(everything):
    model, data = everything
    density = joined(model, data, COARSE)
    values = {
        name: value + draw(*value.shape, seed=5, scale=0.1) for name, value in parameter_values(model, starts=3).items()
    }
    eta = draw(model.n_effects, 2, 3, data.n_subjects, seed=6)
    whole = density.at(values)
    for start in range(3):
        alone = density.at({name: value[start : start + 1] for name, value in values.items()})
        torch.testing.assert_close(
            whole.log_joint(eta)[:, start], alone.log_joint(eta[:, :, start : start + 1])[:, 0], rtol=1e-11, atol=1e-11
        )
        torch.testing.assert_close(
            density.log_prior(values)[start], density.log_prior(alone.values)[0], rtol=1e-12, atol=0
        )
        torch.testing.assert_close(whole.covariance()[start], alone.covariance()[0])
    for chain in range(2):
        torch.testing.assert_close(
            whole.log_joint(eta)[chain], whole.log_joint(eta[:, chain : chain + 1])[0], rtol=1e-11, atol=1e-11
        )


def test_log_prior_is_the_sum_over_estimated_parameters(everything):
    model, data = everything
    expected = (
        stats.lognorm(1.0).logpdf(1.2)
        + stats.gamma(2, scale=1 / 3).logpdf(0.5)
        + stats.laplace(0, 0.5).logpdf(0.1)
        + stats.lognorm(0.5).logpdf(0.3)
        + stats.norm(0, math.sqrt(0.5)).logpdf(model.drive.weights.detach()).sum()
        + stats.norm(0, 1.0).logpdf(model.uptake.network.weights.detach()).sum()
    )
    assert joined(model, data, COARSE).log_prior(parameter_values(model))[0].item() == pytest.approx(
        expected, rel=1e-12
    )


def test_the_prior_of_a_fixed_parameter_is_no_part_of_the_objective(lines):
    frame, _ = lines
    model = Line(sigma=nlme.Positive(0.5, prior=dist.LogNormal(0.0, 1.0), fixed=True))
    assert joined(model, lines_data(frame)).log_prior(parameter_values(model)).tolist() == [0.0]


# ------------------------------------------------------------------ random effects


def test_draws_are_coloured_by_every_block(everything):
    model, data = everything
    values = parameter_values(model, starts=2)
    values["_covariances.uptake.log_sd"][1] += 0.7
    conditional = joined(model, data, COARSE).at(values)
    noise = draw(model.n_effects, 2, 2, data.n_subjects, scale=1.0)
    coloured = conditional.colour(noise)
    for start, covariance in enumerate(conditional.covariance()):
        expected = torch.einsum("ij,jcn->icn", torch.linalg.cholesky(covariance), noise[:, :, start])
        torch.testing.assert_close(coloured[:, :, start], expected, rtol=1e-12, atol=1e-14)


def test_sampled_effects_follow_omega_and_the_generator(lines):
    frame, _ = lines
    model = Line(full=True)
    conditional = joined(model, lines_data(frame)).at(with_values(model, B, FULL_OMEGA, SIGMA))
    eta = conditional.sample(4000, torch.Generator().manual_seed(1))
    assert eta.shape == (2, 4000, 1, 7)
    flat = eta.reshape(2, -1)
    np.testing.assert_allclose((flat @ flat.mT / flat.shape[1]).numpy(), FULL_OMEGA, atol=5 * 0.5 / np.sqrt(28000))
    assert torch.equal(eta, conditional.sample(4000, torch.Generator().manual_seed(1)))


# ------------------------------------------------------------------ observed records


def test_unobserved_records_are_shown_observed_ones(everything):
    _, data = everything
    batch = data.batch()
    groups = observed_records(batch)
    assert [tuple(group.values) for group in groups] == [("yPK",), ("yPD",)]
    for group in groups:
        (name,) = group.values
        outcome = batch.outcomes[name]
        shown = group.take(batch.times)
        assert torch.equal(shown[outcome.mask], batch.times[outcome.mask])
        for subject in range(batch.n_subjects):
            seen = outcome.mask[:, subject]
            if seen.any():
                assert set(shown[:, subject].tolist()) <= set(batch.times[seen, subject].tolist())
                assert set(group.values[name][:, subject].tolist()) <= set(outcome.value[seen, subject].tolist())
    assert (groups[0].values["yPK"] > 0).all(), "a log-normal outcome has no value at 0"


def test_a_fully_observed_table_needs_no_gathering(theophylline):
    (group,) = observed_records(theophylline.batch())
    assert group.index is None and torch.equal(group.values["conc"], theophylline.batch().outcomes["conc"].value)


class Proportional(nlme.Model):
    """Spread zero at time 0 and values that a log-normal cannot have on padding: masked densities with
    NaN gradients."""

    def __init__(self):
        super().__init__()
        self.k = nlme.LogNormal(0.5)
        self.sigma, self.tau = nlme.Positive(0.3), nlme.Positive(0.2)

    def predict(self, t, p, cov):
        return t * torch.exp(-p.k * t)

    def observe(self, t, y, p):
        return {"y": dist.Normal(y, p.sigma * y), "w": dist.LogNormal(y.log(), p.tau)}


class ProportionalODE(Proportional):
    states = ("a", "b")
    predict = nlme.Model.predict

    def initial(self, p):
        return 1.0, 0.0

    def dynamics(self, t, y, p):
        return -p.k * y.a, y.a - p.k * y.b

    def observe(self, t, y, p):
        return super().observe(t, y.b, p)


@pytest.mark.parametrize("kind", [Proportional, ProportionalODE])
def test_gradients_survive_error_models_that_are_degenerate_where_nothing_was_observed(kind):
    rows = [(1, 0.0, None, None), (1, 1.0, 0.5, None), (1, 2.0, None, 0.7), (2, 0.0, None, None), (2, 3.0, 0.6, None)]
    frame = pd.DataFrame(rows, columns=["ID", "TIME", "y", "w"])
    density = joined(kind(), nlme.Dataset.from_frame(frame, outputs=["y", "w"]))
    eta = draw(1, 1, 1, 2).requires_grad_()
    raw = parameter_values(density.model)
    leaves = {name: value.requires_grad_() for name, value in raw.items()}
    value = density.at(leaves).log_joint(eta)
    gradients = torch.autograd.grad(value.sum(), [eta, *leaves.values()])
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    step = 1e-5
    with torch.no_grad():
        numeric = (density.at().log_joint(eta + step) - density.at().log_joint(eta - step)) / (2 * step)
    torch.testing.assert_close(gradients[0][0], numeric, rtol=1e-6, atol=1e-7)
    f = np.array([1.0, 2.0, 3.0]) * np.exp(
        -0.5 * np.exp(eta[0, 0, 0, [0, 0, 1]].detach().numpy()) * np.array([1.0, 2.0, 3.0])
    )
    expected = [
        stats.norm(f[0], 0.3 * f[0]).logpdf(0.5) + stats.lognorm(0.2, scale=f[1]).logpdf(0.7),
        stats.norm(f[2], 0.3 * f[2]).logpdf(0.6),
    ]
    prior = stats.norm(0, math.sqrt(0.2)).logpdf(eta[0, 0, 0].detach().numpy())
    np.testing.assert_allclose(value[0, 0].detach().numpy(), expected + prior, rtol=1e-8)


# ------------------------------------------------------------------ failures


class Explosive(nlme.Model):
    """dx/dt = g x^2 reaches infinity at t = 1/g: subjects with a large g cannot be solved."""

    states = ("x",)

    def __init__(self):
        super().__init__()
        self.g = nlme.LogNormal(0.1)
        self.slope = nlme.Real(1.0)
        self.sigma = nlme.Positive(0.5)

    def initial(self, p):
        return (1.0,)

    def dynamics(self, t, y, p):
        return (p.g * y.x**2 * p.slope,)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.x, p.sigma)}


@pytest.mark.parametrize(
    "solver", [nlme.Tsit5(compile=False), nlme.TorchDiffEq(), nlme.TorchDiffEq(adjoint="continuous")], ids=str
)
def test_a_subject_that_cannot_be_solved_changes_nothing_for_the_others(solver):
    frame = pd.DataFrame(
        {"ID": np.repeat([1, 2, 3], 3), "TIME": np.tile([0.0, 1.0, 2.0], 3), "DV": np.tile([1.0, 1.2, 1.4], 3)}
    )
    data = nlme.Dataset.from_frame(frame)

    def evaluate(density, eta):
        eta = eta.clone().requires_grad_()
        values = {k: v.requires_grad_() for k, v in parameter_values(density.model).items()}
        value = density.at(values).log_joint(eta)
        usable = torch.where(torch.isfinite(value), value, 0.0)
        return value.detach(), torch.autograd.grad(usable.sum(), [eta, *values.values()])

    eta = number([0.1, 5.0, -0.2]).reshape(1, 1, 1, 3)
    value, gradients = evaluate(joined(Explosive(), data, solver), eta)
    assert value[0, 0, 1] == -math.inf
    kept = torch.tensor([0, 2])
    alone, expected = evaluate(joined(Explosive(), data.subset([1, 3]), solver), eta[..., kept])
    torch.testing.assert_close(value[..., kept], alone, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients[0][..., kept], expected[0], rtol=1e-4, atol=1e-5)
    assert gradients[0][0, 0, 0, 1] == 0
    for one, other in zip(gradients[1:], expected[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_an_observation_that_cannot_be_is_minus_infinity_not_an_exception(theophylline):
    model = nlme.examples.TheophyllineClosedForm()
    density = joined(model, theophylline)
    eta = torch.zeros(3, 2, 1, 12, dtype=DOUBLE)
    eta[0, 0, 0, 4] = 2000.0  # ka overflows
    value = density.at().log_joint(eta)
    assert value[0, 0, 4] == -math.inf and torch.isfinite(value[1]).all()
    others = [index for index in range(12) if index != 4]
    torch.testing.assert_close(value[0, 0, others], value[1, 0, others], rtol=1e-14, atol=0)


# ------------------------------------------------------------------ theophylline


def test_theophylline_closed_form_and_equation_agree(theophylline):
    closed = joined(nlme.examples.TheophyllineClosedForm(), theophylline)
    eta = draw(3, 3, 1, 12, scale=0.4)
    expected = closed.at().log_joint(eta)
    for solver in (TIGHT, nlme.TorchDiffEq(rtol=1e-10, atol=1e-12)):
        value = joined(nlme.examples.TheophyllineClassical(), theophylline, solver).at().log_joint(eta)
        torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-8)


def test_theophylline_closed_form_by_the_textbook_formula(theophylline):
    eta = draw(3, 1, 1, 12, scale=0.4)
    value = joined(nlme.examples.TheophyllineClosedForm(), theophylline).at().log_joint(eta)[0, 0]
    frame = theophylline.frame
    for index, subject in enumerate(theophylline.subjects):
        rows = frame[frame.Subject == subject]
        ka, cl, v = np.array([1.5, 2.7, 32.0]) * np.exp(eta[:, 0, 0, index].numpy())
        dose, t, k = rows.Wt.iloc[0] * rows.Dose.iloc[0], rows.Time.to_numpy(), cl / v
        f = dose * ka / (v * (ka - k)) * (np.exp(-k * t) - np.exp(-ka * t))
        expected = stats.norm(f, 1.0).logpdf(rows.conc).sum()
        expected += stats.norm(0, np.sqrt([0.4, 0.1, 0.1])).logpdf(eta[:, 0, 0, index].numpy()).sum()
        assert value[index].item() == pytest.approx(expected, rel=1e-11)


def test_theophylline_closed_form_where_the_two_rates_meet(theophylline):
    """Flip-flop: ka = CL / V is a removable singularity, in value and in gradient."""
    density = joined(nlme.examples.TheophyllineClosedForm(), theophylline)
    meet = math.log(2.7 / 32.0 / 1.5)
    steps = number([-1e-3, -1e-9, 0.0, 1e-9, 1e-3])
    eta = torch.zeros(3, 5, 1, 12, dtype=DOUBLE)
    eta[0] = (meet + steps)[:, None, None]
    eta.requires_grad_()
    value = density.at().log_joint(eta)
    (gradient,) = torch.autograd.grad(value.sum(), eta)
    assert torch.isfinite(gradient).all()
    torch.testing.assert_close(value[2], value[1], rtol=1e-7, atol=1e-7)
    slope = (value[4] - value[0]) / 2e-3
    torch.testing.assert_close(gradient[0, 2], slope.detach(), rtol=1e-4, atol=1e-4)


def test_theophylline_hybrid_nests_the_classical_model(theophylline):
    """All weights zero but the output bias: absorption is exp(bias), a log-normal ka."""
    hybrid = nlme.examples.TheophyllineHybrid()
    with torch.no_grad():
        hybrid.absorption.network.weights.zero_()
        hybrid.absorption.network.weights[-1] = math.log(1.5)
    eta = draw(3, 2, 1, 12, scale=0.4)
    wide = torch.zeros(hybrid.n_effects, 2, 1, 12, dtype=DOUBLE)
    labels = list(hybrid.effect_labels)
    for position, label in enumerate(("absorption.b2[0]", "eta_cl", "eta_v")):
        wide[labels.index(label)] = eta[position]
    value = joined(hybrid, theophylline).at().log_likelihood(wide)
    expected = joined(nlme.examples.TheophyllineClosedForm(), theophylline).at().log_likelihood(eta)
    torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-8)


def test_a_model_whose_effects_are_all_standard_has_a_mean_for_every_start(lines):
    """Latents and low-rank weights have no typical value to take the number of starts from."""

    class Latents(nlme.Model):
        def __init__(self):
            super().__init__()
            self.net = nlme.RandomWeights(nlme.MLP(1, 1), nlme.LowRank(1))
            self.z = nlme.Latent(1)
            self.sigma = nlme.Positive(1.0)

        def predict(self, t, p, cov):
            return p.net(t) + p.z

        def observe(self, t, y, p):
            return {"DV": dist.Normal(y, p.sigma)}

    frame, _ = lines
    density = joined(Latents(), lines_data(frame))
    conditional = density.at(parameter_values(density.model, 3))
    assert conditional.mean.shape[:2] == (2, 3)
    zero = conditional.mean.new_zeros(2, 1, *conditional.mean.shape[1:2], density.batch.n_subjects)
    assert conditional.log_joint(zero).shape == (1, 3, density.batch.n_subjects)
    fit = nlme.fit(
        Latents(),
        lines_data(frame),
        nlme.SAEM(starts=2, chains=20, warm_up=nlme.Pooled(5), schedule=nlme.StepSchedule(exploration=3, smoothing=2)),
        seed=1,
        progress=False,
        likelihood=nlme.Laplace(mode_starts=1),
    )
    assert "best of 2 starts" in fit.termination
