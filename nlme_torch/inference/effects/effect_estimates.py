"""Conditional distributions of the random effects: modes, means, covariances, shrinkage."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.inference.effects.moves import ConditionalModes, Moves, PhiMoments, build_cycle
from nlme_torch.inference.effects.sweep import compiled_for, sweep
from nlme_torch.inference.mcmc.kernels import State
from nlme_torch.inference.modes.conditional_modes import Modes
from nlme_torch.inference.modes.effect_density import StandardisedDensity, column_density
from nlme_torch.inference.modes.mode_search import LATER, search
from nlme_torch.model.density.density import Conditional, Density

MOST_CHAINS = 40
"""Chains that go on from given draws: about 600 draws are kept, and more chains would all have to settle first."""


@dataclass(frozen=True)
class EffectEstimates:
    """What is known of every subject's random effects at the estimated parameters.

    Attributes:
        modes: Conditional modes (empirical Bayes estimates), ``(effect, subject)``; NaN where none was found.
        precision: Minus the Hessian of the log joint at the modes, ``(effect, effect, subject)``; NaN likewise.
        log_joint: Log joint density at the modes, ``(subject,)``; NaN likewise.
        means: Conditional means, ``(effect, subject)``.
        covariances: Conditional covariances, ``(effect, effect, subject)``.
        draws: Draws from the conditional distributions, ``(effect, draw, subject)``.
    """

    modes: Float[Tensor, "effect subject"]
    precision: Float[Tensor, "effect effect subject"]
    log_joint: Float[Tensor, "subject"]
    means: Float[Tensor, "effect subject"]
    covariances: Float[Tensor, "effect effect subject"]
    draws: Float[Tensor, "effect draw subject"]


def estimate_effects(
    density: Density,
    draws: Tensor | None,
    generator: torch.Generator,
    *,
    iterations: int | None = None,
    starts: int = 4,
) -> EffectEstimates:
    """Find conditional modes, means and covariances at the model's own parameters.

    Args:
        density: The model, joined to data and solver, at the estimated parameters.
        draws: Draws of the effects to begin at, ``(effect, chain, subject)``, or None to begin at the prior; of very
            many some are taken, evenly.
        generator: Source of randomness.
        iterations: Iterations of the chains whose draws are kept; None keeps about 600 draws per subject.
        starts: Starting points of the search of each mode: zero and some of the draws.

    Returns:
        The estimates; modes are the best of all starts.
    """
    with torch.no_grad():
        conditional = density.at()
        if not density.model.n_effects:
            modes = _no_modes(conditional)
            draws = modes.effects[:, None].expand(-1, iterations or 1, -1)
            return EffectEstimates(modes.effects, modes.precision, modes.value, modes.effects, modes.precision, draws)
        if draws is None:
            draws = conditional.sample(20, generator)[:, :, 0]
        elif draws.shape[1] > MOST_CHAINS:
            places = torch.linspace(0, draws.shape[1] - 1, MOST_CHAINS, device=draws.device).round().long()
            draws = draws[:, places]
        count = max(20, math.ceil(600 / draws.shape[1])) if iterations is None else iterations
        kept = conditional_draws(conditional, draws, generator, count)
    means = kept.mean(1)
    deviations = kept - means[:, None]
    covariances = torch.einsum("icn,jcn->ijn", deviations, deviations) / max(kept.shape[1] - 1, 1)
    return effects_of_draws(conditional, kept, means, covariances, generator, starts=starts)


def effects_of_draws(
    conditional: Conditional,
    draws: Float[Tensor, "effect draw subject"],
    means: Float[Tensor, "effect subject"],
    covariances: Float[Tensor, "effect effect subject"],
    generator: torch.Generator,
    *,
    starts: int = 4,
) -> EffectEstimates:
    """Find the conditional modes beside draws of the conditional distributions and their moments.

    Args:
        conditional: Densities at the parameters.
        draws: Of eta.
        means: Conditional means.
        covariances: Conditional covariances.
        generator: Source of randomness, by which starting points are chosen among the draws.
        starts: Starting points of the search of each mode: zero, the mean and some of the draws.
    """
    picked = torch.randint(draws.shape[1], (max(starts - 2, 1),), generator=generator, device=generator.device)
    origins = torch.cat([torch.zeros_like(means)[:, None], means[:, None], draws[:, picked.to(draws.device)]], dim=1)
    modes = find_modes(conditional, origins)
    return EffectEstimates(modes.effects, modes.precision, modes.value, means, covariances, draws)


def find_modes(conditional: Conditional, origins: Float[Tensor, "effect start subject"]) -> Modes:
    """Return the best conditional mode of every subject.

    Args:
        conditional: Densities at the parameters.
        origins: Points of interest for the search, such as earlier modes and draws; zero is always one.

    Returns:
        Modes of eta; NaN, with the status of the search, for a subject without one.
    """
    if not len(origins):
        return _no_modes(conditional)
    density = StandardisedDensity(conditional)
    found = search(density, density.standardise(origins), LATER).modes
    effects, precision = density.effects(found.effects), density.precision(found.precision)
    known = found.found()
    return found._replace(
        effects=torch.where(known, effects, torch.nan),
        precision=torch.where(known, precision, torch.nan),
        value=torch.where(known, found.value, torch.nan),
    )


def _no_modes(conditional: Conditional) -> Modes:
    """The modes of a model without random effects: nothing to search."""
    with torch.no_grad():
        none = conditional.mean.new_zeros(0, 1, 1, conditional.density.batch.n_subjects)
        value = conditional.log_joint(none)[0, 0]
    zero = torch.zeros_like(value)
    precision = none.new_zeros(0, 0, len(value))
    return Modes(none[:, 0, 0], value, zero, precision, zero, torch.zeros_like(value, dtype=torch.long))


def conditional_draws(
    conditional: Conditional, draws: Float[Tensor, "effect chain subject"], generator: torch.Generator, iterations: int
) -> Float[Tensor, "effect draw subject"]:
    """Draw random effects given the data by Markov chains.

    Args:
        conditional: Densities at the parameters.
        draws: Where the chains begin.
        generator: Source of randomness.
        iterations: Iterations kept, after as many again (30 at least) with adaptation.

    Returns:
        Every iteration's draws, ``(effect, chain * iterations, subject)``.
    """
    mean = conditional.mean[:, None]
    moves = Moves.automatic(conditional.density.model)
    effects = draws
    moments = PhiMoments.start(effects[:, :, None] + mean, conditional.covariance())
    tunings: dict[str, Any] = {}
    kept = []
    settling = max(30, iterations)
    compiled = compiled_for(conditional, moves)
    if compiled is not None:
        likelihood = compiled.at(conditional)
        for iteration in range(settling + iterations):
            swept = sweep(likelihood, conditional, effects, moves, moments, None, tunings, generator)
            effects, tunings = swept.effects, swept.tunings
            if iteration < settling:
                moments = moments.update(effects[:, :, None] + mean)
            else:
                kept.append(effects)
        return torch.cat(kept, dim=1)
    log_joint = column_density(conditional)
    with torch.enable_grad():
        modes = ConditionalModes.search(conditional, None, 20) if moves.laplace else None
    for iteration in range(settling + iterations):
        if iteration <= settling:
            cycle, names = build_cycle(moves, conditional, moments, modes)
        for name, kernel, repeats in zip(names, cycle.kernels, cycle.repeats, strict=True):
            state: State = kernel.init(effects, log_joint)
            if name in tunings:
                state = state._replace(tuning=tunings[name])
            for _ in range(repeats):
                state, _ = kernel.step(state, log_joint, generator)
            effects, tunings[name] = state.effects, state.tuning
        if iteration < settling:
            moments = moments.update(effects[:, :, None] + mean)
        else:
            kept.append(effects)
    return torch.cat(kept, dim=1)


def shrinkage(
    effects: Float[Tensor, "effect subject"], omega: Float[Tensor, "effect effect"]
) -> Float[Tensor, "effect"]:
    r"""Return eta-shrinkage, ``1 - SD(eta) / sqrt(omega)`` with the sample standard deviation (n - 1).

    Args:
        effects: Conditional modes, ``(effect, subject)``; subjects without one (NaN) are left out.
        omega: Covariance matrix of the random effects.

    Returns:
        A fraction per effect, one where all modes are equal; NaN for a single subject.

    References:
        Savic and Karlsson (2009), Importance of shrinkage in empirical Bayes estimates. doi:10.1208/s12248-009-9133-0
    """
    effects = effects[:, torch.isfinite(effects).all(0)]
    if effects.shape[-1] < 2 or not len(effects):
        return torch.full_like(omega.diagonal(), torch.nan)
    return 1 - effects.std(dim=-1, correction=1) / omega.diagonal().sqrt()


def mode_warnings(effects: EffectEstimates, subjects: Sequence[Any]) -> tuple[str, ...]:
    """Name the subjects whose conditional mode was not found.

    Args:
        effects: What is known of the effects.
        subjects: Ids in the order of the batch.
    """
    lost = (~torch.isfinite(effects.modes).all(0)).nonzero()[:, 0].tolist()
    if not lost:
        return ()
    named = ", ".join(str(subjects[index]) for index in lost[:5]) + (", ..." if len(lost) > 5 else "")
    means = bool(torch.isfinite(effects.means[:, lost]).all())
    instead = "; their conditional means are in eta_mean" if means else ""
    return (
        f"no conditional mode was found for {len(lost)} of {len(subjects)} subjects ({named}): their eta, individual "
        f"parameters and IPRED are NaN{instead}. The density or its derivatives cannot be evaluated where the search "
        "came by: look for roots, powers and logarithms of zero in the model.",
    )
