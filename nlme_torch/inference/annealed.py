"""Annealed sequential Monte Carlo: the marginal likelihood where a single proposal fails, with tens of effects."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Float, LogDensity
from nlme_torch.errors import FitError
from nlme_torch.inference.hamiltonian import HMC
from nlme_torch.inference.kernels import State, Tuning, evaluate, evaluate_gradient
from nlme_torch.inference.marginal import MarginalEstimate, log_mean
from nlme_torch.inference.proposals import Mixture


@dataclass(frozen=True)
class Annealing:
    r"""How the particles go from the reference to the conditional distribution.

    Attributes:
        groups: Independent groups of particles: the spread of their answers is the Monte-Carlo error.
        chains: Ancestors drawn per group, subject and temperature.
        moves: Transitions of every ancestor per temperature. All states on the way are kept as particles, so a group
            holds ``chains * moves`` of them, each paid for by one trajectory.
        leapfrogs: Leapfrog steps per trajectory.
        efficiency: Effective share of the particles after reweighting to the next temperature; nearer to one makes
            a finer ladder.
        max_steps: Longest ladder.
    """

    groups: int = 8
    chains: int = 16
    moves: int = 8
    leapfrogs: int = 3
    efficiency: float = 0.85
    max_steps: int = 300


class AnnealedResult(NamedTuple):
    """What annealing found.

    Attributes:
        estimate: Log marginal likelihoods with their Monte-Carlo errors.
        draws: Draws of every subject's effects from their conditional distribution, ``(effect, draw, subject)``, equally
            weighted; those of the last round.
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
    annealing: Annealing = Annealing(),
    target_error: float | None = None,
    max_rounds: int = 10,
) -> AnnealedResult:
    effects, subject = len(reference.centres), reference.centres.shape[-1]
    evidence: list[Tensor] = []
    calls = 0
    while True:
        log_evidence, particles, ladder, acceptance, used = _anneal(log_joint, reference, annealing, generator)
        evidence.append(log_evidence)
        calls += used
        estimate = _combine(torch.cat(evidence), calls)
        enough = target_error is None or estimate.total_standard_error <= target_error
        if enough or len(evidence) == max_rounds:
            break
    draws = particles.effects.reshape(effects, -1, subject)
    return AnnealedResult(estimate, draws, ladder, acceptance)


def _combine(log_evidence: Tensor, calls: int) -> MarginalEstimate:
    """Average independent unbiased estimates of the marginal likelihood, ``(group, subject)``."""
    share = log_evidence.softmax(0) * len(log_evidence)
    error = (share.var(0) / len(log_evidence)).sqrt()
    return MarginalEstimate(log_mean(log_evidence), error, error.pow(-2), torch.full_like(error, torch.nan), calls)


def _anneal(log_joint, reference, annealing, generator):
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
    ladder, rates, calls = [temperature], [], 1
    while bool((temperature < 1).any()):
        if len(ladder) > annealing.max_steps:
            raise FitError("ladder")
        new = _next_temperature(particles.energy, temperature, annealing.efficiency)
        increment = torch.where(new > temperature, (new - temperature) * particles.energy, 0.0)
        log_evidence = log_evidence + log_mean(increment)
        ancestors = particles.take(_resample(increment, chains, generator))
        covariance = _metric(particles.effects, increment, covariance)
        temperature = new
        factor = torch.linalg.cholesky(covariance).permute(2, 3, 0, 1).flatten(2)
        scale = tuning.log_scale.repeat(1, groups)
        step = replace(kernel, factor=factor, adapt=False)
        state = State(
            ancestors.effects.flatten(-2), (ancestors.log_q + temperature * ancestors.energy).flatten(-2),
            (ancestors.slope_q + temperature * ancestors.slope).flatten(-2), Tuning(scale, 0),
        )
        path = _path(log_joint, reference, temperature)
        visited, rate = [], 0.0
        for _ in range(annealing.moves):
            state, info = step.step(state, path, generator)
            calls += info.evaluations
            rate = rate + info.acceptance.unflatten(0, (groups, subject)).mean(0) / annealing.moves
            visited.append(_looked_up(state, reference, temperature, groups))
        particles = _Particles(*(torch.cat(parts, -3) for parts in zip(*visited)))
        tuning = kernel._adapted(tuning, rate[None])
        ladder.append(temperature)
        rates.append(rate)
    return log_evidence, particles, torch.stack(ladder), torch.stack(rates), calls


def _path(log_joint, reference, temperature):
    def tempered(effects):
        grouped = effects.unflatten(-1, (-1, len(temperature)))
        start = reference.log_density(grouped)
        return (start + temperature * (log_joint(grouped) - start)).flatten(-2)
    return tempered


def _looked_up(state, reference, temperature, groups):
    effects, value, gradient = (x.unflatten(-1, (groups, -1)) for x in state[:3])
    log_q, slope_q = evaluate_gradient(reference.log_density, effects)
    return _Particles(effects, (value - log_q) / temperature, (gradient - slope_q) / temperature, log_q, slope_q)


def _next_temperature(energy: Tensor, temperature: Tensor, efficiency: float) -> Tensor:
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


def _moments(effects):
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
    _, groups, subject = log_weights.shape
    like = {"dtype": log_weights.dtype, "device": log_weights.device}
    start = torch.rand(groups, subject, 1, generator=generator, **like)
    positions = (torch.arange(count, device=log_weights.device) + start) / count
    cumulative = log_weights.softmax(0).cumsum(0).movedim(0, -1).contiguous()
    drawn = torch.searchsorted(cumulative / cumulative[..., -1:], positions)
    return drawn.clamp(max=len(log_weights) - 1).movedim(-1, 0)
