r"""SAEM: maximum likelihood by stochastic approximation expectation maximisation.

References:
    Delyon, Lavielle and Moulines (1999), Convergence of a stochastic approximation version of the EM algorithm.
    doi:10.1214/aos/1018031103
    Kuhn and Lavielle (2005), Maximum likelihood estimation in nonlinear mixed effects models.
    doi:10.1016/j.csda.2004.07.033
"""

import math
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor

from nlme_torch.errors import FitError
from nlme_torch.inference.estimation import Estimation
from nlme_torch.inference.pooled import Pooled
from nlme_torch.inference.progress import Progress, progress_line
from nlme_torch.inference.race import Race
from nlme_torch.inference.saem_algorithm import SAEMAlgorithm, SAEMState
from nlme_torch.inference.saem_kernels import MANY_EFFECTS, Moves
from nlme_torch.inference.schedule import StepSchedule
from nlme_torch.inference.starts import best_start, jittered_starts
from nlme_torch.inference.status import Status
from nlme_torch.model.density import Density
from nlme_torch.model.scalars import all_scalars, omega_scalars, scalar_matrix, structural_scalars
from nlme_torch.model.values import parameter_values
from nlme_torch.settings import check_at_least, check_types


@dataclass(frozen=True, kw_only=True)
class SAEM:
    """Maximum likelihood (or maximum a posteriori, with priors) by stochastic approximation EM.

    Attributes:
        schedule: Burn-in, exploration and smoothing iterations.
        chains: Chains per subject; None takes ``ceil(400 / subjects)``, at least 2: small data sets leave the most
            Monte-Carlo noise in the estimates, and columns of a batch cost little. A quarter of it with more than
            eight effects, whose kernels cost more.
        starts: Independent fits from different initial values, run at once on the batch axis; the best is kept.
        spread: How far the further starts are jittered on the estimation scale.
        race: How the starts compete before the fit, so that many can be tried; None lets all of them be fitted.
        warm_up: A pooled fit of every start before the effects enter, or None.
        moves: How often each Markov kernel runs per iteration; None chooses by the number and kind of effects.
        annealing: Smallest ratio of successive variances during the first half of the exploration.
        learning_rate: Step of the gradient M-step on the estimation scale, for parameters without a closed form.
        gradient_steps: Gradient steps per iteration.
        acceleration: Gain of the Newton steps (Louis's information) that move the means of random weights; 0 for
            plain EM.
        drift_tolerance: Exploration ends when the mean of no structural or variance parameter moved by more than
            this many of its own standard deviations between two windows.
        window: Iterations of such a window.

    Example:
        >>> import nlme_torch as nlme
        >>> method = nlme.SAEM(schedule=nlme.StepSchedule(exploration=200, smoothing=150))
    """

    schedule: StepSchedule = field(default_factory=StepSchedule)
    chains: int | None = None
    starts: int = 1
    spread: float = 0.5
    race: Race | None = None
    warm_up: Pooled | None = None
    moves: Moves | None = None
    annealing: float = 0.97
    learning_rate: float = 0.02
    gradient_steps: int = 1
    acceleration: float = 0.3
    drift_tolerance: float = 0.7
    window: int = 50

    def __post_init__(self) -> None:
        check_types(self, FitError)
        check_at_least(
            self, FitError, 0, "spread", "learning_rate", "gradient_steps", "acceleration", "drift_tolerance"
        )
        check_at_least(self, FitError, 1, "window")
        if self.chains is not None and self.chains < 1:
            raise FitError(f"SAEM needs at least one chain per subject, got {self.chains} chains.")
        if self.starts < 1:
            raise FitError(f"SAEM needs at least one start, got {self.starts} starts.")
        if self.race is not None and self.starts <= self.race.keep:
            raise FitError(
                f"SAEM's race keeps {self.race.keep} starts, so it needs more than that to begin with, got "
                f"starts={self.starts}."
            )
        if not 0 < self.annealing <= 1:
            raise FitError(f"SAEM's annealing ratio must lie in (0, 1], got {self.annealing}.")

    def estimate(self, density: Density, generator: torch.Generator, progress: bool) -> Estimation:
        """Run SAEM from the model's own values (and jittered ones, with several starts).

        Args:
            density: The model, joined to data and solver.
            generator: Source of randomness.
            progress: Whether to show a progress line.

        Returns:
            The averaged iterates of the best start, with the trace of that start.

        Raises:
            FitError: The model has no random effects, or the log joint of a subject is not finite at the initial
                values.
        """
        schedule = self.schedule
        if not density.model.n_effects:
            raise FitError(
                "the model has no random effects for SAEM to draw; declare some, or fit it with nlme.Pooled()."
            )
        algorithm = SAEMAlgorithm(
            density,
            schedule=schedule,
            chains=self.chains or default_chains(density),
            moves=self.moves or Moves.automatic(density.model),
            annealing=self.annealing,
            learning_rate=self.learning_rate,
            gradient_steps=self.gradient_steps,
            acceleration=self.acceleration,
        )
        values = jittered_starts(density, parameter_values(density.model), self.starts, self.spread, generator)
        if self.warm_up is not None:
            values = self.warm_up.maximise(density, values)
        if self.race is not None:
            with progress_line(sum(length for _, length in self.race.rounds(self.starts)), "race", progress) as line:
                values = self.race.run(algorithm, values, generator, lambda: line.advance("SAEM race"))
        state = algorithm.init(values, generator)
        recorder = _Recorder(density)
        status, reason = Status.ITERATIONS_USED, f"exploration used all of its {schedule.exploration} iterations"
        with progress_line(schedule.total, "SAEM", progress) as line:
            while state.iteration < schedule.burn_in + schedule.exploration:
                state = algorithm.step(state, generator, smoothing=False)
                self._report(recorder, state, "burn-in" if state.iteration <= schedule.burn_in else "explore", line)
                since = state.iteration - schedule.burn_in - schedule.exploration // 2
                if since >= 2 * self.window and since % 10 == 0:
                    drift, parameter = recorder.drift(self.window)
                    if drift < self.drift_tolerance:
                        status, reason = (
                            Status.CONVERGED,
                            f"exploration ended after {state.iteration} iterations: between two windows of "
                            f"{self.window} no parameter's mean moved by more than {drift:.2f} of its "
                            f"standard deviation ({parameter})",
                        )
                        break
            for _ in range(schedule.smoothing):
                state = algorithm.step(state, generator, smoothing=True)
                self._report(recorder, state, "smooth", line)
            line.finish("SAEM", state.iteration)
        best, ranking = best_start(density, state.average, state.transformed)
        averaged = {name: value[best : best + 1] for name, value in state.average.items()}
        mean = density.at(averaged).mean[:, None]
        termination = f"{reason}; then {schedule.smoothing} smoothing iterations, averaged"
        if self.race is not None:
            termination += f"; the best of the {self.race.keep} that won a race of {self.starts} starts ({ranking})"
        elif self.starts > 1:
            termination += f"; best of {self.starts} starts by Laplace log-likelihood ({ranking})"
        return Estimation(
            values=averaged,
            trace=recorder.frame(best),
            status=status,
            termination=termination,
            warnings=_warnings(density, averaged),
            draws=(state.transformed[:, :, best : best + 1] - mean)[:, :, 0],
        )

    def _report(self, recorder: "_Recorder", state: SAEMState, phase: str, line: Progress) -> None:
        recorder.add(state, phase)
        numbers = recorder.headline(state) if state.iteration % 5 == 0 else None
        line.advance(f"SAEM {phase}", numbers)


