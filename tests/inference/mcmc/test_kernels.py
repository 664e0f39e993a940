"""Every kernel leaves a known target invariant; a broken one is caught by the same check."""

from dataclasses import replace

import pytest
import torch
from support.analytic import DOUBLE, GaussianMixture, LinearGaussian, Warped

from nlme_torch.inference.mcmc import kernels as kernels_module
from nlme_torch.inference.mcmc.composite import Cycle, frozen
from nlme_torch.inference.mcmc.hamiltonian import HMC
from nlme_torch.inference.mcmc.kernels import BlockRandomWalk, Independent, RandomWalk, refresh
from nlme_torch.inference.mcmc.proposals import normal, student

EFFECT, CHAIN, SUBJECT = 3, 4000, 3


def skewed_target():
    scales = torch.tensor([[1.0, 0.5, 2.0], [1.0, 2.0, 1.0], [0.3, 1.0, 1.0]], dtype=DOUBLE)
    return Warped(scales, torch.tensor([0.0, -3.0, 5.0], dtype=DOUBLE), bend=0.5)


def gaussian_target():
    return LinearGaussian.simulate(EFFECT, 4, SUBJECT, seed=1, sigma=1.0)


KERNELS = (
    "component-wise",
    "subsets",
    "some components",
    "block",
    "block, identity",
    "prior",
    "Laplace, normal",
    "Laplace, Student",
    "Langevin",
    "Langevin, dense",
    "HMC",
    "HMC, diagonal",
    "HMC, dense",
    "cycle",
)


def all_kernels(target):
    mean, spread = target_moments(target)
    scale = torch.tensor([[1.0, 0.5, 2.0], [1.0, 2.0, 1.0], [0.3, 1.0, 1.0]], dtype=DOUBLE)
    dense = torch.diag_embed(scale.mT).movedim(0, -1).clone()
    dense[1, 0], dense[2, 1] = 0.4, -0.2
    prior = normal(torch.zeros_like(mean), 1.5 * torch.eye(EFFECT, dtype=DOUBLE)[..., None])
    return {
        "component-wise": RandomWalk(scale),
        "subsets": RandomWalk(scale, size=2),
        "some components": RandomWalk(scale, size=1, moves=2),
        "block": BlockRandomWalk(dense),
        "block, identity": BlockRandomWalk(),
        "prior": Independent(prior),
        "Laplace, normal": Independent(normal(mean, 1.3 * spread)),
        "Laplace, Student": Independent(student(mean + 0.1, spread, df=5)),
        "Langevin": HMC(scale, leapfrogs=1),
        "Langevin, dense": HMC(dense, leapfrogs=1),
        "HMC": HMC(leapfrogs=4),
        "HMC, diagonal": HMC(scale, leapfrogs=4),
        "HMC, dense": HMC(dense, leapfrogs=4),
        "cycle": Cycle((RandomWalk(scale), HMC(scale, leapfrogs=1), Independent(prior)), repeats=(1, 2, 1)),
    }


def statistics(x):
    """Features (feature, chain, subject): first, second and skewness-type moments."""
    pairs = torch.stack([x[i] * x[j] for i in range(len(x)) for j in range(i + 1)])
    skewed = torch.stack([x[0].pow(2) * x[1], x[0] * x[2].pow(2), x[1].pow(3)])
    return torch.cat([x, pairs, skewed])


def assert_invariant(kernel, log_joint, exact, *, steps=6, seed=0):
    """Chains started from exact draws must still follow the target after frozen steps, and must have moved."""
    generator = torch.Generator().manual_seed(seed)
    half = exact.shape[1] // 2
    start, reference = exact[:, :half], exact[:, half:]
    state = kernel.init(start, log_joint)
    for _ in range(15):  # adapt on the way, then start again from exact draws with fixed scales
        state, _ = kernel.step(state, log_joint, generator)
    kernel = frozen(kernel)
    tuning = state.tuning
    state = kernel.init(start, log_joint)._replace(tuning=tuning)
    for _ in range(steps):
        state, info = kernel.step(state, log_joint, generator)
    assert (info.acceptance > 0.05).all()
    torch.testing.assert_close(state.value, log_joint(state.effects))
    after, before = statistics(state.effects), statistics(reference)
    error = (after.var(1) / after.shape[1] + before.var(1) / before.shape[1]).sqrt()
    score = (after.mean(1) - before.mean(1)) / error
    assert score.abs().max() < 4.5, score


def target_moments(target):
    """Mean and Cholesky factor of the covariance, (effect, subject) and (effect, effect, subject)."""
    if isinstance(target, Warped):
        draws = target.sample(20000, torch.Generator().manual_seed(5))
        mean, covariance = draws.mean(1), torch.stack([draws[..., s].cov() for s in range(SUBJECT)], -1)
    else:
        mean, covariance = target.posterior()
    return mean, torch.linalg.cholesky(covariance.movedim(-1, 0)).movedim(0, -1)


