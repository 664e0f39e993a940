"""Markov kernels as one compiled call: exact posteriors of a linear model, who draws what, scales and poor starts."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from support.compiled_models import Correlated, Domain
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import DOUBLE

import nlme_torch as nlme
from nlme_torch.inference.effects import sweep as module
from nlme_torch.inference.effects.moves import TAILS, ConditionalModes, Moves, PhiMoments
from nlme_torch.inference.effects.sweep import compiled_for, sweep
from nlme_torch.model.compiled.compiled_likelihood import compiled_likelihood
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.solve.kernel.build import BuildError, compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")

SUBJECTS, CHAINS = 5, 4000
B, OMEGA, SIGMA = ((2.0, -0.6, 0.3), (1.6, -0.2, 0.0)), ((0.5, 0.12), (0.12, 0.15)), (0.4, 0.9)
"""Fixed effects and residual deviations of two starts; they share Omega."""
NONE = {"prior": 0, "component": 0, "block": 0, "laplace": 0, "hamiltonian": 0}
TABLE, DESIGN = simulate_lines(SUBJECTS, seed=3)


def conditional_of(table, starts=1):
    density = Density(Correlated(OMEGA), lines_data(table).batch(), nlme.Auto())
    values = parameter_values(density.model, starts=starts)
    b = torch.tensor(B[:starts], dtype=DOUBLE)
    values["a.typical"], values["b.typical"] = b[:, 0], b[:, 1]
    values["b.covariates.x.beta"] = b[:, 2].reshape(values["b.covariates.x.beta"].shape)
    values["sigma.unconstrained"] = torch.tensor(SIGMA[:starts], dtype=DOUBLE).log()
    return density.at(values)


@functools.cache
def lines_conditional(starts=1):
    return conditional_of(TABLE, starts)


def posterior(starts=1):
    """Exact means (effect, row) and covariances (effect, effect, row)."""
    each = [DESIGN.posterior(np.array(B[start]), np.array(OMEGA), SIGMA[start]) for start in range(starts)]
    return tuple(torch.tensor(np.concatenate(parts, -1)) for parts in zip(*each, strict=True))


def exact_draws(starts=1, chains=CHAINS, seed=0):
    mean, covariance = posterior(starts)
    root = torch.linalg.cholesky(covariance.permute(2, 0, 1)).permute(1, 2, 0)
    noise = torch.randn(2, chains, mean.shape[1], generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    return mean[:, None] + torch.einsum("ijr,jcr->icr", root, noise)


def modes_of(conditional):
    """Laplace's approximation, which is the posterior itself."""
    starts = conditional.starts
    mean, covariance = posterior(starts)
    root = torch.linalg.cholesky(covariance.permute(2, 0, 1)).permute(1, 2, 0)
    return ConditionalModes(mean.unflatten(-1, (starts, -1)) + conditional.mean, root)


def swept(conditional, effects, moves, count, seed=1, modes=None, tunings=None, moments=None):
    """Run some iterations.

    Returns:
        Where the chains are, tunings, and the acceptance of every iteration.
    """
    generator, tunings = torch.Generator().manual_seed(seed), tunings or {}
    shape = (conditional.starts, conditional.density.batch.n_subjects)
    start = effects.unflatten(-1, shape) + conditional.mean[:, None]
    moments = PhiMoments.start(start, conditional.covariance()) if moments is None else moments
    likelihood, rates = compiled_likelihood(conditional).at(conditional), []
    for _ in range(count):
        found = sweep(likelihood, conditional, effects, moves, moments, modes, tunings, generator)
        effects, tunings = found.effects, found.tunings
        rates.append(found.acceptance)
    return effects, tunings, rates, found


def assert_posterior(effects, starts=1, bound=4.5):
    """Means and covariances of every row within their Monte-Carlo errors."""
    mean, covariance = posterior(starts)
    chains = effects.shape[1]
    deviations = effects - mean[:, None]
    error = (covariance.diagonal(dim1=0, dim2=1).mT / chains).sqrt()
    assert (((deviations.mean(1)) / error).abs() < bound).all()
    found = torch.einsum("icr,jcr->ijr", deviations, deviations) / chains
    variances = covariance.diagonal(dim1=0, dim2=1).mT
    error = ((variances[:, None] * variances[None] + covariance**2) / chains).sqrt()
    assert (((found - covariance) / error).abs() < bound).all()