def default_chains(density: Density) -> int:
    """Return how many chains per subject SAEM runs unless told otherwise."""
    columns = 400 if density.model.n_effects <= MANY_EFFECTS else 100
    return max(2, math.ceil(columns / density.batch.n_subjects))


class _Recorder:
    """Keeps every iterate on the natural scale."""

    def __init__(self, density: Density) -> None:
        self.model = density.model
        self.rows: list[Tensor] = []
        self.phases: list[str] = []
        self.reports: list[dict[str, float]] = []
        self.log_joint: list[Tensor] = []
        values = parameter_values(self.model)
        self.names = list(all_scalars(self.model, values))
        free = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        judged = {**structural_scalars(self.model, values), **omega_scalars(self.model, values)}
        self.judged = [self.names.index(name) for name in judged] if free else []

    def add(self, state: SAEMState, phase: str) -> None:
        """Append one iteration."""
        values = state.average if phase == "smooth" else state.values
        self.rows.append(scalar_matrix(all_scalars(self.model, values)))
        self.phases.append(phase)
        self.reports.append({f"acceptance_{name}": rate for name, rate in state.acceptance.items()})
        self.log_joint.append(state.log_joint)

    def headline(self, state: SAEMState) -> dict[str, float]:
        """Numbers for the progress line: complete-data -2LL, acceptance and the first parameters."""
        acceptance = sum(state.acceptance.values()) / max(len(state.acceptance), 1)
        shown = {self.names[index]: float(self.rows[-1][0, index]) for index in self.judged[:3]}
        return {"-2LL(y,phi)": -2 * float(state.log_joint.max()), "accept": acceptance, **shown}

    def drift(self, window: int) -> tuple[float, str]:
        """Largest move of a parameter's mean between the last two windows, in standard deviations, and whose it is."""
        if not self.judged:
            return float("inf"), ""
        recent = torch.stack(self.rows[-2 * window :])[:, :, self.judged]
        before, after = recent[:window], recent[window:]
        spread = 0.5 * (before.var(0) + after.var(0))
        moved = (after.mean(0) - before.mean(0)).abs() / spread.sqrt().clamp_min(1e-12)
        moved = torch.where(spread > 0, moved, 0.0).amax(0)
        index = int(moved.argmax())
        return float(moved[index]), self.names[self.judged[index]]

    def frame(self, start: int) -> pd.DataFrame:
        """Return the trace of one start as a table."""
        table = pd.DataFrame(torch.stack([row[start] for row in self.rows]).numpy(force=True), columns=self.names)
        table.insert(0, "iteration", range(1, len(table) + 1))
        table.insert(1, "phase", self.phases)
        table["complete_loglik"] = [float(value[start]) for value in self.log_joint]
        return pd.concat([table, pd.DataFrame(self.reports)], axis=1)


def _warnings(density: Density, values: dict[str, Tensor]) -> tuple[str, ...]:
    """Name the variances that collapsed."""
    messages = []
    model = density.model
    for block in model.blocks:
        if block.covariance is None or not block.covariance.free():
            continue
        deviations = density.at(values).cholesky(block.name)[0].square().sum(-1).sqrt()
        for label, deviation in zip(block.labels, deviations.tolist(), strict=True):
            if deviation < 0.01:
                messages.append(
                    f"the standard deviation of {label} is {deviation:.2g}: the random effect has collapsed; drop it, "
                    "or check that a flexible network does not explain the differences between subjects"
                )
    return tuple(messages[:5])
