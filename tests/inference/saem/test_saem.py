"""SAEM against exact answers on linear models, and the ways in which published versions fail."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import minimize
from support.mixed_linear import MixedLinear, lines_data, simulate_lines
from support.small_models import DOUBLE, Line, number

import nlme_torch as nlme
from nlme_torch.inference.effects.moves import PhiMoments
from nlme_torch.inference.mcmc.kernels import BlockRandomWalk
from nlme_torch.inference.modes.starts import jittered_starts
from nlme_torch.inference.saem.best_start import best_start
from nlme_torch.inference.saem.step import SAEMAlgorithm
from nlme_torch.model.declare.scalars import all_scalars
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density

SOLVER = nlme.Tsit5(compile=False)


@pytest.fixture(scope="module")
def lines():
    """Thirty subjects whose effects the data identify well."""
    return simulate_lines(subjects=30, seed=3, sigma=0.25)


def estimate(model, data, seed=1, exploration=70, smoothing=70, **options):
    method = nlme.SAEM(schedule=nlme.StepSchedule(exploration=exploration, smoothing=smoothing), **options)
    return method.estimate(Density(model, data.batch(), SOLVER), torch.Generator().manual_seed(seed), progress=False)


def scalars(model, estimation):
    return {name: value.item() for name, value in all_scalars(model, estimation.values).items()}


def natural(found):
    covariance = found.get("omega_a,b", 0.0)
    omega = np.array([[found["omega_a"], covariance], [covariance, found["omega_b"]]])
    return np.array([found["a"], found["b"], found["b_x"]]), omega, found["sigma"]


# ------------------------------------------------------------------ exactness


@pytest.mark.parametrize("seed", [1, 2])
def test_full_omega_covariate_effect_and_sigma_reach_maximum_likelihood(lines, seed):
    frame, design = lines
    model = Line(full=True)
    found = natural(scalars(model, estimate(model, lines_data(frame), seed, chains=40, exploration=70, smoothing=90)))
    b, omega, sigma, best = design.maximum(full=True)
    assert design.minus2ll(*found) - best < 0.005  # 0.0006 measured; one standard error of a parameter is worth 1
    np.testing.assert_allclose(found[0], b, atol=0.01)
    np.testing.assert_allclose(found[0], design.gls(found[1], found[2]), atol=0.005)
    np.testing.assert_allclose(found[1], omega, atol=0.012)
    assert found[2] == pytest.approx(sigma, abs=0.003)


def test_the_default_number_of_chains_is_close_too(lines):
    frame, design = lines
    model = Line()
    found = natural(scalars(model, estimate(model, lines_data(frame), seed=5, exploration=120, smoothing=80)))
    assert design.minus2ll(*found) - design.maximum()[3] < 0.05


def test_what_is_fixed_stays_bit_for_bit_and_the_rest_adapts(lines):
    frame, design = lines
    model = Line(
        a=nlme.Normal(2.1, omega=nlme.Fixed(0.4)), b=nlme.Normal(0.0, nlme.Shift("x", coefficient=0.3, fixed=True))
    )
    before = parameter_values(model)
    estimation = estimate(model, lines_data(frame), exploration=5, smoothing=3)
    assert torch.equal(estimation.values["b.covariates.x.beta"], before["b.covariates.x.beta"])
    model = Line(
        a=nlme.Normal(2.1, omega=0.4, fixed=True), b=nlme.Normal(0.0, nlme.Shift("x", coefficient=0.3, fixed=True))
    )
    estimation = estimate(model, lines_data(frame), chains=30)
    found = scalars(model, estimation)
    assert torch.equal(estimation.values["a.typical"], number([2.1])) and found["b_x"] == 0.3
    shifted = tuple(y - x @ [2.1, 0.0, 0.3] for y, x in zip(design.responses, design.fixed, strict=True))
    rest = MixedLinear(shifted, tuple(x[:, 1:2] for x in design.fixed), design.random)
    omega = np.diag([found["omega_a"], found["omega_b"]])
    assert rest.minus2ll(np.array([found["b"]]), omega, found["sigma"]) - rest.maximum()[3] < 0.01


def test_everything_fixed_is_refused(lines):
    with pytest.raises(nlme.FitError, match="every parameter is fixed"):
        nlme.fit(Line().requires_grad_(False), lines_data(lines[0]), nlme.SAEM(), progress=False)


def test_the_rest_of_a_partly_fixed_omega_reaches_its_maximum(lines):
    """A given covariance between intercept and slope, both variances free."""
    frame, design = lines
    given = -0.1

    class Given(Line):
        def __init__(self):
            super().__init__()
            self.ab = nlme.Omega("a", "b", structure=nlme.Full([[0.6], [nlme.Fixed(given), 0.3]]))

    model = Given()
    found = natural(scalars(model, estimate(model, lines_data(frame), chains=40, exploration=70, smoothing=90)))
    assert found[1][0, 1] == pytest.approx(given, rel=1e-12)

    def objective(vector):
        omega = np.array([[math.exp(vector[0]), given], [given, math.exp(vector[1])]])
        if np.linalg.det(omega) <= 0:
            return math.inf
        sigma = math.exp(vector[2])
        return design.minus2ll(design.gls(omega, sigma), omega, sigma)

    options = {"xatol": 1e-7, "fatol": 1e-9, "maxiter": 4000, "maxfev": 4000}
    best = minimize(objective, [-0.5, -1.2, -1.0], method="Nelder-Mead", options=options)
    assert design.minus2ll(*found) - best.fun < 0.01
    assert best.fun - design.maximum(full=True)[3] > 1.0, "what is given must matter"


def test_priors_give_the_maximum_a_posteriori(lines):
    frame, design = lines
    prior = {"a": dist.Normal(number(2.5), number(0.1)), "sigma": dist.LogNormal(number(math.log(0.5)), number(0.1))}
    model = Line(a=nlme.Normal(2.0, omega=0.5, prior=prior["a"]), sigma=nlme.Positive(0.4, prior=prior["sigma"]))
    found = natural(scalars(model, estimate(model, lines_data(frame), chains=30)))

    def objective(b, omega, sigma):
        log_prior = (
            -0.5 * ((b[0] - 2.5) / 0.1) ** 2 - math.log(sigma) - 0.5 * ((math.log(sigma) - math.log(0.5)) / 0.1) ** 2
        )
        return design.minus2ll(b, omega, sigma) - 2 * log_prior

    best = minimize(
        lambda v: objective(v[:3], np.diag(np.exp(v[3:5])), math.exp(v[5])),
        [2.0, -0.6, 0.3, -0.5, -1.5, -1.0],
        method="Nelder-Mead",
        options={"xatol": 1e-7, "fatol": 1e-9, "maxiter": 8000, "maxfev": 8000},
    )
    assert objective(*found) - best.fun < 0.01
    assert abs(found[0][0] - design.maximum()[0][0]) > 0.05, "the prior must matter"


class LineByWeights(nlme.Model):
    """The same straight lines as a network without hidden units: y = W t + b with random weights."""

    def __init__(self, omega, prior=None):
        super().__init__()
        self.net = nlme.RandomWeights(nlme.MLP(1, 1, prior=prior), omega)
        self.sigma = nlme.Positive(1.0)

    def predict(self, t, p, cov):
        return p.net(t)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


WEIGHTS = {
    "diagonal": (nlme.Diagonal(1.0), False),
    "low rank": (nlme.LowRank(2, scale=1.0), True),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_random_weights_reach_maximum_likelihood(name):
    """Rank two is a full Omega of two weights; with z held in the M-step its mean stops 1.7 units from it."""
    omega, full = WEIGHTS[name]
    frame, design = simulate_lines(subjects=30, seed=3, sigma=0.25, slope_on=0.0)
    design = MixedLinear(
        design.responses, tuple(x[:, 1::-1] for x in design.fixed), tuple(z[:, ::-1] for z in design.random)
    )
    model = LineByWeights(omega)
    estimation = estimate(model, lines_data(frame), chains=30)
    values = estimation.values
    if isinstance(omega, nlme.LowRank):
        loading = model.net.loading_matrix(values["net.loading"])[0]
        matrix = (loading @ loading.mT).numpy()
    else:
        matrix = Density(model, lines_data(frame).batch(), SOLVER).at(values).covariance()[0].numpy()
    found = values["net.network.weights"][0].numpy(), matrix, values["sigma.unconstrained"].exp().item()
    assert design.minus2ll(*found) - design.maximum(full=full)[3] < 0.015


def test_a_ridge_on_low_rank_weights_gives_the_maximum_a_posteriori():
    frame, design = simulate_lines(subjects=30, seed=3, sigma=0.25, slope_on=0.0)
    design = MixedLinear(
        design.responses, tuple(x[:, 1::-1] for x in design.fixed), tuple(z[:, ::-1] for z in design.random)
    )
    model = LineByWeights(nlme.LowRank(2, scale=1.0), nlme.L2(20.0))
    values = estimate(model, lines_data(frame), chains=30).values
    weights, sigma = values["net.network.weights"][0].numpy(), values["sigma.unconstrained"].exp().item()
    loading = model.net.loading_matrix(values["net.loading"])[0]
    matrix = (loading @ loading.mT).numpy()
    # the maximum over the weights at the estimated variances: (information + 2 lambda) w = score
    _, xy, zy, xx, zx, zz = design._products
    inner = np.linalg.inv(np.linalg.inv(matrix) + zz / sigma**2) / sigma**2
    information = (xx - np.einsum("nip,nij,njq->npq", zx, inner, zx)).sum(0) / sigma**2
    score = (xy - np.einsum("nip,nij,nj->np", zx, inner, zy)).sum(0) / sigma**2
    expected = np.linalg.solve(information + 40 * np.eye(2), score)
    np.testing.assert_allclose(weights, expected, atol=0.01)
    assert np.abs(expected - np.linalg.solve(information, score)).max() > 0.1


def test_laplace_proposals_are_nearly_all_accepted_where_the_model_is_gaussian(lines):
    """The conditional distribution is normal: only the heavier tails of the proposal and its age are refused."""
    frame, _ = lines
    moves = nlme.Moves(prior=0, component=0, block=0, laplace=2)
    trace = estimate(Line(full=True), lines_data(frame), chains=10, moves=moves, exploration=60, smoothing=20).trace
    assert trace.acceptance_laplace.iloc[10:].mean() > 0.8 and trace.acceptance_laplace.iloc[:5].min() > 0.5


# ------------------------------------------------------------------ published failures


class SharedSlope(Line):
    """The slope has no random effect: theta outside phi."""

    def __init__(self, slope=5.0):
        super().__init__(b=nlme.Positive(slope))

    def predict(self, t, p, cov):
        return p.a - p.b * t


def test_a_parameter_without_effect_reaches_maximum_likelihood_from_far_away(lines):
    """A published failure: with eta held in the M-step it crawls, or stops where it began."""
    frame, design = simulate_lines(subjects=20, seed=8, omega=((0.5, 0.0), (0.0, 1e-12)), slope_on=0.0, sigma=0.3)
    model = SharedSlope()
    found = scalars(model, estimate(model, lines_data(frame), chains=20, exploration=160, smoothing=80))
    one = MixedLinear(design.responses, tuple(x[:, :2] for x in design.fixed), tuple(z[:, :1] for z in design.random))
    b, omega, sigma, best = one.maximum()
    assert (
        one.minus2ll(np.array([found["a"], -found["b"]]), np.array([[found["omega_a"]]]), found["sigma"]) - best < 0.01
    )
    assert found["b"] == pytest.approx(-b[1], abs=0.005)


def test_block_proposals_along_one_direction_leave_omega_with_rank_one(lines):
    """A published failure: a block walk whose shape is learnt from its own moves can close in on one direction.

    The chains of a walk with a rank-one factor never leave their lines, and Omega follows. The library's block walk
    alone, from the same rank-one moments, must recover both directions.
    """
    frame, design = lines
    density = Density(Line(full=True), lines_data(frame).batch(), SOLVER)
    conditional = density.at()
    line = number([[1.0, 0.5], [1.0, 0.5]])  # both columns along (1, 1)
    rank_one = (line @ line.mT)[:, :, None, None].expand(2, 2, 1, 30)
    start = conditional.mean.expand(2, 1, 30)[:, None].expand(2, 50, 1, 30)
    moments = PhiMoments(start.mean(1), rank_one.clone(), 0)
    generator = torch.Generator().manual_seed(0)

    def spread(factor):
        kernel = BlockRandomWalk(factor=factor)
        target = lambda effects: conditional.log_joint(effects[:, :, None])[:, 0]  # noqa: E731
        state = kernel.init(torch.zeros(2, 50, 30, dtype=DOUBLE), target)
        for _ in range(40):
            state, _ = kernel.step(state, target, generator)
        across = (state.effects[0] - state.effects[1]) / math.sqrt(2)
        return across.std().item()

    wrong = torch.zeros(2, 2, 30, dtype=DOUBLE)
    wrong[:, 0] = 1.0
    assert spread(wrong) < 1e-12
    assert spread(moments.factor()) > 0.1


def test_block_proposals_alone_recover_a_full_omega(lines):
    frame, design = lines
    model = Line(full=True)
    moves = nlme.Moves(prior=0, component=0, block=6, laplace=0)
    found = natural(scalars(model, estimate(model, lines_data(frame), chains=30, moves=moves)))
    assert design.minus2ll(*found) - design.maximum(full=True)[3] < 0.05
    assert np.linalg.eigvalsh(found[1])[0] > 0.8 * np.linalg.eigvalsh(design.maximum(full=True)[1])[0]


@pytest.mark.parametrize("kind", ["component", "laplace", "hamiltonian"])
def test_every_kernel_alone_leads_to_the_same_place(lines, kind):
    frame, design = lines
    model = Line()
    moves = replace(nlme.Moves(prior=0, component=0, block=0, laplace=0), **{kind: 3})
    found = natural(
        scalars(model, estimate(model, lines_data(frame), chains=20, moves=moves, exploration=50, smoothing=50))
    )
    assert design.minus2ll(*found) - design.maximum()[3] < 0.1


def test_emax_started_in_the_flat_basin_finds_its_way():
    """A published failure: with EC50 far above all concentrations the curve is a line and only Emax / EC50 is felt."""
    rng = np.random.default_rng(0)
    doses = np.tile([0.0, 1.0, 3.0, 10.0, 30.0, 100.0], 30)
    emax, ec50 = (
        np.repeat(20 * np.exp(0.2 * rng.normal(size=30)), 6),
        np.repeat(8 * np.exp(0.3 * rng.normal(size=30)), 6),
    )
    frame = pd.DataFrame(
        {"ID": np.repeat(range(30), 6), "TIME": doses, "DV": emax * doses / (ec50 + doses) + rng.normal(size=180)}
    )

    class Emax(nlme.Model):
        def __init__(self):
            super().__init__()
            self.emax, self.ec50 = nlme.LogNormal(100.0, omega=0.3), nlme.LogNormal(400.0, omega=0.3)
            self.sigma = nlme.Positive(2.0)

        def predict(self, t, p, cov):
            return p.emax * t / (p.ec50 + t)

        def observe(self, t, y, p):
            return {"DV": dist.Normal(y, p.sigma)}

    model = Emax()
    found = scalars(model, estimate(model, nlme.Dataset.from_frame(frame), exploration=120, smoothing=40))
    assert found["emax"] == pytest.approx(20, rel=0.1) and found["ec50"] == pytest.approx(8, rel=0.2)
    assert found["sigma"] == pytest.approx(1.0, rel=0.15)


def test_a_collapsed_omega_is_a_warning():
    """Data without differences between slopes: the variance goes to zero, and the fit says so."""
    frame, _ = simulate_lines(subjects=20, seed=8, omega=((0.5, 0.0), (0.0, 1e-12)), slope_on=0.0)
    model = Line(b=nlme.Normal(-0.6, omega=1e-5))
    estimation = estimate(model, lines_data(frame), exploration=20, smoothing=20)
    (message,) = [text for text in estimation.warnings if "collapsed" in text]
    assert "standard deviation of eta_b is" in message and "collapsed; drop it" in message
    healthy = estimate(Line(), lines_data(frame), exploration=10, smoothing=10)
    assert not any("collapsed" in text for text in healthy.warnings)


# ------------------------------------------------------------------ the course of the algorithm


def algorithm(lines, model=None, **options):
    frame, _ = lines
    density = Density(Line(full=True) if model is None else model, lines_data(frame).batch(), SOLVER)
    settings = {
        "schedule": nlme.StepSchedule(burn_in=3, exploration=20, smoothing=10),
        "chains": 4,
        "moves": nlme.Moves(),
        "annealing": 0.97,
        "learning_rate": 0.02,
        "gradient_steps": 1,
    } | options
    return SAEMAlgorithm(density, **settings)


def flat(value):
    """Every tensor and number of a nested state."""
    if isinstance(value, dict):
        return [leaf for key in sorted(value) for leaf in flat(value[key])]
    if isinstance(value, tuple):
        return [leaf for entry in value for leaf in flat(entry)]
    return [value]


def test_a_continued_run_equals_an_uninterrupted_one(lines):
    """The state and the generator's state are everything: nothing hides in the algorithm."""

    def steps(run, state, generator, first, last):
        for k in range(first, last):
            state = run.step(state, generator, smoothing=k >= 12)
        return state

    model = SharedSlope(1.0)
    generator = torch.Generator().manual_seed(4)
    run = algorithm(lines, model)
    start = run.init(parameter_values(model, starts=2), generator)
    half = steps(run, start, generator, 0, 9)
    stored = generator.get_state()
    whole = steps(run, half, generator, 9, 18)

    generator = torch.Generator()
    generator.set_state(stored)
    continued = steps(algorithm(lines, SharedSlope(1.0)), half, generator, 9, 18)
    for one, other in zip(flat(whole), flat(continued), strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_a_step_leaves_the_old_state_alone(lines):
    generator = torch.Generator().manual_seed(4)
    run = algorithm(lines)
    state = run.init(parameter_values(run.density.model), generator)
    for smoothing in (False, False, False, False, True):
        before = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in flat(state)]
        new = run.step(state, generator, smoothing=smoothing)
        for old, now in zip(before, flat(state), strict=True):
            assert torch.equal(old, now) if isinstance(old, torch.Tensor) else old == now
        state = new


