r"""Annealed sequential Monte Carlo: the marginal likelihood where a single proposal fails, with tens of effects.

Particles begin at a tractable reference density q and are carried to the joint density p(y_i, .) along

.. math:: \log \pi_\beta(\eta) = (1 - \beta) \log q(\eta) + \beta \log p(y_i, \eta),
    \qquad 0 = \beta_0 < \beta_1 < \dots < \beta_T = 1

by reweighting, resampling and Hamiltonian moves at every temperature; the product of the mean weights estimates p(y_i).
Independent groups of particles give independent estimates, and their spread the Monte-Carlo error.

References:
    Neal (2001), Annealed importance sampling. doi:10.1023/A:1008923215028
    Del Moral, Doucet and Jasra (2006), Sequential Monte Carlo samplers. doi:10.1111/j.1467-9868.2006.00553.x
    Dau and Chopin (2022), Waste-free sequential Monte Carlo. doi:10.1111/rssb.12475
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import LogDensity
from nlme_torch.errors import FitError
from nlme_torch.inference.likelihood.monte_carlo import MarginalEstimate, log_mean
from nlme_torch.inference.mcmc.hamiltonian import HMC
from nlme_torch.inference.mcmc.kernels import State, Tuning, evaluate_gradient
from nlme_torch.inference.mcmc.proposals import Mixture
from nlme_torch.inference.numerics.positive_definite import factor_or, root_of_diagonal
from nlme_torch.inference.progress import progress_line
from nlme_torch.settings import check_above, check_at_least, check_types


@dataclass(frozen=True, kw_only=True)
class Annealing:
    r"""How the particles go from the reference to the conditional distribution.

    Attributes:
        groups: Independent groups of particles: the spread of their answers is the Monte-Carlo error.
        chains: Ancestors drawn per group, subject and temperature.
        moves: Transitions of every ancestor per temperature. All states on the way are kept as particles, so a group
            holds ``chains * moves`` of them, each paid for by one trajectory.
        leapfrogs: Most leapfrog steps per trajectory.
        trajectory: Length of a trajectory in conditional standard deviations.
        efficiency: Effective share of the particles after reweighting to the next temperature; nearer to one makes
            a finer ladder.
        max_steps: Longest ladder.
    """

    groups: int = 8
    chains: int = 16
    moves: int = 4
    leapfrogs: int = 8
    trajectory: float = 1.5
    efficiency: float = 0.8
    max_steps: int = 300

    def __post_init__(self) -> None:
        check_types(self, FitError)
        check_at_least(self, FitError, 1, "chains", "moves", "leapfrogs", "max_steps")
        check_at_least(self, FitError, 2, "groups")
        check_above(self, FitError, 0, "trajectory", "efficiency")
        if not self.efficiency < 1:
            raise FitError(f"Annealing: efficiency must lie below 1, got {self.efficiency}.")


class AnnealedResult(NamedTuple):
    """What annealing found.

    Attributes:
        estimate: Log marginal likelihoods with their Monte-Carlo errors.
        draws: Draws of every subject's effects from their conditional distribution, ``(effect, draw, subject)``,
            equally weighted; those of the last round.
        temperatures: The ladder of each subject, ``(step, subject)``, from 0 to 1.
        acceptance: Mean acceptance of the transitions at each step, ``(step, subject)``.
    """

    estimate: MarginalEstimate
    draws: Tensor
    temperatures: Tensor
    acceptance: Tensor


class _Particles(NamedTuple):
    """Particles of all groups and what is known at them; ``energy`` is log joint minus log reference density."""

    effects: Tensor  # (effect, particle, group, subject)
    energy: Tensor  # (particle, group, subject)
    slope: Tensor  # (effect, particle, group, subject), gradient of the energy
    log_q: Tensor
    slope_q: Tensor

    def take(self, index: Tensor) -> "_Particles":
        """Gather along the particle axis by ``(particle', group, subject)``."""
        return _Particles(*(x.gather(-3, index.expand(*x.shape[:-3], *index.shape)) for x in self))


def annealed_importance_sampling(
    log_joint: LogDensity,
    reference: Mixture,
    *,
    generator: torch.Generator,
    annealing: Annealing | None = None,
    target_error: float | None = None,
    max_rounds: int = 10,
    progress: bool = False,
) -> AnnealedResult:
    """Estimate every subject's marginal likelihood by annealing.

    Args:
        log_joint: Log joint density with all constants, ``(effect, *batch, subject) -> (*batch, subject)``.
        reference: Where annealing begins: a density as wide as the joint one or wider, for every subject.
        generator: Source of randomness.
        annealing: Numbers of particles and moves; the defaults if None.
        target_error: Rounds of fresh groups are added until the standard error of the total is below it; one if None.
        max_rounds: Most rounds.
        progress: Whether to show a progress line: the way of the temperatures from their first value to one, on the
            logarithmic scale, in per cent of a round.

    Returns:
        Estimates with standard errors, draws, and the ladder.

    Raises:
        FitError: The ladder grew too long: the reference is too far from the joint density.

    Example:
        >>> from nlme_torch.inference.mcmc.proposals import normal
        >>> def log_joint(effects):
        ...     return -0.5 * effects.pow(2).sum(0)
        >>> q = normal(torch.zeros(2, 1, dtype=torch.float64), 2 * torch.eye(2, dtype=torch.float64)[..., None])
        >>> result = annealed_importance_sampling(log_joint, q, generator=torch.Generator().manual_seed(0))
        >>> abs(result.estimate.total - torch.log(torch.tensor(2 * torch.pi)).item()) < 0.05
        True
    """
    annealing = annealing or Annealing()
    effects, subject = len(reference.centres), reference.centres.shape[-1]
    evidence: list[Tensor] = []
    calls = 0
    with progress_line(100, "annealing", progress) as line:
        while True:

            def report(done: int, new: int) -> None:
                line.advance("annealing", {"round": len(evidence) + 1, "per cent": done}, count=new)

            log_evidence, particles, ladder, acceptance, used = _anneal(
                log_joint, reference, annealing, generator, report
            )
            evidence.append(log_evidence)
            calls += used
            estimate = _combine(torch.cat(evidence), calls)
            enough = target_error is None or estimate.total_standard_error <= target_error
            if enough or len(evidence) == max_rounds:
                break
            # the error falls with the root of the number of rounds
            needed = len(evidence) * (estimate.total_standard_error / (target_error or math.inf)) ** 2
            line.expect(100 * math.ceil(min(max(needed, len(evidence) + 1), max_rounds)))
        line.finish("annealing", 100 * len(evidence))
    draws = particles.effects.reshape(effects, -1, subject)
    return AnnealedResult(estimate, draws, ladder, acceptance)


def _combine(log_evidence: Tensor, calls: int) -> MarginalEstimate:
    """Average independent unbiased estimates of the marginal likelihood, ``(group, subject)``."""
    share = log_evidence.softmax(0) * len(log_evidence)
    error = (share.var(0) / len(log_evidence)).sqrt()
    return MarginalEstimate(log_mean(log_evidence), error, error.pow(-2), torch.full_like(error, torch.nan), calls)


def _anneal(
    log_joint: LogDensity,
    reference: Mixture,
    annealing: Annealing,
    generator: torch.Generator,
    report: Callable[[int, int], None] = lambda done, new: None,
) -> tuple[Tensor, _Particles, Tensor, Tensor, int]:
    """One round: log evidence ``(group, subject)``, the last particles, ladder, acceptance, calls."""
    groups, chains = annealing.groups, annealing.chains
    size, subject = chains * annealing.moves, reference.centres.shape[-1]
    start = reference.sample(size * groups, generator).unflatten(1, (size, groups))
    value, gradient = evaluate_gradient(log_joint, start)
    log_q, slope_q = evaluate_gradient(reference.log_density, start)
    particles = _Particles(start, value - log_q, gradient - slope_q, log_q, slope_q)
    temperature = start.new_zeros(subject)
    covariance = _moments(start)
    tuning = Tuning(start.new_full((1, subject), -0.5 * torch.log(torch.tensor(2.0)).item()), 0)
    kernel = HMC(leapfrogs=annealing.leapfrogs, gain_floor=0.2, target_acceptance=0.8)
    log_evidence = start.new_zeros(groups, subject)
    ladder, rates, calls, shown = [temperature], [], 1, 0
    while bool((temperature < 1).any()):
        if len(ladder) > annealing.max_steps:
            at = temperature.min().item()
            raise FitError(
                f"annealing stood at temperature {at:.3g} after {annealing.max_steps} steps: the reference is too "
                "far from the joint density; widen it (`widening`), or allow more (`max_steps`)."
            )
        new = _next_temperature(particles.energy, temperature, annealing.efficiency)
        increment = torch.where(new > temperature, (new - temperature) * particles.energy, 0.0)
        log_evidence = log_evidence + log_mean(increment)
        ancestors = particles.take(_resample(increment, chains, generator))
        covariance = _metric(particles.effects, increment, covariance)
        temperature = new
        factor = factor_or(covariance, root_of_diagonal(covariance)).permute(2, 3, 0, 1).flatten(2)
        scale = tuning.log_scale.repeat(1, groups)
        leapfrogs = round(annealing.trajectory / tuning.log_scale.exp().median().item())
        step = replace(kernel, factor=factor, adapt=False, leapfrogs=min(max(leapfrogs, 1), annealing.leapfrogs))
        state = State(
            ancestors.effects.flatten(-2),
            (ancestors.log_q + temperature * ancestors.energy).flatten(-2),
            (ancestors.slope_q + temperature * ancestors.slope).flatten(-2),
            Tuning(scale, 0),
        )
        path = _path(log_joint, reference, temperature)
        visited, rate = [], torch.zeros_like(temperature)
        for _ in range(annealing.moves):
            state, info = step.step(state, path, generator)
            calls += info.evaluations
            rate = rate + info.acceptance.unflatten(0, (groups, subject)).mean(0) / annealing.moves
            visited.append(_looked_up(state, reference, temperature, groups))
        particles = _Particles(*(torch.cat(parts, -3) for parts in zip(*visited, strict=True)))
        tuning = kernel._adapted(tuning, rate[None])
        ladder.append(temperature)
        rates.append(rate)
        first = ladder[1].clamp(max=1 - 1e-9)
        done = int(100 * float((1 - temperature.log() / first.log()).clamp(0, 1).nan_to_num(0.0).mean()))
        report(done, max(done - shown, 0))
        shown = max(done, shown)
    return log_evidence, particles, torch.stack(ladder), torch.stack(rates), calls


def _path(log_joint: LogDensity, reference: Mixture, temperature: Tensor) -> LogDensity:
    """The tempered density of columns ``(effect, *chain, group * subject)``."""

    def tempered(effects: Tensor) -> Tensor:
        grouped = effects.unflatten(-1, (-1, len(temperature)))
        start = reference.log_density(grouped)
        return (start + temperature * (log_joint(grouped) - start)).flatten(-2)

    return tempered


def _looked_up(state: State, reference: Mixture, temperature: Tensor, groups: int) -> _Particles:
    """Particles from a kernel's state: energy follows from the tempered value without another call."""
    assert state.gradient is not None
    effects, value, gradient = (x.unflatten(-1, (groups, -1)) for x in (state.effects, state.value, state.gradient))
    log_q, slope_q = evaluate_gradient(reference.log_density, effects)
    return _Particles(effects, (value - log_q) / temperature, (gradient - slope_q) / temperature, log_q, slope_q)


def _next_temperature(energy: Tensor, temperature: Tensor, efficiency: float) -> Tensor:
    """The temperature of each subject at which the effective share of the particles falls to ``efficiency``."""
    flat = energy.flatten(0, 1)
    alive = torch.isfinite(flat)
    count = alive.sum(0)

    def ess(step: Tensor) -> Tensor:
        scaled = torch.where(alive, step * flat, -torch.inf)
        return (2 * torch.logsumexp(scaled, 0) - torch.logsumexp(2 * scaled, 0)).exp() / count

    low, high = torch.zeros_like(temperature), 1.0 - temperature
    full = ess(high) >= efficiency
    for _ in range(60):
        middle = 0.5 * (low + high)
        good = ess(middle) >= efficiency
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return torch.where(full, 1.0, temperature + low)


def _moments(effects: Tensor) -> Tensor:
    """Covariance of the first particles, ``(group, subject, effect, effect)``."""
    flat = effects.flatten(1, 2)
    centred = flat - flat.mean(1, keepdim=True)
    covariance = torch.einsum("ins,jns->sij", centred, centred) / flat.shape[1]
    return covariance.expand(effects.shape[2], -1, -1, -1)


def _metric(effects: Tensor, log_weights: Tensor, previous: Tensor) -> Tensor:
    """Each group's metric from the particles of all other groups: from its own it would bias the transitions."""
    weights = log_weights.softmax(0)

    def others(x: Tensor) -> Tensor:
        return (x.sum(-2, keepdim=True) - x) / (x.shape[-2] - 1)

    mean = others(torch.einsum("ings,ngs->igs", effects, weights))
    second = others(torch.einsum("ings,jngs,ngs->ijgs", effects, effects, weights))
    covariance = (second - mean[:, None] * mean[None]).permute(2, 3, 0, 1)
    size = (weights.shape[1] - 1) / others(weights.pow(2).sum(0))
    lag = (len(effects) / (len(effects) + size))[..., None, None]
    return (1 - lag) * covariance + lag * previous


def _resample(log_weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Systematic resampling of ``count`` ancestors, ``(count, group, subject)``."""
    _, groups, subject = log_weights.shape
    shape = (groups, subject, 1)
    start = torch.rand(shape, generator=generator, dtype=log_weights.dtype, device=log_weights.device)
    positions = (torch.arange(count, device=log_weights.device) + start) / count
    cumulative = log_weights.softmax(0).cumsum(0).movedim(0, -1).contiguous()
    drawn = torch.searchsorted(cumulative / cumulative[..., -1:], positions)
    return drawn.clamp(max=len(log_weights) - 1).movedim(-1, 0)
