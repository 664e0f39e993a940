"""What follows the iterations of a fit: effects, likelihood and the check of the solver, none of which may lose it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from nlme_torch.errors import NLMEError
from nlme_torch.inference.effects.effect_estimates import EffectEstimates, estimate_effects, mode_warnings
from nlme_torch.inference.estimates.estimation import Estimation
from nlme_torch.inference.estimates.log_likelihood import LogLikelihood
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.fitting.fit_checks import fit_checks
from nlme_torch.inference.fitting.solver_error import solver_warnings
from nlme_torch.inference.likelihood.even_draws import effects_and_likelihood
from nlme_torch.inference.likelihood.likelihood import (
    AnnealedImportanceSampling,
    ImportanceSampling,
    LikelihoodMethod,
    default_likelihood,
    evaluate_likelihood,
    from_estimate,
    unknown_likelihood,
)
from nlme_torch.model.density.density import Density
from nlme_torch.solve import despite_compiler

Found = TypeVar("Found")


@dataclass(frozen=True)
class AtEstimates:
    """What was found at the estimates, and what could not be.

    Attributes:
        effects: Conditional modes, means, covariances and draws; NaN where they could not be had.
        log_likelihood: The marginal likelihood, perhaps without a value.
        warnings: What failed, one sentence each, and what the likelihood and the solver say.
        interrupted: Whether the user ended it.
    """

    effects: EffectEstimates
    log_likelihood: LogLikelihood
    warnings: tuple[str, ...]
    interrupted: bool


def at_estimates(
    density: Density,
    estimation: Estimation,
    likelihood: LikelihoodMethod | None,
    generator: torch.Generator,
    progress: bool = True,
) -> AtEstimates:
    """Estimate effects and likelihood at a model's own parameters; what fails is a warning, and its numbers are NaN.

    Args:
        density: The model at its estimates, joined to data and solver.
        estimation: What the method handed back.
        likelihood: How the likelihood is computed; None takes the method's own, or the default.
        generator: Source of randomness.
        progress: Whether a likelihood that takes long may show its progress.
    """
    stages = _Stages()
    chosen = likelihood or default_likelihood(density.model.n_effects)
    effects, both, draws = estimation.effects, None, estimation.draws
    if effects is None and draws is not None and isinstance(chosen, ImportanceSampling) and chosen.is_even(density):
        both = stages.run("random effects", lambda: effects_and_likelihood(density, draws, generator))
    if both is not None:
        effects = both[0]
    effects = effects or stages.run("random effects", lambda: estimate_effects(density, draws, generator))
    known = effects is not None
    if effects is None:
        effects = unknown_effects(density, draws)
    if isinstance(chosen, AnnealedImportanceSampling):
        chosen = replace(chosen, progress=chosen.progress and progress)
    found = estimation.log_likelihood if likelihood is None else None
    if found is None and both is not None:
        found = replace(from_estimate(density, both[1], str(chosen)), settings=chosen)
    if found is None and (known or density.model.n_effects):
        found = stages.run("likelihood", lambda: evaluate_likelihood(density, effects, chosen, generator))
    if found is None:
        found = unknown_likelihood(density, str(chosen), stages.problem)
    from_solver = stages.run("solver's accuracy", lambda: solver_warnings(density, effects.modes)) or ()
    # a method that judges no maximum has nothing to be checked
    judged = known and estimation.status is not Status.COMPLETED
    checks = (stages.run("fit's own checks", lambda: fit_checks(density, effects)) or ()) if judged else ()
    failed = [message for message in stages.messages if found.problem not in message or not found.problem]
    lost = mode_warnings(effects, density.batch.subjects) if known and not estimation.effects else ()
    warnings = (*checks, *failed, *lost, *found.warnings, *from_solver)
    return AtEstimates(effects, found, warnings, stages.interrupted)


class _Stages:
    """Runs one computation after the other and keeps what went wrong."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.problem = ""
        self.interrupted = False

    def run(self, what: str, compute: Callable[[], Found]) -> Found | None:
        """Return what a computation gives; None where numbers or the user ended it. Other exceptions are defects."""
        if self.interrupted:
            return None
        try:
            return despite_compiler(compute)
        except (NLMEError, ArithmeticError, torch.linalg.LinAlgError) as error:
            self.problem = f"{error}".rstrip(".") or type(error).__name__
            self.messages.append(f"the {what} could not be computed at the estimates: {self.problem}")
        except KeyboardInterrupt:
            self.interrupted = True
            self.problem = f"interrupted while the {what} was computed"
            self.messages.append(f"{self.problem}: the estimates are those that the method had found before")
        return None


def unknown_effects(density: Density, draws: Tensor | None) -> EffectEstimates:
    """Return effects whose modes are not known, with the moments of draws where there are some.

    Args:
        density: The model, joined to data and solver.
        draws: Of the effects, ``(effect, draw, subject)``, or None.
    """
    effects, subjects = density.model.n_effects, density.batch.n_subjects
    like = density.batch.times
    if draws is None:
        draws = like.new_full((effects, 1, subjects), math.nan)
    means = draws.mean(1)
    deviations = draws - means[:, None]
    spread = torch.einsum("icn,jcn->ijn", deviations, deviations) / (draws.shape[1] - 1 or math.nan)
    return EffectEstimates(
        modes=torch.full_like(means, math.nan),
        precision=torch.full_like(spread, math.nan),
        log_joint=like.new_full((subjects,), math.nan),
        means=means,
        covariances=spread,
        draws=draws,
    )