def test_parameters_rest_during_the_burn_in(lines):
    generator = torch.Generator().manual_seed(4)
    run = algorithm(lines)
    state = run.init(parameter_values(run.density.model), generator)
    for iteration in range(1, 5):
        previous, state = state, run.step(state, generator, smoothing=False)
        moved = any(not torch.equal(state.values[name], previous.values[name]) for name in state.values)
        assert moved is (iteration > 3)
        assert not torch.equal(state.transformed, previous.transformed)


def test_variances_fall_slowly_while_exploring_and_freely_afterwards(lines):
    """Simulated annealing: no variance falls by more than 3 % per iteration during the first half of
    the exploration."""
    generator = torch.Generator().manual_seed(4)
    model = Line(a=nlme.Normal(1.0, omega=50.0), sigma=nlme.Positive(20.0))
    run = algorithm(lines, model)
    state = run.init(parameter_values(model), generator)
    track = []
    for _ in range(23):
        state = run.step(state, generator, smoothing=False)
        track.append(
            [
                2 * state.values["_covariances.individual.log_sd"][0, 0].item(),
                2 * state.values["sigma.unconstrained"].item(),
            ]
        )
    falls = np.exp(np.diff(np.array(track), axis=0))
    annealed = falls[2:12]  # iterations 4 to 13: after 3 of burn-in, half of 20
    assert (annealed >= 0.97 - 1e-12).all() and (annealed < 0.98).any()
    assert falls[12:].min() < 0.9


