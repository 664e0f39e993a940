"""Marginal likelihoods of a fitted model: one strategy per approximation, never mixed up."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nlme_torch.errors import FitError
from nlme_torch.inference.effects.effect_estimates import EffectEstimates
from nlme_torch.inference.effects.moves import MANY_EFFECTS
from nlme_torch.inference.estimates.fitted import Fitted
from nlme_torch.inference.estimates.log_likelihood import LogLikelihood
from nlme_torch.inference.estimates.method_arguments import check_fit, check_method
from nlme_torch.inference.likelihood.annealed_importance_sampling import Annealing, annealed_importance_sampling
from nlme_torch.inference.likelihood.even_draws import even_draws
from nlme_torch.inference.likelihood.importance_sampling import importance_sampling
from nlme_torch.inference.likelihood.laplace_mixture import laplace_mixture
from nlme_torch.inference.likelihood.monte_carlo import MarginalEstimate
from nlme_torch.inference.mcmc.proposals import normal, student
from nlme_torch.inference.modes.conditional_modes import Modes, conditional_modes, distinct_modes
from nlme_torch.inference.modes.effect_density import column_density
from nlme_torch.inference.modes.mode_search import reach
from nlme_torch.inference.numerics.positive_definite import factor_or, prior_factor
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.normal_observations import normal_observations
from nlme_torch.settings import check_above, check_at_least, check_types, check_values

INDEPENDENT = 5000
"""Independent draws per subject unless told otherwise."""


@runtime_checkable
class LikelihoodMethod(Protocol):
    """An approximation of the marginal likelihood."""

    def log_marginal(self, density: Density, effects: EffectEstimates, generator: torch.Generator) -> MarginalEstimate:
        """Estimate log p(y_i) for every subject at the model's own parameters."""
        ...


@dataclass(frozen=True)
class ImportanceSampling:
    """Importance sampling with a Student-t at the conditional mean, or a mixture over the conditional modes.

    Attributes:
        samples: Independent draws per subject. None takes quasi-random draws from the Student-t and a tenth from the
            population's distribution, as many as it takes for a standard error of 0.02 of the log-likelihood, at most
            8192 per subject and 1.6 million in all; where their weights are too uneven, or there is a mixture, 5000
            independent ones.
        df: Degrees of freedom of the Student-t of independent draws; that of quasi-random ones has 6.
        modes: Number of searches for different modes; 1 uses conditional mean and covariance from the chains.
        draws: Another name of ``samples``, for the call only.
    """

    samples: int | None = None
    _: KW_ONLY
    df: int = 5
    modes: int = 1
    draws: InitVar[int | None] = None

    def __post_init__(self, draws: int | None) -> None:
        if draws is not None:
            object.__setattr__(self, "samples", draws)
        check_types(self, FitError)
        check_at_least(self, FitError, 2, "samples")
        check_at_least(self, FitError, 1, "df", "modes")

    def log_marginal(self, density: Density, effects: EffectEstimates, generator: torch.Generator) -> MarginalEstimate:
        """Sample every subject's marginal likelihood."""
        conditional = density.at()
        if self.is_even(density):
            even = even_draws(density, effects.means, effects.covariances, generator)
            if even is not None:
                return even.estimate
        if self.modes > 1:
            found = distinct_modes(search_modes(density, effects, self.modes, generator))
            proposal = laplace_mixture(found, df=self.df)
        else:
            # a subject whose distribution is not known is drawn from the population's, which is wider
            factor = factor_or(effects.covariances.permute(2, 0, 1), prior_factor(conditional)).permute(1, 2, 0)
            proposal = student(effects.means.nan_to_num(0.0), factor, df=self.df)
        samples = self.samples or INDEPENDENT
        return importance_sampling(column_density(conditional), proposal, samples=samples, generator=generator)

    def is_even(self, density: Density) -> bool:
        """Whether the draws are quasi-random ones, if they can be trusted."""
        return self.samples is None and self.modes == 1 and density.model.n_effects <= MANY_EFFECTS


@dataclass(frozen=True, kw_only=True)
class AnnealedImportanceSampling:
    """Annealed importance sampling with Hamiltonian transitions, for many effects.

    It begins at N(0, Omega), which covers the conditional distribution. A normal fitted to draws of that
    distribution is a worse beginning, although a nearer one: where the true shape is bent or has several humps it
    misses mass, and the standard error does not show it.

    Attributes:
        annealing: Particles, groups and transitions; many ancestors with few moves keep humps alive.
        target_error: Rounds are added until the Monte-Carlo standard error of the total is below this.
        progress: Whether to show a progress line, with the time that is left.

    One round costs ``groups * chains * moves * leapfrogs`` gradients of the log joint density for every subject and
    temperature, at most 8 * 64 * 1 * 8 = 4096 by default, and 10 to 60 temperatures, more for more effects and more
    data: 1e5 gradients per subject and round. Closed forms take seconds; a stiff equation, at 1 ms per gradient, a
    minute and more per subject. ``target_error`` may ask for up to 10 rounds.
    """

    annealing: Annealing = field(default_factory=lambda: Annealing(chains=64, moves=1))
    target_error: float = 0.4
    progress: bool = True

    def __post_init__(self) -> None:
        check_types(self, FitError)
        check_above(self, FitError, 0, "target_error")

    def log_marginal(self, density: Density, effects: EffectEstimates, generator: torch.Generator) -> MarginalEstimate:
        """Anneal every subject from the prior of its effects to their conditional distribution."""
        conditional = density.at()
        with torch.no_grad():
            factor = prior_factor(conditional).permute(1, 2, 0)
        reference = normal(torch.zeros_like(effects.means), factor)
        return annealed_importance_sampling(
            column_density(conditional),
            reference,
            generator=generator,
            annealing=self.annealing,
            target_error=self.target_error,
            progress=self.progress,
        ).estimate


