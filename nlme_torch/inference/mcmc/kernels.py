"""Markov chain Monte Carlo kernels for the random effects: one chain per column, accepted on its own.

Every kernel is a frozen dataclass with a pure ``init``/``step`` pair over a ``State``. A kernel whose
proposal depends on the current population parameters (Omega, a mode, a metric) is rebuilt by
``dataclasses.replace`` when they change: its adapted scales live in the state. After the target itself has
changed, ``refresh`` re-evaluates the state.

Columns are ``(*chain, subject)``; scales are adapted **per subject** over all its chains. A proposal whose
log density is NaN or infinite is rejected, never an exception.
"""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from nlme_torch._typing import Bool, Float, LogDensity
from nlme_torch.inference.mcmc.proposals import Mixture
from nlme_torch.model.density.absolute_zeros import gradients


class Tuning(NamedTuple):
    """What a kernel has learned.

    Attributes:
        log_scale: Logarithm of the step size, ``(component, subject)``; one component unless each effect has
            its own.
        count: Number of steps taken so far.
    """

    log_scale: Tensor
    count: int  # type: ignore[assignment]


class State(NamedTuple):
    """Where the chains are.

    Attributes:
        effects: Current random effects, ``(effect, *chain, subject)``.
        value: Log density there, ``(*chain, subject)``; ``-inf`` where it cannot be evaluated.
        gradient: Gradient of the log density, ``(effect, *chain, subject)``, or None when no kernel needed it
            yet.
        tuning: The kernel's adapted scales; a tuple of them for a ``Cycle``.
    """

    effects: Tensor
    value: Tensor
    gradient: Tensor | None
    tuning: "Tuning | tuple[Tuning, ...]"


class Info(NamedTuple):
    """What one step did.

    Attributes:
        acceptance: Mean acceptance probability of each subject, ``(subject,)``.
        evaluations: Number of calls of the log density.
        parts: One ``Info`` per kernel of a ``Cycle``, otherwise empty.
    """

    acceptance: Tensor
    evaluations: int
    parts: "tuple[Info, ...]" = ()


@runtime_checkable
class Kernel(Protocol):
    """What every kernel offers."""

    def init(self, effects: Tensor, log_joint: LogDensity) -> State:
        """Start chains at ``effects``, ``(effect, *chain, subject)``."""
        ...

    def step(self, state: State, log_joint: LogDensity, generator: torch.Generator) -> tuple[State, Info]:
        """Move every chain once; leaves ``exp(log_joint)`` invariant."""
        ...


def evaluate(log_joint: LogDensity, effects: Float[Tensor, "effect *batch"]) -> Float[Tensor, "*batch"]:
    """Log density without a graph; NaN and ``+inf`` (a failed solve) become ``-inf``."""
    with torch.no_grad():
        value = log_joint(effects)
    return torch.where(torch.isfinite(value), value, -torch.inf)


def evaluate_gradient(
    log_joint: LogDensity, effects: Float[Tensor, "effect *batch"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "effect *batch"]]:
    """Log density and its gradient, per column, detached.

    Returns:
        ``(value, gradient)``; a value that is not finite becomes ``-inf``, and a gradient that is not finite
        zero (any fixed rule keeps a leapfrog step reversible and volume-preserving, hence the kernel exact).
    """
    with torch.enable_grad():
        leaf = effects.detach().requires_grad_()
        value = log_joint(leaf)
        (gradient,) = gradients(value.sum(), leaf, evaluated=torch.isfinite(value.detach()))
    value = value.detach()
    finite = torch.isfinite(value)
    usable = finite & torch.isfinite(gradient).all(0)
    return torch.where(finite, value, -torch.inf), torch.where(usable, gradient, 0.0)


def refresh(state: State, log_joint: LogDensity) -> State:
    """The same chains under a new log density (the population parameters have moved)."""
    return state._replace(value=evaluate(log_joint, state.effects), gradient=None)


def transform(factor: Tensor, noise: Float[Tensor, "effect *batch"]) -> Float[Tensor, "effect *batch"]:
    """Multiply every column by its subject's factor.

    Args:
        factor: Standard deviations ``(effect, subject)`` or lower-triangular matrices
            ``(effect, effect, subject)``; a subject axis of length one is shared.
        noise: Columns, ``(effect, *chain, subject)``.

    Returns:
        ``factor @ column``, ``(effect, *chain, subject)``.
    """
    chain = (1,) * (noise.ndim - 2)
    if factor.ndim == 2:
        return factor.reshape(factor.shape[0], *chain, -1) * noise
    columns = noise.reshape(noise.shape[0], -1, noise.shape[-1])
    if factor.shape[-1] == 1:
        return torch.einsum("ij,jcs->ics", factor[..., 0], columns).reshape(noise.shape)
    return torch.einsum("ijs,jcs->ics", factor, columns).reshape(noise.shape)