def test_the_draws_are_those_of_the_conditional_distribution(lines):
    """At fixed parameters the chains' moments are the exact conditional means and covariances."""
    frame, design = lines
    model = Line(full=True)
    run = algorithm(lines, model, chains=400, schedule=nlme.StepSchedule(burn_in=40, exploration=0, smoothing=1))
    generator = torch.Generator().manual_seed(4)
    state = run.init(parameter_values(model), generator)
    for _ in range(40):
        state = run.step(state, generator, smoothing=False)
    means, covariances = design.posterior(np.array([1.0, 0.0, 0.0]), np.eye(2), 1.0)
    eta = (state.transformed - run.density.at().mean[:, None])[:, :, 0]
    np.testing.assert_allclose(eta.mean(1).numpy(), means, atol=5 * np.sqrt(covariances[[0, 1], [0, 1]].max() / 400))
    deviations = eta - eta.mean(1, keepdim=True)
    found = torch.einsum("icn,jcn->ijn", deviations, deviations) / 399
    np.testing.assert_allclose(found.mean(-1).numpy(), covariances.mean(-1), atol=0.02)


# ------------------------------------------------------------------ stopping, seeds, starts


def test_the_reason_for_stopping_is_stated(lines):
    frame, _ = lines
    settings = {"exploration": 60, "smoothing": 10, "window": 10, "drift_tolerance": 50.0}
    # where nothing judges the end, half of the exploration is gone through whatever the drift
    for certification, iterations in ((nlme.Certification(), 20), (nlme.Certification(rounds=0), 50)):
        stopped = estimate(Line(), lines_data(frame), **settings, certification=certification)
        ended = f"exploration ended after {iterations + 5} iterations: between two windows of 10"
        assert ended in stopped.termination and "moved by more than" in stopped.termination
        assert "then 10 smoothing iterations, averaged" in stopped.termination
        phases = stopped.trace.phase
        assert (phases == "explore").sum() == iterations and (phases == "smooth").sum() == 10
    whole = estimate(Line(), lines_data(frame), exploration=30, smoothing=5, window=5, drift_tolerance=0.0)
    assert whole.termination.startswith("exploration used all of its 30 iterations; then 5")
    assert (whole.trace.phase == "explore").sum() == 30


