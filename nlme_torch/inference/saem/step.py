r"""One iteration of stochastic approximation expectation maximisation, as a pure ``init``/``step`` pair.

The marginal likelihood of theta = (mu, beta, Omega, sigma, weights) is maximised through the complete data (y, phi).
Iteration k

1. moves several Markov chains for every subject's phi_i under p(phi_i | y_i; theta_{k-1}) (E-step),
2. updates averaged sufficient statistics, s_k = s_{k-1} + gamma_k (S(y, phi^{(k)}) - s_{k-1}),
3. maximises the complete-data likelihood at s_k: in closed form for everything that a Gaussian phi or a residual
   scale covers, along the gradient at the current draws for the rest.

gamma_k is one while exploring and falls while smoothing; the iterates of the smoothing phase are averaged. While
exploring, variances may not fall by more than a few per cent per iteration (simulated annealing), which keeps the
chains mobile.

References:
    Delyon, Lavielle and Moulines (1999), Convergence of a stochastic approximation version of the EM algorithm.
    doi:10.1214/aos/1018031103
    Kuhn and Lavielle (2005), Maximum likelihood estimation in nonlinear mixed effects models.
    doi:10.1016/j.csda.2004.07.033
    Meng and van Dyk (1997), The EM algorithm: an old folk-song sung to a fast new tune. doi:10.1111/1467-9868.00082
    Polyak and Juditsky (1992), Acceleration of stochastic approximation by averaging. doi:10.1137/0330046
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from nlme_torch.errors import FitError
from nlme_torch.inference.effects.moves import ConditionalModes, Moves, PhiMoments, build_cycle
from nlme_torch.inference.effects.sweep import Swept, compiled_for, sweep
from nlme_torch.inference.mcmc.kernels import State
from nlme_torch.inference.modes.conditional_modes import best_mode, conditional_modes
from nlme_torch.inference.modes.effect_density import column_density
from nlme_torch.inference.optimise.gradient_step import AdamState, adam_init, gradient_step
from nlme_torch.inference.saem.louis_newton import newton_step
from nlme_torch.inference.saem.m_step import ClosedForm
from nlme_torch.inference.saem.newton_m_step import Curvature, by_curvature, curvature_step
from nlme_torch.inference.saem.px_em import expand_low_rank
from nlme_torch.inference.saem.schedule import StepSchedule
from nlme_torch.inference.saem.sufficient_statistics import Statistics, blend, statistics
from nlme_torch.model.declare.values import ParameterValues, free_names
from nlme_torch.model.density.density import Conditional, Density
from nlme_torch.model.density.probe import why_not_finite
from nlme_torch.model.density.residual_scale import residual_scales

FIRST_STEPS, LATER_STEPS = 50, 5
"""Most Newton steps of typical values and parameters without effects before the first M-step and before later ones."""
EARLY = 50
"""Iterations in which independent proposals are Laplace's: from poor starts modes are found before chains get there.
Later the running moments of the chains serve as well, without any search."""
WORTHWHILE = 1.0
"""Promised rise of the log-likelihood below which no further one follows."""


class SAEMState(NamedTuple):
    """Everything that the next iteration needs.

    Attributes:
        iteration: Iterations done.
        smoothing: Iterations of the smoothing phase done, 0 while exploring.
        values: Raw name to ``(start, *shape)``.
        average: Mean of the values over the smoothing phase, iteration k weighted by k (Shamir and Zhang 2013).
        transformed: Draws of phi, ``(effect, chain, start, subject)``.
        tunings: Adapted scales of the kernels.
        moments: Running conditional moments of phi, for the kernels.
        modes: Laplace's approximation of the conditional distributions at the last search, or None.
        statistics: Averaged sufficient statistics, None before the first M-step.
        adam: Gradient moments of the network weights and of very many parameters without a closed form.
        curvature: Averaged curvature of the few other parameters without a closed form, None before the first M-step.
        acceptance: Mean acceptance of each kernel at the last iteration.
        log_joint: Complete-data log likelihood at the last draws, mean over chains, ``(start,)``.
    """

    iteration: int
    smoothing: int
    values: dict[str, Tensor]
    average: dict[str, Tensor]
    transformed: Tensor
    tunings: dict[str, Any]
    moments: PhiMoments
    modes: ConditionalModes | None
    statistics: Statistics | None
    adam: AdamState | None
    curvature: Curvature | None
    acceptance: dict[str, float]
    log_joint: Tensor


class SAEMAlgorithm:
    """SAEM for one model and data set as a pure ``init``/``step`` pair over :class:`SAEMState`.

    Args:
        density: The model with its data.
        schedule: Step sizes.
        chains: Chains per subject.
        moves: How often each Markov kernel runs per iteration.
        annealing: Smallest ratio of successive variances during the first half of the exploration.
        learning_rate: Step of the gradient M-step on the estimation scale.
        gradient_steps: Gradient steps per iteration.
        acceleration: Gain of the Newton steps for the means of random weights; 0 for plain EM.
        information_floor: Smallest fraction of information that a Newton step assumes.
        mode_starts: Starting points of the search of the conditional modes where the chains begin.
    """

    def __init__(
        self,
        density: Density,
        *,
        schedule: StepSchedule,
        chains: int,
        moves: Moves,
        annealing: float,
        learning_rate: float,
        gradient_steps: int,
        acceleration: float = 0.0,
        information_floor: float = 0.15,
        mode_starts: int = 3,
    ) -> None:
        self.acceleration, self.information_floor, self.mode_starts = acceleration, information_floor, mode_starts
        self.density, self.schedule, self.chains, self.moves = density, schedule, chains, moves
        self.annealing, self.learning_rate, self.gradient_steps = annealing, learning_rate, gradient_steps
        self.scales = residual_scales(density)
        self.closed_form = ClosedForm(density, self.scales)
        covered = self.closed_form.covered()
        open_form = tuple(name for name in free_names(density.model) if name not in covered)
        self.by_curvature = by_curvature(density.model, open_form)
        self.by_gradient = tuple(name for name in open_form if name not in self.by_curvature)
        self.together = () if density.model.has_network else self.closed_form.means_names() + self.by_curvature

    def init(self, values: ParameterValues, generator: torch.Generator) -> SAEMState:
        """Start the chains at draws from the prior of the effects.

        Args:
            values: Raw name to ``(start, *shape)``.
            generator: Source of randomness.

        Raises:
            FitError: The log joint of a subject is not finite at the typical values.
        """
        conditional = self.density.at(values)
        zero = conditional.mean.new_zeros(
            self.density.model.n_effects, 1, conditional.starts, self.density.batch.n_subjects
        )
        self._check_start(conditional, zero)
        eta = self._first_draws(conditional, generator)
        transformed = eta + conditional.mean[:, None]
        log_joint = torch.zeros(conditional.starts, dtype=eta.dtype, device=eta.device)
        adam = adam_init(values, self.by_gradient) if self.by_gradient else None
        values = {name: value.detach().clone() for name, value in values.items()}
        moments = PhiMoments.start(transformed, conditional.covariance())
        return SAEMState(0, 0, values, values, transformed, {}, moments, None, None, adam, None, {}, log_joint)

    def step(self, state: SAEMState, generator: torch.Generator, smoothing: bool) -> SAEMState:
        """Do one iteration.

        Args:
            state: Where the algorithm is.
            generator: Source of randomness.
            smoothing: Whether this iteration belongs to the smoothing phase.

        Returns:
            The next state; the old one is untouched.
        """
        schedule = self.schedule
        with torch.no_grad():
            conditional = self.density.at(state.values)
            state = self._move_chains(state, conditional, generator)
            if state.iteration <= schedule.burn_in:
                return state
            if self._is_together_due(state.iteration - schedule.burn_in, smoothing):
                state = self._moved_together(state, FIRST_STEPS if state.statistics is None else LATER_STEPS)
                conditional = self.density.at(state.values)
            count = state.smoothing + 1 if smoothing else 0
            gamma = schedule.step_size(count)
            fresh = statistics(self.density.model, conditional, state.transformed, self.scales)
            averaged = fresh if state.statistics is None else blend(state.statistics, fresh, gamma)
            annealing = state.iteration <= schedule.burn_in + schedule.exploration // 2 and not smoothing
            floor = self.annealing if annealing else 0.0
            values = {**state.values, **self.closed_form.step(conditional, averaged, floor)}
            if self.acceleration > 0:
                values.update(self._accelerated(state, conditional, fresh, gamma))
            expanded, transformed = expand_low_rank(self.density, values, state.transformed, gamma, floor)
            values.update(expanded)
            state = state._replace(transformed=transformed)
        curvature = state.curvature
        if self.by_curvature:
            moved, curvature = curvature_step(
                self.density, values, self.by_curvature, state.transformed, curvature, gamma
            )
            values = {**values, **moved}
        adam = state.adam
        if adam is not None:
            for _ in range(self.gradient_steps):
                moved, adam = gradient_step(
                    self.density, values, self.by_gradient, state.transformed, adam, self.learning_rate * gamma
                )
                values = {**values, **moved}
        average = values
        if smoothing:
            # weights grow with the iteration, so that where smoothing began is soon forgotten
            weight = 2 / (count + 1)
            average = {
                name: state.average[name] + weight * (value - state.average[name]) for name, value in values.items()
            }
        return state._replace(
            smoothing=count, values=values, average=average, statistics=averaged, adam=adam, curvature=curvature
        )

    def _is_together_due(self, iteration: int, smoothing: bool) -> bool:
        """Whether typical values move together with the rest: while exploring, soon less often."""
        return bool(self.together) and not smoothing and (iteration <= 20 or iteration % 5 == 0)

    def _moved_together(self, state: SAEMState, steps: int) -> SAEMState:
        """Let typical values and what has no effect climb together, the effects held; phi follows its mean.

        With phi held, a parameter without an effect and a typical value that make up for each other take very many
        iterations. Both augmentations have the same likelihood, so that their steps may alternate (Meng and van Dyk
        1997).
        """
        values = state.values
        before = self.density.at(values).mean
        for _ in range(steps):
            shift = self.density.at(values).mean - before
            moved, taken = curvature_step(
                self.density,
                values,
                self.together,
                state.transformed + shift[:, None],
                None,
                1.0,
                hold_effects=True,
            )
            values = {**values, **moved}
            if float(taken.rise.max()) < WORTHWHILE:
                break
        conditional = self.density.at(values)
        shifted = state.transformed + (conditional.mean - before)[:, None]
        # a draw that cannot be evaluated there stays where it was
        usable = torch.isfinite(conditional.log_likelihood(shifted - conditional.mean[:, None]))
        return state._replace(values=values, transformed=torch.where(usable, shifted, state.transformed))

    def _move_chains(self, state: SAEMState, conditional: Conditional, generator: torch.Generator) -> SAEMState:
        mean = conditional.mean[:, None]
        modes = state.modes
        effects = (state.transformed - mean).flatten(-2)
        compiled = compiled_for(conditional, self.moves)
        walks = self.moves.component or self.moves.block
        late = compiled is not None and walks and state.iteration >= EARLY
        if self.moves.laplace and not late and self.moves.search_is_due(state.iteration):
            with torch.enable_grad():
                modes = ConditionalModes.search(conditional, modes, 20 if modes is None else 4)
        if compiled is not None:
            swept = sweep(
                compiled.at(conditional),
                conditional,
                effects,
                self.moves,
                state.moments,
                None if late else modes,
                state.tunings,
                generator,
            )
            return self._moved(state, mean, swept, modes)
        cycle, names = build_cycle(self.moves, conditional, state.moments, modes)

        log_joint = column_density(conditional)
        acceptance: dict[str, float] = {}
        tunings = dict(state.tunings)
        value: Tensor | None = None
        for name, kernel, repeats in zip(names, cycle.kernels, cycle.repeats or (), strict=True):
            chain = kernel.init(effects, log_joint) if value is None or name not in tunings else None
            if chain is None:
                assert value is not None
                chain = State(effects, value, None, tunings[name])
            elif name in tunings:
                chain = chain._replace(tuning=tunings[name])
            for _ in range(repeats):
                chain, info = kernel.step(chain, log_joint, generator)
                acceptance[name] = info.acceptance.mean().item()
            effects, value = chain.effects, chain.value
            tunings[name] = chain.tuning
        assert value is not None
        return self._moved(state, mean, Swept(effects, value, tunings, acceptance), modes)

    def _moved(self, state: SAEMState, mean: Tensor, swept: Swept, modes: ConditionalModes | None) -> SAEMState:
        """The state after its chains have moved."""
        shape = state.transformed.shape[2:]
        transformed = swept.effects.unflatten(-1, shape) + mean
        return state._replace(
            iteration=state.iteration + 1,
            transformed=transformed,
            tunings=swept.tunings,
            moments=state.moments.update(transformed),
            modes=modes,
            acceptance=swept.acceptance,
            log_joint=swept.value.unflatten(-1, shape).sum(-1).mean(0),
        )

    def _accelerated(
        self, state: SAEMState, conditional: Conditional, fresh: Statistics, gamma: float
    ) -> dict[str, Tensor]:
        """Newton steps for the means of random weights, from the latest draws alone."""
        moved: dict[str, Tensor] = {}
        for block in self.density.model.blocks:
            if block.kind != "weights":
                continue
            for name, expected in self.closed_form.means(block, conditional, fresh.first).items():
                factor = conditional.cholesky(block.name).expand(conditional.starts, -1, -1)
                covariance = state.moments.covariance[block.slice, block.slice].mean(-1).permute(2, 0, 1)
                gain = self.acceleration * gamma
                moved[name] = newton_step(
                    state.values[name], expected, factor, covariance, gain, self.information_floor
                )
        return moved

    def _first_draws(self, conditional: Conditional, generator: torch.Generator) -> Tensor:
        """Begin at draws from the prior; with many effects, where those are far away, near conditional modes."""
        eta = conditional.sample(self.chains, generator)
        if self.moves.hamiltonian:
            origins = torch.cat([torch.zeros_like(eta[:, :1]), 0.3 * eta[:, : self.mode_starts - 1]], dim=1)

            modes = best_mode(conditional_modes(column_density(conditional), origins.flatten(-2), newton_steps=0))
            eta = modes.effects.unflatten(-1, eta.shape[2:])[:, None] + 0.1 * eta
        # chains start inside the region where the model can be solved: shrink draws that fail towards zero
        for _ in range(20):
            with torch.no_grad():
                bad = ~torch.isfinite(conditional.log_joint(eta))
            if not bad.any():
                break
            eta = torch.where(bad, 0.5 * eta, eta)
        return eta

    def _check_start(self, conditional: Conditional, zero: Tensor) -> None:
        with torch.no_grad():
            value = conditional.log_joint(zero)[0]
        bad = (~torch.isfinite(value)).nonzero()
        if len(bad):
            start, position = bad[0].tolist()
            subject = self.density.batch.subjects[position]
            raise FitError(
                f"the log joint density of subject {subject!r} is not finite at the typical values ({len(bad)} in "
                "all): " + why_not_finite(conditional, zero, start, position)
            )