def metropolis(log_ratio: Tensor, generator: torch.Generator) -> tuple[Bool[Tensor, "*batch"], Tensor]:
    """Accept or reject each column on its own.

    Args:
        log_ratio: Logarithm of the Metropolis-Hastings ratio, ``(*batch)``; NaN (nothing to compare) is
            rejected.
        generator: Source of randomness.

    Returns:
        ``(accepted, probability)``, both ``(*batch)``.
    """
    probability = torch.nan_to_num(log_ratio, nan=-torch.inf).clamp(max=0.0).exp()
    uniform = torch.rand(log_ratio.shape, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
    return uniform < probability, probability


def _over_chains(value: Tensor) -> Tensor:
    """Mean over all chain axes: ``(*chain, subject)`` to ``(subject,)``."""
    return value.reshape(-1, value.shape[-1]).mean(0)


@dataclass(frozen=True, kw_only=True)
class _Adaptive:
    r"""Robbins-Monro adaptation of log step sizes towards an acceptance probability.

    .. math::
        \log s \leftarrow
        \log s + \max(g_{min}, g\, n^{-0.6})\, \frac{\bar\alpha - \alpha^*}{\alpha^* (1 - \alpha^*)}

    Attributes:
        target_acceptance: The acceptance probability aimed at.
        gain: First adaptation gain.
        gain_floor: The gain never falls below it, so that scales follow a slowly moving target; 0 for a fixed
            one.
        adapt: Whether the scales change at all. Freeze them while draws are kept.

    References:
        Garthwaite, Fan and Sisson (2016), Adaptive optimal scaling of Metropolis-Hastings algorithms using
        the Robbins-Monro process. doi:10.1080/03610926.2014.936562
    """

    target_acceptance: float = 0.4
    gain: float = 1.0
    gain_floor: float = 0.02
    adapt: bool = True

    def _adapted(self, tuning: Tuning, probability: Tensor) -> Tuning:
        """The tuning after a step with this mean acceptance; NaN entries (never tried) stay put."""
        log_scale = tuning.log_scale
        if self.adapt:
            gain = max(self.gain_floor, self.gain * (tuning.count + 1) ** -0.6)
            aim = self.target_acceptance
            change = gain * (probability - aim) / (aim * (1.0 - aim))
            log_scale = (log_scale + torch.nan_to_num(change, nan=0.0)).clamp(-25.0, 10.0)
        return Tuning(log_scale, tuning.count + 1)


def _start(effects: Tensor, log_joint: LogDensity, components: int, scale: float) -> State:
    log_scale = effects.new_full((components, effects.shape[-1]), math.log(scale))
    return State(effects.detach(), evaluate(log_joint, effects), None, Tuning(log_scale, 0))


@dataclass(frozen=True)
class RandomWalk(_Adaptive):
    r"""Component-wise random walk, or a walk in random subsets of the components.

    .. math::
        \eta_j^* = \eta_j + s_{ji}\, \omega_{ji}\, \epsilon_j \quad (j \in \text{subset}), \qquad
        \epsilon_j \sim N(0, 1)

    One step visits the components in an order drawn afresh for every column, ``size`` at a time, each group
    with its own acceptance; with ``moves=None`` every component is visited once. Every (effect, subject) has
    its own adapted scale.

    Attributes:
        scale: Base standard deviations, ``(effect, subject)`` or ``(effect, 1)``, for instance the square
            roots of the diagonal of Omega; None is one.
        size: Number of components moved together (1: component-wise).
        moves: Number of groups tried per step, each one call of the log density; None visits all components.

    Example:
        >>> import torch
        >>> log_joint = lambda effects: -0.5 * effects.pow(2).sum(0)
        >>> kernel, generator = RandomWalk(), torch.Generator().manual_seed(0)
        >>> state = kernel.init(torch.zeros(2, 10, 3, dtype=torch.float64), log_joint)
        >>> state, info = kernel.step(state, log_joint, generator)
        >>> info.evaluations, info.acceptance.shape
        (2, torch.Size([3]))

    References:
        Haario, Saksman and Tamminen (2005), Componentwise adaptation for high dimensional MCMC.
        doi:10.1007/BF02789703
        Kuhn and Lavielle (2005), Maximum likelihood estimation in nonlinear mixed effects models.
        doi:10.1016/j.csda.2004.07.033
    """

    scale: Tensor | None = None
    size: int = 1
    moves: int | None = None

    def init(self, effects: Tensor, log_joint: LogDensity) -> State:
        """Start chains at ``effects``, ``(effect, *chain, subject)``."""
        return _start(effects, log_joint, effects.shape[0], 1.0)

    def step(self, state: State, log_joint: LogDensity, generator: torch.Generator) -> tuple[State, Info]:
        """Move each group of components of every chain once."""
        effects, value, _, tuning = state
        assert isinstance(tuning, Tuning)
        draws: dict[str, Any] = {"generator": generator, "dtype": effects.dtype, "device": effects.device}
        step_size = tuning.log_scale.exp()
        if self.scale is not None:
            step_size = step_size * self.scale
        order = torch.rand(effects.shape, **draws).argsort(0).argsort(0)
        groups = math.ceil(effects.shape[0] / self.size)
        moves = groups if self.moves is None else min(self.moves, groups)
        tried = effects.new_zeros(effects.shape)
        won = torch.zeros_like(tried)
        for group in range(moves):
            chosen = order // self.size == group
            noise = transform(step_size, torch.randn(effects.shape, **draws))
            proposal = torch.where(chosen, effects + noise, effects)
            proposed = evaluate(log_joint, proposal)
            accepted, probability = metropolis(proposed - value, generator)
            effects, value = torch.where(accepted, proposal, effects), torch.where(accepted, proposed, value)
            tried += chosen
            won += chosen * probability
        tried, won = (x.reshape(x.shape[0], -1, x.shape[-1]).sum(1) for x in (tried, won))
        info = Info(won.sum(0) / tried.sum(0), moves)
        return State(effects, value, None, self._adapted(tuning, won / tried)), info


@dataclass(frozen=True)
class BlockRandomWalk(_Adaptive):
    r"""Random walk of all components together.

    .. math:: \eta^* = \eta + s_i L_i \epsilon, \qquad \epsilon \sim N(0, I)

    Attributes:
        factor: ``(effect, effect, subject)`` lower Cholesky factor, or ``(effect, subject)`` standard
            deviations, of the covariance that shapes the steps: Omega, or better the conditional covariance;
            a subject axis of length one is shared; None is the identity.
        target_acceptance: Acceptance aimed at; 0.3 here, lower than component by component.

    References:
        Haario, Saksman and Tamminen (2001), An adaptive Metropolis algorithm. doi:10.2307/3318737
    """

    factor: Tensor | None = None
    target_acceptance: float = field(default=0.3, kw_only=True)

    def init(self, effects: Tensor, log_joint: LogDensity) -> State:
        """Start chains at ``effects``, ``(effect, *chain, subject)``."""
        return _start(effects, log_joint, 1, 2.38 / math.sqrt(effects.shape[0]))

    def step(self, state: State, log_joint: LogDensity, generator: torch.Generator) -> tuple[State, Info]:
        """Move every chain once: one call of the log density."""
        effects, value, _, tuning = state
        assert isinstance(tuning, Tuning)
        noise = torch.randn(effects.shape, generator=generator, dtype=effects.dtype, device=effects.device)
        if self.factor is not None:
            noise = transform(self.factor, noise)
        proposal = effects + tuning.log_scale.exp()[0] * noise
        proposed = evaluate(log_joint, proposal)
        accepted, probability = metropolis(proposed - value, generator)
        acceptance = _over_chains(probability)
        state = State(
            torch.where(accepted, proposal, effects),
            torch.where(accepted, proposed, value),
            None,
            self._adapted(tuning, acceptance[None]),
        )
        return state, Info(acceptance, 1)


@dataclass(frozen=True)
class Independent:
    r"""Independence sampler: proposals from a fixed distribution of each subject, whatever the current point.

    .. math:: \alpha = \min\{1,\; p(\eta^*)\, q_i(\eta) \,/\, (p(\eta)\, q_i(\eta^*))\}

    With ``proposals.normal(0, cholesky of Omega)`` it is SAEM's prior kernel: the prior cancels, so
    acceptance is by the likelihood alone. With a normal or Student-t at the conditional mode it is f-SAEM's
    Laplace proposal; with a mixture over several modes it also jumps between them.

    Attributes:
        proposal: The distribution proposed from.

    References:
        Karimi, Lavielle and Moulines (2020), f-SAEM: a fast stochastic approximation of the EM algorithm for
        nonlinear mixed effects models. doi:10.1016/j.csda.2019.07.001
    """

    proposal: Mixture

    def init(self, effects: Tensor, log_joint: LogDensity) -> State:
        """Start chains at ``effects``, ``(effect, *chain, subject)``."""
        return _start(effects, log_joint, 1, 1.0)

    def step(self, state: State, log_joint: LogDensity, generator: torch.Generator) -> tuple[State, Info]:
        """Offer every chain one independent draw: one call of the log density."""
        effects, value, _, tuning = state
        assert isinstance(tuning, Tuning)
        batch = effects.shape[1:]
        proposal = self.proposal.sample(math.prod(batch[:-1]), generator).reshape(effects.shape)
        proposed = evaluate(log_joint, proposal)
        log_q = self.proposal.log_density(torch.stack([effects, proposal], 1))
        accepted, probability = metropolis(proposed - value + log_q[0] - log_q[1], generator)
        state = State(
            torch.where(accepted, proposal, effects),
            torch.where(accepted, proposed, value),
            None,
            tuning._replace(count=tuning.count + 1),
        )
        return state, Info(_over_chains(probability), 1)