def test_the_trace_keeps_every_iterate(lines):
    frame, _ = lines
    model = Line(full=True)
    unjudged = nlme.Certification(rounds=0)  # whose steps stand in no trace
    estimation = estimate(model, lines_data(frame), exploration=12, smoothing=8, certification=unjudged)
    trace = estimation.trace
    assert (
        trace.iteration.tolist() == list(range(1, 26))
        and trace.phase.tolist() == ["burn-in"] * 5 + ["explore"] * 12 + ["smooth"] * 8
    )
    assert {"a", "b", "b_x", "sigma", "omega_a", "omega_a,b", "complete_loglik", "acceptance_laplace"} <= set(
        trace.columns
    )
    assert np.isfinite(trace.select_dtypes("number")).all().all()
    assert trace.acceptance_component.between(0, 1).all()
    last, final = trace.iloc[-1], scalars(model, estimation)
    assert last.a == final["a"] and last["omega_a,b"] == final["omega_a,b"]


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(lines):
    frame, _ = lines
    one, two, other = (
        estimate(SharedSlope(1.0), lines_data(frame), seed, exploration=15, smoothing=10, starts=2)
        for seed in (7, 7, 8)
    )
    assert all(torch.equal(one.values[name], two.values[name]) for name in one.values)
    assert torch.equal(one.draws, two.draws) and one.trace.equals(two.trace)
    assert not torch.equal(one.values["a.typical"], other.values["a.typical"])