def exact_draws(target, generator):
    if isinstance(target, Warped):
        return target.sample(2 * CHAIN, generator)
    mean, root = target_moments(target)
    noise = torch.randn(EFFECT, 2 * CHAIN, SUBJECT, generator=generator, dtype=DOUBLE)
    return mean[:, None] + torch.einsum("ijs,jcs->ics", root, noise)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("target", [gaussian_target(), skewed_target()], ids=["gaussian", "skewed"])
def test_kernel_leaves_the_target_invariant(name, target):
    draws = exact_draws(target, torch.Generator().manual_seed(10))
    assert_invariant(all_kernels(target)[name], target.log_joint, draws)


@pytest.mark.parametrize("name", ["component-wise", "block", "prior", "Laplace, Student", "Langevin", "HMC, dense"])
def test_the_check_catches_a_broken_acceptance_ratio(name, monkeypatch):
    target = skewed_target()
    draws = exact_draws(target, torch.Generator().manual_seed(10))
    honest = kernels_module.metropolis
    for module in ("kernels", "hamiltonian"):
        monkeypatch.setattr(f"nlme_torch.inference.mcmc.{module}.metropolis", lambda r, g: honest(0.3 * r, g))
    with pytest.raises(AssertionError):
        assert_invariant(all_kernels(target)[name], target.log_joint, draws)


def test_the_check_catches_a_forgotten_proposal_density(monkeypatch):
    target = skewed_target()
    draws = exact_draws(target, torch.Generator().manual_seed(10))
    kernel = all_kernels(target)["Laplace, Student"]
    forgotten = "nlme_torch.inference.mcmc.proposals.Mixture.log_density"
    monkeypatch.setattr(forgotten, lambda self, x: torch.zeros_like(x[0]))
    with pytest.raises(AssertionError):
        assert_invariant(kernel, target.log_joint, draws)


@pytest.mark.parametrize("name", [name for name in KERNELS if not name.startswith(("prior", "Laplace"))])
def test_chains_find_the_posterior_from_a_distant_start(name):
    target = gaussian_target()
    generator = torch.Generator().manual_seed(3)
    kernel = all_kernels(target)[name]
    state = kernel.init(torch.full((EFFECT, 200, SUBJECT), 3.0, dtype=DOUBLE), target.log_joint)
    kept = []
    for step in range(300):
        state, _ = kernel.step(state, target.log_joint, generator)
        if step == 150:
            kernel = frozen(kernel)
        if step > 150:
            kept.append(state.effects)
    draws = torch.cat(kept, 1)
    mean, covariance = target.posterior()
    deviation = covariance.diagonal(dim1=0, dim2=1).mT.sqrt()
    assert ((draws.mean(1) - mean) / deviation).abs().max() < 0.12
    ratio = draws.std(1) / deviation
    assert (ratio - 1).abs().max() < 0.12


@pytest.mark.parametrize(
    ("kernel", "aim"),
    [(RandomWalk(), 0.4), (RandomWalk(size=2), 0.4), (BlockRandomWalk(), 0.3), (HMC(leapfrogs=1), 0.7), (HMC(), 0.7)],
)
def test_scales_adapt_to_the_target_acceptance_per_subject(kernel, aim):
    scales = torch.tensor([0.01, 1.0, 30.0], dtype=DOUBLE).expand(EFFECT, -1)
    target = Warped(scales, torch.zeros(3, dtype=DOUBLE), bend=0.0)
    generator = torch.Generator().manual_seed(0)
    state = kernel.init(target.sample(50, generator), target.log_joint)
    rates = []
    for step in range(150):
        state, info = kernel.step(state, target.log_joint, generator)
        if step >= 110:
            rates.append(info.acceptance)
    assert (torch.stack(rates).mean(0) - aim).abs().max() < 0.06
    fitted = state.tuning.log_scale.mean(0).exp() / scales[0]
    assert fitted.max() / fitted.min() < 1.4  # the step size follows each subject's own spread


def test_independent_proposal_jumps_between_modes():
    means = torch.stack([torch.full((EFFECT,), -6.0), torch.full((EFFECT,), 6.0)]).to(DOUBLE)
    covariances = torch.eye(EFFECT, dtype=DOUBLE).expand(2, -1, -1)
    target = GaussianMixture(
        means, covariances, torch.tensor([0.2, 0.8], dtype=DOUBLE), torch.zeros(SUBJECT, dtype=DOUBLE)
    )
    proposal = normal(torch.zeros(EFFECT, SUBJECT, dtype=DOUBLE), 5 * torch.eye(EFFECT, dtype=DOUBLE)[..., None])
    centres = means.mT[..., None].expand(-1, -1, SUBJECT)
    proposal = replace(
        proposal,
        centres=centres,
        factors=torch.eye(EFFECT, dtype=DOUBLE)[..., None, None].expand(-1, -1, 2, SUBJECT),
        log_weights=torch.full((2, SUBJECT), 0.5, dtype=DOUBLE).log(),
        df=5,
    )
    generator = torch.Generator().manual_seed(0)
    state = Independent(proposal).init(means[0][:, None, None].expand(-1, 2000, SUBJECT), target.log_joint)
    for _ in range(15):
        state, _ = Independent(proposal).step(state, target.log_joint, generator)
    share = (state.effects[0] > 0).double().mean(0)
    torch.testing.assert_close(share, torch.full_like(share, 0.8), atol=0.04, rtol=0)


