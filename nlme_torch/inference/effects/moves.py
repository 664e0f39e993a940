"""Which Markov kernels SAEM runs for the random effects, and the conditional moments that shape their proposals."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nlme_torch.errors import FitError
from nlme_torch.inference.mcmc.composite import Cycle
from nlme_torch.inference.mcmc.hamiltonian import HMC
from nlme_torch.inference.mcmc.kernels import BlockRandomWalk, Independent, Kernel, RandomWalk
from nlme_torch.inference.mcmc.proposals import factor_of_precision, normal, student
from nlme_torch.inference.modes.conditional_modes import best_mode, conditional_modes
from nlme_torch.inference.modes.effect_density import column_density
from nlme_torch.inference.modes.mode_search import reach
from nlme_torch.inference.numerics import linear_algebra
from nlme_torch.model.declare.model import Model
from nlme_torch.model.density.density import Conditional
from nlme_torch.settings import check_at_least, check_types

EARLY, EARLY_PERIOD = 64, 8
"""Iterations in which modes are searched more often than later, and iterations between two searches then; the first are
at powers of two."""
MANY_EFFECTS = 8
TAILS = 8
"""Degrees of freedom of Laplace proposals: heavier tails than a normal's, so that no chain is caught in one."""


@dataclass(frozen=True, kw_only=True)
class Moves:
    """How often each kernel runs in one iteration; zero switches it off.

    Attributes:
        prior: Independent proposals from N(0, Omega).
        component: Sweeps of the component-wise random walk.
        block: Random walks of all components together, shaped by the conditional covariance.
        laplace: Independent proposals from a Student-t at the conditional mode with Laplace's covariance.
        hamiltonian: Hamiltonian trajectories.
        leapfrogs: Leapfrog steps per trajectory.
        group: Components moved together by the component-wise walk.
        refresh: Most iterations between two searches of the conditional modes.

    References:
        Karimi, Lavielle and Moulines (2020), f-SAEM: a fast stochastic approximation of the EM algorithm for
        nonlinear mixed effects models. doi:10.1016/j.csda.2019.07.001
    """

    prior: int = 1
    component: int = 1
    block: int = 1
    laplace: int = 1
    hamiltonian: int = 0
    leapfrogs: int = 5
    group: int = 1
    refresh: int = 20

    def __post_init__(self) -> None:
        check_types(self, FitError)
        counts = ("prior", "component", "block", "laplace", "hamiltonian", "group")
        check_at_least(self, FitError, 0, *counts)
        check_at_least(self, FitError, 1, "leapfrogs", "refresh")

    @classmethod
    def automatic(cls, model: Model) -> "Moves":
        """Choose by the number of effects: random walks for few, gradients for many."""
        if model.n_effects <= MANY_EFFECTS:
            return cls()
        return cls(prior=0, component=0, block=1, laplace=0, hamiltonian=2)

    def search_is_due(self, iteration: int) -> bool:
        """Whether modes are searched at an iteration: less and less often, because parameters move fast at first."""
        period = min(self.refresh, EARLY_PERIOD) if iteration < EARLY else self.refresh
        return iteration & (iteration - 1) == 0 or iteration % period == 0


class PhiMoments(NamedTuple):
    """Running mean and covariance of each subject's phi, over chains and with exponential forgetting.

    Attributes:
        mean: ``(effect, start, subject)``.
        covariance: ``(effect, effect, start, subject)``.
        updates: Updates so far.
    """

    mean: Tensor
    covariance: Tensor
    updates: int

    @classmethod
    def start(cls, transformed: Tensor, omega: Tensor) -> "PhiMoments":
        """Begin at the chains' mean and at Omega, ``(start, effect, effect)``."""
        subjects = transformed.shape[-1]
        covariance = omega.permute(1, 2, 0)[..., None].expand(-1, -1, -1, subjects).clone()
        return cls(transformed.mean(1), covariance, 0)

    def update(self, transformed: Tensor) -> "PhiMoments":
        """Blend in new draws, ``(effect, chain, start, subject)``."""
        gain = max(0.02, 1.0 / (self.updates + 10))
        mean = self.mean + gain * (transformed.mean(1) - self.mean)
        deviations = transformed - mean[:, None]
        spread = torch.einsum("icsn,jcsn->ijsn", deviations, deviations) / transformed.shape[1]
        return PhiMoments(mean, self.covariance + gain * (spread - self.covariance), self.updates + 1)

    def factor(self) -> Tensor:
        """Lower Cholesky factor of the covariance, ``(effect, effect, start * subject)``."""
        matrix = self.covariance.flatten(-2).permute(2, 0, 1)
        scale = matrix.diagonal(dim1=-2, dim2=-1)
        # shrink towards the diagonal: a covariance from few draws is nearly singular
        matrix = 0.95 * matrix + 0.05 * torch.diag_embed(scale) + 1e-12 * torch.eye(matrix.shape[-1]).to(matrix)
        return linear_algebra.cholesky(matrix).permute(1, 2, 0)