def test_global_randomness_is_neither_read_nor_advanced(lines):
    frame, _ = lines
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    one = estimate(Line(), lines_data(frame), exploration=5, smoothing=5)
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()
    torch.rand(3)
    assert torch.equal(
        one.values["a.typical"], estimate(Line(), lines_data(frame), exploration=5, smoothing=5).values["a.typical"]
    )
    torch.set_rng_state(before[0])


def test_the_first_start_is_the_models_own(lines):
    frame, _ = lines
    model = Line(b=nlme.Normal(0.0, nlme.Shift("x", coefficient=0.3, fixed=True)))
    density = Density(model, lines_data(frame).batch(), SOLVER)
    given = parameter_values(model)
    values = jittered_starts(density, given, 4, 0.5, torch.Generator().manual_seed(0))
    for name, value in values.items():
        assert value.shape[0] == 4 and torch.equal(value[:1], given[name])
        moved = not torch.equal(value[1], value[0])
        assert moved is (name not in ("b.covariates.x.beta", "_covariances.individual.log_sd"))


def test_the_best_of_several_starts_is_kept(lines):
    frame, design = lines
    model = Line(full=True)
    density = Density(model, lines_data(frame).batch(), SOLVER)
    values = {name: value.clone() for name, value in parameter_values(model, starts=3).items()}
    values["a.typical"] = number([5.0, 2.0, -1.0])
    conditional = density.at(values)
    phi = conditional.sample(4, torch.Generator().manual_seed(0)) + conditional.mean[:, None]
    best, words = best_start(density, values, phi, torch.Generator().manual_seed(0))
    assert best == 1
    # for a linear model Laplace's approximation is exact
    expected = [-0.5 * design.minus2ll(np.array([a, 0.0, 0.0]), np.eye(2), 1.0) for a in (2.0, -1.0, 5.0)]
    ranked = ", ".join(f"{value:.1f}" for value in sorted(expected, reverse=True))
    assert words == f"by Laplace log-likelihood ({ranked})"


