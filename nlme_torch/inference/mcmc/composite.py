"""Several Markov kernels in turn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nlme_torch._typing import LogDensity
from nlme_torch.inference.mcmc.kernels import Info, Kernel, State, _Adaptive


@dataclass(frozen=True)
class Cycle:
    """Several kernels in turn over the same chains.

    Attributes:
        kernels: The kernels, in order.
        repeats: How often each one runs in a step; None is once each. Zero switches one off but keeps its
            scales.

    Example:
        >>> import torch
        >>> from nlme_torch.inference.mcmc.kernels import BlockRandomWalk, RandomWalk
        >>> log_joint = lambda effects: -0.5 * effects.pow(2).sum(0)
        >>> kernel = Cycle((RandomWalk(), BlockRandomWalk()), repeats=(2, 1))
        >>> state = kernel.init(torch.zeros(2, 4, 3, dtype=torch.float64), log_joint)
        >>> state, info = kernel.step(state, log_joint, torch.Generator().manual_seed(0))
        >>> info.evaluations, len(info.parts)
        (5, 2)
    """

    kernels: tuple[Kernel, ...]
    repeats: tuple[int, ...] | None = None

    def init(self, effects: Tensor, log_joint: LogDensity) -> State:
        """Start chains at ``effects``, ``(effect, *chain, subject)``."""
        states = [kernel.init(effects, log_joint) for kernel in self.kernels]
        tunings = tuple(state.tuning for state in states)
        return states[0]._replace(tuning=tunings)  # type: ignore[arg-type]

    def step(self, state: State, log_joint: LogDensity, generator: torch.Generator) -> tuple[State, Info]:
        """Run every kernel its number of times."""
        tunings, parts = list(state.tuning), []
        for index, kernel in enumerate(self.kernels):
            state = state._replace(tuning=tunings[index])  # type: ignore[arg-type]
            infos = []
            for _ in range(1 if self.repeats is None else self.repeats[index]):
                state, info = kernel.step(state, log_joint, generator)
                infos.append(info)
            tunings[index] = state.tuning
            parts.append(_mean_info(infos, state))
        state = state._replace(tuning=tuple(tunings))  # type: ignore[arg-type]
        return state, _mean_info(parts, state)._replace(parts=tuple(parts))


def _mean_info(infos: Sequence[Info], state: State) -> Info:
    """Acceptance averaged over the infos that evaluated anything."""
    used = [info for info in infos if info.evaluations]
    if not used:
        return Info(torch.full_like(state.value.reshape(-1, state.value.shape[-1])[0], torch.nan), 0)
    return Info(torch.stack([i.acceptance for i in used]).mean(0), sum(i.evaluations for i in used))


def frozen(kernel: Kernel) -> Kernel:
    """The same kernel with adaptation switched off, for chains whose draws are kept.

    Adaptation makes a chain's law depend on its past; freezing it makes the kernel exactly invariant.
    """
    if isinstance(kernel, Cycle):
        return replace(kernel, kernels=tuple(frozen(part) for part in kernel.kernels))
    return replace(kernel, adapt=False) if isinstance(kernel, _Adaptive) else kernel