def search_modes(density: Density, effects: EffectEstimates, starts: int, generator: torch.Generator) -> Modes:
    """Search conditional modes from the known mode and from draws, ``(effect, start, subject)``."""
    picked = torch.randint(effects.draws.shape[1], (max(starts - 1, 0),), generator=generator, device=generator.device)
    origins = torch.cat([effects.modes[:, None], effects.draws[:, picked.to(effects.draws.device)]], dim=1)
    conditional = density.at()
    return conditional_modes(column_density(conditional), origins, reach=reach(conditional))


def loglik(fit: Fitted, method: LikelihoodMethod | None = None, *, seed: int = 0) -> LogLikelihood:
    """Return the marginal log-likelihood of a fit by a stated method.

    Args:
        fit: The fit.
        method: ``ImportanceSampling(samples)``, ``AnnealedImportanceSampling()``, or an approximation that could be
            maximised, too: ``Quadrature(nodes=)``, ``Laplace()``, ``FOCEI()``; None chooses importance sampling, over a
            mixture of the conditional modes where there are more than 8 effects.
        seed: Seed of the Monte-Carlo methods.

    Returns:
        The value with its Monte-Carlo error and per-subject diagnostics.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=20, smoothing=20))
        >>> fit = nlme.fit(model, data, short, seed=1, progress=False)
        >>> nlme.loglik(fit, nlme.Quadrature(nodes=7)).method
        'Quadrature(nodes=7)'
    """
    check_fit("loglik", fit)
    check_values("loglik", FitError, seed=(seed, int))
    check_likelihood("loglik", method)
    chosen = method or default_likelihood(fit.model.n_effects)
    generator = torch.Generator().manual_seed(seed)
    return evaluate_likelihood(fit.density, fit.effects, chosen, generator)


def check_likelihood(place: str, method: Any) -> None:
    """Refuse what is no likelihood method, such as its name or its class.

    Args:
        place: The public function, and its argument where that is not ``method``.
        method: What stands for the method, or None.

    Raises:
        FitError: It is none.
    """
    check_method(place, method, ("log_marginal",), "nlme.ImportanceSampling()")


def default_likelihood(n_effects: int) -> LikelihoodMethod:
    """Return the method used when none is asked for."""
    return ImportanceSampling() if n_effects <= MANY_EFFECTS else ImportanceSampling(samples=20_000, modes=4)


def evaluate_likelihood(
    density: Density, effects: EffectEstimates, method: LikelihoodMethod, generator: torch.Generator
) -> LogLikelihood:
    """Run a likelihood method and put its answer into a table."""
    name = str(method)
    if density.model.n_effects:
        estimate = method.log_marginal(density, effects, generator)
    else:  # nothing to integrate
        zero, name = torch.zeros_like(effects.log_joint), "exact (no random effects)"
        estimate = MarginalEstimate(effects.log_joint, zero, zero + math.nan, zero + math.nan, 0)

    return replace(from_estimate(density, estimate, name), settings=method)


def from_estimate(density: Density, estimate: MarginalEstimate, name: str) -> LogLikelihood:
    """Put the likelihoods of the subjects together.

    Args:
        density: The model, joined to data and solver.
        estimate: What a method found; NaN or infinite for a subject that it could not evaluate.
        name: Of the method.
    """
    table = subject_table(density.batch.subjects, estimate)
    missing = table["id"][~np.isfinite(table["log_likelihood"])].tolist()
    problem = ""
    if missing:
        named = ", ".join(repr(subject) for subject in missing[:5]) + (", ..." if len(missing) > 5 else "")
        problem = f"that of {len(missing)} of {len(table)} subjects could not be evaluated ({named})"
    total, error = (math.nan, math.nan) if missing else (estimate.total, estimate.total_standard_error)
    counts = density.batch.n_observations, int(normal_observations(density).sum())
    next_rule = math.nan if estimate.next_rule is None else -2 * float(estimate.next_rule.sum())
    return LogLikelihood(total, error, name, table, *counts, problem, next_rule)


def unknown_likelihood(density: Density, name: str, problem: str) -> LogLikelihood:
    """Return a likelihood without a value.

    Args:
        density: The model, joined to data and solver.
        name: Of the method that failed.
        problem: Why, in a sentence without a full stop.
    """
    nothing = torch.full_like(density.batch.times[0], math.nan)
    table = subject_table(density.batch.subjects, MarginalEstimate(nothing, nothing, nothing, nothing, 0))
    counts = density.batch.n_observations, int(normal_observations(density).sum())
    return LogLikelihood(math.nan, math.nan, name, table, *counts, problem)


def subject_table(subjects: Sequence[Any], estimate: MarginalEstimate) -> pd.DataFrame:
    """Return one row per subject: id, log_likelihood, standard_error, effective_size, k_hat."""

    def column(values: Tensor) -> Any:
        return values.numpy(force=True)

    return pd.DataFrame(
        {
            "id": list(subjects),
            "log_likelihood": column(estimate.log_marginal),
            "standard_error": column(estimate.standard_error),
            "effective_size": column(estimate.effective_size),
            "k_hat": column(estimate.khat),
        }
    )