def test_several_starts_are_reported_and_no_worse_than_one(lines):
    frame, design = lines
    model = Line()
    estimation = estimate(model, lines_data(frame), starts=3, exploration=50, smoothing=50)
    assert "best of 3 starts by Laplace log-likelihood (-" in estimation.termination
    assert design.minus2ll(*natural(scalars(model, estimation))) - design.maximum()[3] < 0.15


def test_several_starts_with_a_fixed_omega(lines):
    frame, _ = lines
    model = Line(a=nlme.Normal(1.0, omega=nlme.Fixed(0.5)))
    estimation = estimate(model, lines_data(frame), starts=2, exploration=5, smoothing=5)
    assert estimation.trace.omega_a.tolist() == pytest.approx([0.5] * 15)


# ------------------------------------------------------------------ starts that cannot be


class Root(nlme.Model):
    """y = sqrt(a): undefined below zero."""

    def __init__(self, a):
        super().__init__()
        self.a = nlme.Normal(a, omega=0.01)
        self.sigma = nlme.Positive(1.0)

    def predict(self, t, p, cov):
        return p.a.sqrt() + 0 * t

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma)}


TABLE = pd.DataFrame({"ID": [7, 7, 8], "TIME": [0.0, 1.0, 0.0], "DV": [1.0, 1.0, 1.0]})