class ConditionalModes(NamedTuple):
    """Where Laplace's approximation of every subject's conditional distribution of phi stands.

    A proposal must not depend on where its chain is now: modes are found from earlier modes, never from draws.

    Attributes:
        mode: ``(effect, start, subject)``, of phi.
        factor: Lower Cholesky factor of the inverse of minus the Hessian, ``(effect, effect, start * subject)``.
    """

    mode: Tensor
    factor: Tensor

    @classmethod
    def search(cls, conditional: Conditional, previous: "ConditionalModes | None", steps: int) -> "ConditionalModes":
        """Climb from the previous modes, at first from eta = 0.

        Args:
            conditional: Densities at the current parameters.
            previous: Result of the last search.
            steps: Most Newton steps.
        """
        omega = conditional.covariance().permute(1, 2, 0)[..., None]
        subjects = conditional.density.batch.n_subjects
        mean = conditional.mean.expand(-1, -1, subjects)
        eta = torch.zeros_like(mean) if previous is None else previous.mode - mean
        density, starts = column_density(conditional), eta.flatten(1)[:, None]
        found = best_mode(conditional_modes(density, starts, newton_steps=steps, reach=reach(conditional)))
        factor = factor_of_precision(found.precision)
        # where the density is not concave yet, the prior's own spread
        prior = linear_algebra.cholesky(omega.movedim((0, 1), (-2, -1))).movedim((-2, -1), (0, 1))
        prior = prior.expand(-1, -1, -1, subjects).flatten(-2)
        return cls(found.effects.unflatten(-1, mean.shape[1:]) + mean, torch.where(factor.isnan(), prior, factor))


def build_cycle(
    moves: Moves, conditional: Conditional, moments: PhiMoments, modes: ConditionalModes | None
) -> tuple[Any, tuple[str, ...]]:
    """Return the kernels of one iteration with their repeats, and their names.

    Args:
        moves: How often each one runs.
        conditional: Densities at the current parameters.
        moments: Running conditional moments of phi, which shape the random walks.
        modes: Laplace's approximation of the conditional distributions, None without its proposals.
    """
    subjects = conditional.density.batch.n_subjects
    kernels: list[Kernel] = []
    names: list[str] = []
    repeats: list[int] = []
    omega = conditional.covariance().permute(1, 2, 0)[..., None].expand(-1, -1, -1, subjects).flatten(-2)
    deviations = moments.covariance.diagonal(dim1=0, dim2=1).permute(2, 0, 1).flatten(-2).sqrt().clamp_min(1e-10)
    factor = moments.factor() if moves.block or moves.hamiltonian else None

    def add(name: str, kernel: Kernel, count: int) -> None:
        if count:
            kernels.append(kernel)
            names.append(name)
            repeats.append(count)

    if moves.prior:
        root = linear_algebra.cholesky(omega.permute(2, 0, 1)).permute(1, 2, 0)
        add("prior", Independent(normal(torch.zeros_like(deviations), root)), moves.prior)
    if moves.laplace:
        assert modes is not None
        centre = (modes.mode - conditional.mean).flatten(-2)
        add("laplace", Independent(student(centre, modes.factor, df=TAILS)), moves.laplace)
    add("component", RandomWalk(scale=deviations, size=moves.group), moves.component)
    add("block", BlockRandomWalk(factor=factor), moves.block)
    add("hamiltonian", HMC(factor=factor, leapfrogs=moves.leapfrogs), moves.hamiltonian)
    return Cycle(tuple(kernels), tuple(repeats)), tuple(names)
