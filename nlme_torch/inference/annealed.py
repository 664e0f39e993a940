"""Annealed importance sampling: the marginal likelihood where a single proposal fails, with tens of effects."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .._typing import Float, LogDensity
from ..errors import FitError
from .hamiltonian import HMC
from .kernels import State, Tuning
from .marginal import MarginalEstimate, log_mean
from .proposals import Mixture


class AnnealedResult(NamedTuple):
    """What annealed importance sampling found.

    Attributes:
        estimate: Log marginal likelihoods with their Monte-Carlo errors.
        effects: Particles at the end, ``(effect, group, particle, subject)``; with ``log_weights`` they represent
            the conditional distribution of each subject's effects.
        log_weights: Normalised within each group, ``(group, particle, subject)``.
        temperatures: The ladder of each subject, ``(step, subject)``, from 0 to 1.
        acceptance: Mean acceptance of the transitions at each step, ``(step, subject)``.
    """

    estimate: MarginalEstimate
    effects: Tensor
    log_weights: Tensor
    temperatures: Tensor
    acceptance: Tensor


@dataclass(frozen=True)
class _Path:
    r"""The tempered density :math:`(1 - \beta_i) \log q_i + \beta_i \log p`, remembering nothing."""

    log_joint: LogDensity
    reference: Mixture
    temperature: Tensor

    def __call__(self, effects: Tensor) -> Tensor:
        grouped = effects.unflatten(-1, (-1, self.reference.centres.shape[-1]))
        start = self.reference.log_density(grouped)
        return (start + self.temperature * (self.log_joint(grouped) - start)).flatten(-2)


def annealed_importance_sampling(
    log_joint: LogDensity, reference: Mixture, *, generator: torch.Generator, groups: int = 8, particles: int = 64,
    leapfrogs: int = 5, moves: int = 1, efficiency: float = 0.9, resample_below: float = 0.5, max_steps: int = 300,
) -> AnnealedResult:
    effect, _, subject = reference.centres.shape
    # (effect, particle, group, subject): the kernel takes every (group, subject) for a subject of its own.
    effects = reference.sample(groups * particles, generator).unflatten(1, (groups, particles))
    pack = lambda x: x.transpose(-3, -2).flatten(-2)
    unpack = lambda x: x.unflatten(-1, (groups, subject)).transpose(-3, -2)
    temperature = effects.new_zeros(subject)
    kernel = HMC(leapfrogs=leapfrogs, gain_floor=0.1)
    state = kernel.init(pack(effects), _Path(log_joint, reference, temperature + 1))
    log_q, slope_q = _reference(reference, effects)
    # U = log p - log q drives the path; it and its gradient follow from the tempered value, without another call.
    energy, slope = unpack(state.value) - log_q, unpack(state.gradient) - slope_q
    log_weights = torch.zeros_like(energy) - torch.log(torch.tensor(float(particles)))
    log_evidence = energy.new_zeros(groups, subject)
    first = effects.flatten(1, 2) - effects.flatten(1, 2).mean(1, keepdim=True)
    covariance = torch.einsum('ins,jns->sij', first, first).div(groups * particles).expand(groups, -1, -1, -1)
    ladder, acceptance, calls = [temperature], [], 1
    for _ in range(max_steps):
        if bool((temperature >= 1).all()):
            break
        new = _next_temperature(energy, log_weights, temperature, efficiency)
        increment = torch.where(new > temperature, (new - temperature) * energy, 0.0)
        log_weights = log_weights + increment
        total = torch.logsumexp(log_weights, 1)
        log_evidence = log_evidence + total
        log_weights = log_weights - total[:, None]
        temperature = new
        covariance = _metric(effects, log_weights, covariance)
        factor = torch.linalg.cholesky(covariance).permute(2, 3, 0, 1).flatten(2)
        index, log_weights = _resample(log_weights, resample_below, generator)
        take = lambda x: x.gather(-2, index.expand_as(x))  # noqa: E731
        effects, energy, slope, log_q, slope_q = map(take, (effects, energy, slope, log_q, slope_q))
        kernel = replace(kernel, factor=factor)
        state = State(pack(effects), pack(log_q + temperature * energy), pack(slope_q + temperature * slope), state.tuning)
        path = _Path(log_joint, reference, temperature)
        for _ in range(moves):
            state, info = kernel.step(state, path, generator)
            calls += info.evaluations
        effects = unpack(state.effects)
        log_q, slope_q = _reference(reference, effects)
        energy = (unpack(state.value) - log_q) / temperature
        slope = (unpack(state.gradient) - slope_q) / temperature
        ladder.append(temperature)
        acceptance.append(info.acceptance)
    relative = (log_evidence - log_evidence.amax(0)).exp()
    relative = relative / relative.mean(0)
    se = (relative.var(0) / groups).sqrt()
    ess = 1 / (log_weights - torch.logsumexp(log_weights, (0, 1))).exp().pow(2).sum((0, 1))
    estimate = MarginalEstimate(log_mean(log_evidence), se, ess, torch.full_like(se, torch.nan), calls)
    return AnnealedResult(estimate, effects, log_weights, torch.stack(ladder), torch.stack(acceptance))


def _reference(reference: Mixture, effects: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = effects.detach().requires_grad_()
        value = reference.log_density(leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def _next_temperature(energy: Tensor, log_weights: Tensor, temperature: Tensor, efficiency: float) -> Tensor:
    flat = energy.flatten(0, 1)
    weights = log_weights.flatten(0, 1).softmax(0)
    alive = torch.isfinite(flat)
    logw = torch.where(alive, weights, 0.0)
    logw = (logw / logw.sum(0)).log()
    flat = torch.where(alive, flat, 0.0)

    def ess(step: Tensor) -> Tensor:
        return (2 * torch.logsumexp(logw + step * flat, 0) - torch.logsumexp(logw + 2 * step * flat, 0)).exp()

    low, high = torch.zeros_like(temperature), 1.0 - temperature
    full = ess(high) >= efficiency
    for _ in range(60):
        middle = 0.5 * (low + high)
        good = ess(middle) >= efficiency
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return torch.where(full, 1.0, temperature + low)


def _metric(effects: Tensor, log_weights: Tensor, previous: Tensor) -> Tensor:
    """Each group's metric from the particles of all other groups: from its own it would bias the transitions."""
    groups, particles, subject = log_weights.shape
    weights = log_weights.exp()
    def others(x: Tensor) -> Tensor:
        return x.sum(-2, keepdim=True) - x
    mean = torch.einsum("igns,gns->igs", effects, weights)
    second = torch.einsum("igns,jgns,gns->ijgs", effects, effects, weights)
    share = 1.0 / (groups - 1)
    mean, second = others(mean) * share, others(second) * share
    covariance = (second - mean[:, None] * mean[None]).permute(2, 3, 0, 1)
    size = 1 / (others(weights.pow(2).sum(1)) * share**2)
    lag = len(effects) / (len(effects) + size)
    return (1 - lag)[..., None, None] * covariance + lag[..., None, None] * previous


def _resample(log_weights: Tensor, below: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    groups, particles, subject = log_weights.shape
    size = 1 / log_weights.exp().pow(2).sum(1)
    needed = size < below * particles
    start = torch.rand(groups, 1, subject, generator=generator, dtype=log_weights.dtype, device=log_weights.device)
    positions = (torch.arange(particles, device=log_weights.device)[:, None] + start) / particles
    cumulative = log_weights.exp().cumsum(1)
    cumulative = cumulative / cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative.movedim(1, -1).contiguous(), positions.movedim(1, -1).contiguous())
    drawn = drawn.movedim(-1, 1).clamp(max=particles - 1)
    own = torch.arange(particles, device=log_weights.device)[:, None].expand_as(drawn)
    index = torch.where(needed[:, None], drawn, own)
    even = -torch.log(torch.tensor(float(particles), dtype=log_weights.dtype))
    return index, torch.where(needed[:, None], even, log_weights)