@pytest.mark.parametrize("failure", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", KERNELS)
def test_a_column_that_cannot_be_evaluated_is_rejected_alone(name, failure):
    target = skewed_target()

    def truncated(effects):
        value = target.log_joint(effects)
        return torch.where(effects[0] > 0.5, failure, value)

    draws = exact_draws(target, torch.Generator().manual_seed(10))
    inside = (draws[0] <= 0.5).all(-1)
    draws = draws[:, inside]
    kernel, generator = all_kernels(target)[name], torch.Generator().manual_seed(1)
    state = kernel.init(draws, truncated)
    for _ in range(6):
        state, info = kernel.step(state, truncated, generator)
        assert (state.effects[0] <= 0.5).all()
        assert torch.isfinite(state.value).all() and torch.isfinite(info.acceptance).all()
    assert (state.effects != draws).any(0).double().mean() > 0.2


def test_truncated_target_keeps_its_law_under_hmc():
    target = skewed_target()

    def truncated(effects):
        return torch.where(effects[0] > 0.5, torch.nan, target.log_joint(effects))

    draws = target.sample(8 * CHAIN, torch.Generator().manual_seed(4))
    draws = draws[:, (draws[0] <= 0.5).all(-1)]
    assert_invariant(HMC(leapfrogs=3), truncated, draws[:, : draws.shape[1] // 2 * 2])


def test_chains_of_one_subject_do_not_depend_on_the_others():
    """A subject whose density is NaN everywhere stays put and leaves the others' draws bit for bit the same."""
    target = skewed_target()

    def broken(effects):
        value = target.log_joint(effects)  # division by zero: infinite value, infinite gradient, in that column only
        return value / torch.tensor([1.0, 0.0, 1.0], dtype=DOUBLE)

    start = target.sample(20, torch.Generator().manual_seed(0))
    for kernel in (HMC(leapfrogs=3), RandomWalk(), BlockRandomWalk()):
        finals = []
        for density in (target.log_joint, broken):
            generator, state = torch.Generator().manual_seed(1), kernel.init(start, density)
            for _ in range(5):
                state, _ = kernel.step(state, density, generator)
            finals.append(state.effects)
        torch.testing.assert_close(finals[0][..., [0, 2]], finals[1][..., [0, 2]], rtol=0, atol=0)
        torch.testing.assert_close(finals[1][..., 1], start[..., 1], rtol=0, atol=0)


def test_same_generator_same_draws():
    target = skewed_target()
    finals = []
    for _ in range(2):
        kernel, generator = all_kernels(target)["cycle"], torch.Generator().manual_seed(7)
        state = kernel.init(torch.zeros(EFFECT, 5, SUBJECT, dtype=DOUBLE), target.log_joint)
        for _ in range(4):
            state, _ = kernel.step(state, target.log_joint, generator)
        finals.append(state.effects)
    assert torch.equal(*finals)


def test_refresh_re_evaluates_after_the_target_moved():
    target = skewed_target()
    moved = replace(target, bend=0.1)
    state = HMC(leapfrogs=2).init(target.sample(5, torch.Generator().manual_seed(0)), target.log_joint)
    fresh = refresh(state, moved.log_joint)
    torch.testing.assert_close(fresh.value, moved.log_joint(state.effects))
    assert fresh.gradient is None
    state, info = HMC(leapfrogs=2).step(fresh, moved.log_joint, torch.Generator().manual_seed(0))
    assert info.evaluations == 3
    torch.testing.assert_close(state.value, moved.log_joint(state.effects))


def test_repeats_of_zero_switch_a_kernel_off():
    target = skewed_target()
    kernel = Cycle((RandomWalk(), BlockRandomWalk()), repeats=(0, 1))
    state = kernel.init(torch.zeros(EFFECT, 5, SUBJECT, dtype=DOUBLE), target.log_joint)
    state, info = kernel.step(state, target.log_joint, torch.Generator().manual_seed(0))
    assert info.evaluations == 1 and info.parts[0].evaluations == 0
    assert torch.isfinite(info.acceptance).all()
    assert [tuning.count for tuning in state.tuning] == [0, 1]
