"""Gradient kernels: Hamiltonian Monte Carlo, which with one leapfrog step is the adjusted Langevin algorithm."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nlme_torch._typing import Float, LogDensity
from nlme_torch.inference.mcmc.kernels import (
    Info,
    State,
    Tuning,
    _Adaptive,
    _over_chains,
    evaluate_gradient,
    metropolis,
    transform,
)


@dataclass(frozen=True)
class HMC(_Adaptive):
    r"""Hamiltonian Monte Carlo with a step size per subject and a metric per subject.

    In the whitened coordinates :math:`\eta = L_i x` the momentum is standard normal:

    .. math::
        p \leftarrow p + \tfrac{\epsilon}{2} L^\top \nabla, \qquad \eta \leftarrow \eta + \epsilon L p, \qquad
        p \leftarrow p + \tfrac{\epsilon}{2} L^\top \nabla

    repeated ``leapfrogs`` times, then accepted with :math:`\min\{1, \exp(-\Delta H)\}`. Step sizes are
    jittered, so that no trajectory length is resonant. A column that leaves the region where the density can
    be evaluated is rejected at once and waits at its starting point while the others finish.

    Attributes:
        factor: Metric, ``(effect, subject)`` standard deviations or ``(effect, effect, subject)`` lower
            Cholesky factor of the (conditional) covariance; a subject axis of length one is shared; None is
            the identity.
        leapfrogs: Leapfrog steps per trajectory, each one gradient call; with one it is the Metropolis-adjusted
            Langevin algorithm, whose acceptance is best at 0.574.
        jitter: Step sizes are multiplied by a uniform draw from ``[1 - jitter, 1 + jitter]``, one per column.
        target_acceptance: Acceptance aimed at.

    Example:
        >>> import torch
        >>> log_joint = lambda effects: -0.5 * effects.pow(2).sum(0)
        >>> kernel, generator = HMC(leapfrogs=3), torch.Generator().manual_seed(0)
        >>> state = kernel.init(torch.zeros(2, 10, 3, dtype=torch.float64), log_joint)
        >>> state, info = kernel.step(state, log_joint, generator)
        >>> info.evaluations
        3

    References:
        Neal (2011), MCMC using Hamiltonian dynamics, Handbook of Markov Chain Monte Carlo.
        doi:10.1201/b10905-6
        Beskos et al. (2013), Optimal tuning of the hybrid Monte Carlo algorithm. doi:10.3150/12-BEJ414
        Roberts and Rosenthal (1998), Optimal scaling of discrete approximations to Langevin diffusions.
        doi:10.1111/1467-9868.00123
    """

    factor: Tensor | None = None
    leapfrogs: int = 10
    jitter: float = 0.2
    target_acceptance: float = field(default=0.7, kw_only=True)

    def init(self, effects: Tensor, log_joint: LogDensity) -> State:
        """Start chains at ``effects``, ``(effect, *chain, subject)``."""
        value, gradient = evaluate_gradient(log_joint, effects)
        first = 1.0 / effects.shape[0] ** 0.25
        log_scale = effects.new_full((1, effects.shape[-1]), math.log(first))
        return State(effects.detach(), value, gradient, Tuning(log_scale, 0))

    def step(self, state: State, log_joint: LogDensity, generator: torch.Generator) -> tuple[State, Info]:
        """Run one trajectory for every chain."""
        effects, value, gradient, tuning = state
        assert isinstance(tuning, Tuning)
        calls = self.leapfrogs
        if gradient is None:
            value, gradient = evaluate_gradient(log_joint, effects)
            calls += 1
        draws: dict[str, Any] = {"generator": generator, "dtype": effects.dtype, "device": effects.device}
        momentum = torch.randn(effects.shape, **draws)
        uniform = torch.rand(effects.shape[1:], **draws)
        epsilon = tuning.log_scale.exp()[0] * (1.0 + self.jitter * (2.0 * uniform - 1.0))
        start_energy = value - 0.5 * momentum.pow(2).sum(0)

        position, slope, current = effects, gradient, value
        alive = torch.isfinite(value)
        for _ in range(self.leapfrogs):
            momentum = momentum + 0.5 * epsilon * self._pull(slope)
            moved = position + epsilon * self._push(momentum)
            position = torch.where(alive, moved, effects)
            current, slope = evaluate_gradient(log_joint, position)
            alive = alive & torch.isfinite(current)
            momentum = momentum + 0.5 * epsilon * self._pull(slope)
        end_energy = torch.where(alive, current - 0.5 * momentum.pow(2).sum(0), -torch.inf)
        accepted, probability = metropolis(end_energy - start_energy, generator)
        acceptance = _over_chains(probability)
        state = State(
            torch.where(accepted, position, effects),
            torch.where(accepted, current, value),
            torch.where(accepted, slope, gradient),
            self._adapted(tuning, acceptance[None]),
        )
        return state, Info(acceptance, calls)

    def _push(self, momentum: Float[Tensor, "effect *batch"]) -> Float[Tensor, "effect *batch"]:
        return momentum if self.factor is None else transform(self.factor, momentum)

    def _pull(self, gradient: Float[Tensor, "effect *batch"]) -> Float[Tensor, "effect *batch"]:
        if self.factor is None:
            return gradient
        return transform(self.factor if self.factor.ndim == 2 else self.factor.transpose(0, 1), gradient)