@pytest.mark.parametrize("kernel", list(NONE))
def test_each_kernel_leaves_the_posterior_of_two_starts_as_it_is(kernel):
    conditional = lines_conditional(2)
    exact = exact_draws(2)
    moves = Moves(**NONE | {kernel: 2})
    modes = modes_of(conditional) if kernel == "laplace" else None
    end, _, rates, found = swept(conditional, exact, moves, 8, modes=modes)
    assert_posterior(end, 2)
    assert list(rates[-1]) == [kernel] and 0.05 < rates[-1][kernel] < 0.99
    moved = (end != exact).any(0).double().mean()
    assert moved > 0.5
    joint = conditional.log_joint(end.unflatten(-1, (2, SUBJECTS))).detach().flatten(-2)
    torch.testing.assert_close(found.value, joint, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("group", [1, 2])
def test_all_kernels_together_find_the_posterior_from_the_prior_mean(group):
    conditional = lines_conditional(2)
    start = torch.zeros(2, CHAINS, 2 * SUBJECTS, dtype=DOUBLE)
    end, _, _, _ = swept(conditional, start, Moves(group=group), 30)
    assert_posterior(end, 2)


def test_no_two_chains_draw_the_same():
    end, _, _, _ = swept(lines_conditional(2), torch.zeros(2, 40, 2 * SUBJECTS, dtype=DOUBLE), Moves(), 5)
    assert len(torch.unique(end[0])) == end[0].numel()


def test_laplace_proposals_at_exact_modes_are_accepted_as_often_as_students_t_can_be():
    conditional = lines_conditional()
    _, _, rates, _ = swept(conditional, exact_draws(), Moves(**NONE | {"laplace": 1}), 4, modes=modes_of(conditional))
    rng = np.random.default_rng(0)
    old = rng.normal(size=(200_000, 2))
    new = rng.normal(size=old.shape) * np.sqrt(TAILS / rng.chisquare(TAILS, size=(len(old), 1)))

    def weight(x):
        square = (x**2).sum(1)
        return -0.5 * square + 0.5 * (TAILS + 2) * np.log1p(square / TAILS)

    expected = np.minimum(1.0, np.exp(weight(new) - weight(old))).mean()
    assert expected > 0.85
    assert np.mean([rate["laplace"] for rate in rates]) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(("kernel", "target"), [("component", 0.4), ("block", 0.3)])
def test_scales_adapt_to_their_acceptance(kernel, target):
    conditional = lines_conditional()
    effects, first = exact_draws(chains=200), {"component": (2, SUBJECTS), "block": (1, SUBJECTS)}[kernel]
    _, tunings, rates, _ = swept(conditional, effects, Moves(**NONE | {kernel: 1}), 150)
    assert tunings[kernel].log_scale.shape == first and tunings[kernel].count == 150
    assert np.mean([rate[kernel] for rate in rates[-40:]]) == pytest.approx(target, abs=0.02)
    assert rates[0][kernel] != pytest.approx(target, abs=0.02)


def test_what_a_chain_draws_depends_neither_on_threads_nor_on_who_else_is_there_nor_on_the_order():
    few = TABLE[TABLE["ID"].isin([2, 4])]
    turned = pd.concat([TABLE[TABLE["ID"] == subject] for subject in (4, 1, 5, 2, 3)])
    places = {"all": range(SUBJECTS), "few": (1, 3), "turned": (3, 0, 4, 1, 2)}
    found = {}
    for name, table in {"all": TABLE, "few": few, "turned": turned}.items():
        conditional = conditional_of(table)
        order = [int(subject) - 1 for subject in conditional.density.batch.subjects]
        assert sorted(order) == sorted(places[name])
        start = exact_draws(chains=30)[..., order].contiguous()
        end, tunings, _, _ = swept(conditional, start, Moves(hamiltonian=1), 12)
        found[name] = {subject: (end[..., n], tunings["component"].log_scale[:, n]) for n, subject in enumerate(order)}
    for name in ("few", "turned"):
        for subject, parts in found[name].items():
            for part, expected in zip(parts, found["all"][subject], strict=True):
                assert torch.equal(part, expected), (name, subject)


def test_threads_do_not_change_a_draw():
    before, ends = torch.get_num_threads(), []
    start = exact_draws(chains=12_000)
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            ends.append(swept(lines_conditional(), start, Moves(hamiltonian=1), 2)[:2])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1]["block"].log_scale, ends[1][1]["block"].log_scale)


def test_the_seed_decides():
    start = exact_draws(chains=10)
    first, second, other = (swept(lines_conditional(), start, Moves(), 3, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)


@pytest.mark.parametrize("kernels", [("prior",), ("laplace",), ("component", "block", "laplace")], ids=str)
def test_chains_that_begin_where_nothing_can_be_evaluated_come_back(kernels):
    density = Density(Domain(), lines_data(TABLE).batch(), nlme.Auto())
    conditional = density.at()
    start = 0.1 * exact_draws(chains=20)
    start[0, ::2] = -3.0
    before = conditional.log_likelihood(start.unflatten(-1, (1, SUBJECTS)))
    assert torch.isinf(before[::2]).all() and torch.isfinite(before[1::2]).all()
    end, _, _, found = swept(conditional, start, Moves(**NONE | dict.fromkeys(kernels, 1)), 80)
    assert torch.isfinite(found.value).all() and torch.isfinite(end).all()


def test_nothing_is_changed_in_place():
    start, conditional = exact_draws(chains=10), lines_conditional()
    kept = start.clone()
    _, tunings, _, _ = swept(conditional, start, Moves(), 2)
    scales = {name: tuning.log_scale.clone() for name, tuning in tunings.items()}
    swept(conditional, start, Moves(), 2, tunings=tunings)
    assert torch.equal(start, kept)
    assert all(torch.equal(tunings[name].log_scale, scale) for name, scale in scales.items())


def test_a_compiler_that_fails_at_the_chains_leaves_tensor_operations(monkeypatch, caplog):
    def broken(text):
        raise BuildError("the compiler failed")

    conditional = lines_conditional()
    assert compiled_for(conditional, Moves()) is not None
    module._library.cache_clear()
    monkeypatch.setattr(module, "build", broken)
    try:
        assert compiled_for(conditional, Moves()) is None and compiled_for(conditional, Moves()) is None
        assert caplog.text.count("no compiled Markov chains") == 1
    finally:
        module._library.cache_clear()
