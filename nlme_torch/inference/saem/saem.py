r"""SAEM: maximum likelihood by stochastic approximation expectation maximisation.

References:
    Delyon, Lavielle and Moulines (1999), Convergence of a stochastic approximation version of the EM algorithm.
    doi:10.1214/aos/1018031103
    Kuhn and Lavielle (2005), Maximum likelihood estimation in nonlinear mixed effects models.
    doi:10.1016/j.csda.2004.07.033
"""

import math
from dataclasses import dataclass, field

import torch

from nlme_torch.errors import FitError
from nlme_torch.inference.effects.moves import MANY_EFFECTS, Moves
from nlme_torch.inference.estimates.estimation import Estimation
from nlme_torch.inference.pooled.pooled import Pooled
from nlme_torch.inference.saem.certificate import Certification
from nlme_torch.inference.saem.course import Course
from nlme_torch.inference.saem.race import Race
from nlme_torch.inference.saem.schedule import StepSchedule
from nlme_torch.inference.saem.step import SAEMAlgorithm
from nlme_torch.model.declare.values import free_names
from nlme_torch.model.density.density import Density
from nlme_torch.settings import check_at_least, check_types

NEVER = 10**9


@dataclass(frozen=True, kw_only=True)
class SAEM:
    """Maximum likelihood (or maximum a posteriori, with priors) by stochastic approximation EM.

    Attributes:
        schedule: Burn-in and the most exploration and smoothing iterations. Exploration ends when nothing drifts any
            more; an end is judged after 50 smoothing iterations, and smoothing goes on only where it falls short of the
            maximum. Where nothing judges the end (networks), half of the exploration and all of the smoothing are done.
        chains: Chains per subject; None begins with ``ceil(400 / subjects)``, at least 2 (a quarter of it with more
            than eight effects, whose kernels cost more), and in the middle of the exploration lets them branch until
            the chains of all subjects give about 800 independent draws per iteration by their measured
            autocorrelation: noise drives variances of which the data tell little away from the maximum, and columns
            of a batch cost little.
        starts: Independent fits from different initial values, run at once on the batch axis; the best is kept.
        spread: How far the further starts are jittered on the estimation scale.
        race: How the starts compete before the fit, so that many can be tried; None lets all of them be fitted.
        warm_up: A pooled fit of every start before the effects enter, or None.
        moves: How often each Markov kernel runs per iteration; None chooses by the number and kind of effects.
        annealing: Smallest ratio of successive variances during the first half of the exploration.
        learning_rate: Step of the gradient M-step on the estimation scale, for network weights; the other parameters
            without a closed form move by Newton steps.
        gradient_steps: Gradient steps per iteration.
        acceleration: Gain of the Newton steps (Louis's information) that move the means of random weights; 0 for
            plain EM.
        drift_tolerance: Exploration ends when the mean of no structural or variance parameter moved by more than
            this many of its own standard deviations between two windows.
        window: Iterations of such a window.
        certification: How the end is judged by fresh draws, and improved where it falls short of the maximum; models
            with networks are judged by the drift alone.

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
    certification: Certification = field(default_factory=Certification)

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
            The averaged iterates of the best start, improved by Newton steps where they fell short of the maximum, with
            the trace of that start. Interrupted, what stands.

        Raises:
            FitError: The model has no random effects, nothing is to be estimated, or the log joint of a subject is not
                finite at the initial values.
        """
        if not density.model.n_effects:
            raise FitError(
                "the model has no random effects for SAEM to draw; declare some, or fit it with nlme.Pooled()."
            )
        if not free_names(density.model):
            raise FitError("every parameter is fixed, so there is nothing to estimate; evaluate nlme.ofv instead.")

        def algorithm(schedule: StepSchedule) -> SAEMAlgorithm:
            return SAEMAlgorithm(
                density,
                schedule=schedule,
                chains=self.chains or default_chains(density),
                moves=self.moves or Moves.automatic(density.model),
                annealing=self.annealing,
                learning_rate=self.learning_rate,
                gradient_steps=self.gradient_steps,
                acceleration=self.acceleration,
            )

        course = Course(
            algorithm(self.schedule),
            algorithm(StepSchedule(burn_in=NEVER)),
            starts=self.starts,
            spread=self.spread,
            race=self.race,
            warm_up=self.warm_up,
            drift_tolerance=self.drift_tolerance,
            window=self.window,
            certification=self.certification,
            branching=self.chains is None and density.model.n_effects <= MANY_EFFECTS,
        )
        return course.run(generator, progress)


def default_chains(density: Density) -> int:
    """Return with how many chains per subject SAEM begins unless told otherwise."""
    columns = 400 if density.model.n_effects <= MANY_EFFECTS else 100
    return max(2, math.ceil(columns / density.batch.n_subjects))