def test_a_start_that_cannot_be_evaluated_names_the_subject_and_the_reason():
    class ByWeight(Root):
        def individual(self, p, cov):
            return {"shifted": torch.log(p.a - cov.WT)}

        def predict(self, t, p, cov):
            return p.shifted + 0 * t

    data = nlme.Dataset.from_frame(TABLE.assign(WT=[0.0, 0.0, 2.0]), covariates=["WT"])
    with pytest.raises(nlme.NLMEError, match="subject 8.*(time 0|not finite)"):
        estimate(ByWeight(1.0), data)


def test_an_equation_that_cannot_be_solved_names_the_subject_and_the_time():
    class Runaway(nlme.Model):
        states = ("x",)

        def __init__(self):
            super().__init__()
            self.g, self.sigma = nlme.LogNormal(1.0), nlme.Positive(1.0)

        def individual(self, p, cov):
            return {"rate": p.g * cov.WT}

        def initial(self, p):
            return (1.0,)

        def dynamics(self, t, y, p):
            return (p.rate * y.x**2,)

        def observe(self, t, y, p):
            return {"DV": dist.Normal(y.x, p.sigma)}

    data = nlme.Dataset.from_frame(TABLE.assign(WT=[1.5, 1.5, 0.1]), covariates=["WT"])
    with pytest.raises(
        nlme.FitError, match="(?s)subject 7.*not finite at the typical values.*could not be solved.*after time 0"
    ):
        estimate(Runaway(), data)


def test_jittered_starts_that_cannot_be_evaluated_are_drawn_in():
    """With a = 0.3 and jumps of 3 most further starts are undefined: they come nearer instead of ending the fit."""
    data = nlme.Dataset.from_frame(TABLE)
    density = Density(Root(0.3), data.batch(), SOLVER)
    values = jittered_starts(density, parameter_values(density.model), 12, 3.0, torch.Generator().manual_seed(0))
    zero = torch.zeros(1, 1, 12, 2, dtype=DOUBLE)
    assert torch.isfinite(density.at(values).log_joint(zero)).all()
    assert len(torch.unique(values["a.typical"])) == 12
    estimation = estimate(Root(0.3), data, starts=4, spread=3.0, exploration=5, smoothing=5)
    assert torch.isfinite(estimation.values["a.typical"]).all()


def test_a_model_without_random_effects_is_refused():
    class Pooled(Root):
        def __init__(self):
            super().__init__(1.0)

    class NoEffects(nlme.Model):
        def __init__(self):
            super().__init__()
            self.a, self.sigma = nlme.Positive(1.0), nlme.Positive(1.0)

        def predict(self, t, p, cov):
            return p.a + 0 * t

        def observe(self, t, y, p):
            return {"DV": dist.Normal(y, p.sigma)}

    with pytest.raises(nlme.FitError, match="no random effects.*nlme.Pooled"):
        estimate(NoEffects(), nlme.Dataset.from_frame(TABLE))


def test_a_model_with_nothing_but_networks_to_judge_runs():
    class Counts(nlme.Model):
        def __init__(self):
            super().__init__()
            self.z = nlme.Latent(1)
            self.net = nlme.MLP(2, 2, 1, output="softplus")

        def predict(self, t, p, cov):
            return p.net(t, p.z) + 0.1

        def observe(self, t, y, p):
            return {"DV": dist.Poisson(y)}

    estimation = estimate(Counts(), nlme.Dataset.from_frame(TABLE), exploration=40, smoothing=5, window=5)
    assert "used all of its 40 iterations" in estimation.termination
    assert estimation.status is nlme.Status.ITERATIONS_USED
    (message,) = estimation.warnings
    assert "used all of its 40 iterations" in message and "allow more" in message


def test_an_end_that_is_the_maximum_ends_the_smoothing(lines):
    frame, _ = lines
    early = estimate(Line(), lines_data(frame), exploration=120, smoothing=200)
    assert early.certificate.converged and (early.trace.phase == "smooth").sum() == 50
    blind = estimate(
        Line(), lines_data(frame), exploration=120, smoothing=200, certification=nlme.Certification(rounds=0)
    )
    assert (blind.trace.phase == "smooth").sum() == 200
