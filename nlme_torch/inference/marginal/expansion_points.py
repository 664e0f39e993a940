"""Expansion points: the mode of every subject from a warm start, and searches for it where it is lost."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nlme_torch._typing import LogDensity
from nlme_torch.inference.marginal.approximation import Approximation, Evaluation, Integrand
from nlme_torch.inference.modes.conditional_modes import Modes, ModeStatus, best_mode, conditional_modes, joined
from nlme_torch.inference.modes.mode_search import MOST_EFFECTS, BestModes, best_and_next, best_modes, climb
from nlme_torch.inference.modes.newton import InnerModes, inner_modes
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.values import ParameterValues

RESCUE = 4
"""Searches for a mode that was lost, as a fit without equations begins with."""
TRIAL_STEPS = 30
"""Newton steps where a mode is only followed: half of what a search may take, as one that is far is another."""
NARROW_FROM = 40  # columns: below, leaving subjects out costs more than solving them


@dataclass(frozen=True)
class Expansion:
    """An approximation at its expansion points.

    Attributes:
        evaluation: Value, curvature and perhaps gradient of every subject.
        status: A ``ModeStatus`` of every subject, ``(start, subject)``.
        inner_evaluations: Second-derivative calls that the search of the modes took.
    """

    evaluation: Evaluation
    status: Tensor
    inner_evaluations: int

    @property
    def finite(self) -> bool:
        """Whether every subject could be evaluated at a mode."""
        return bool(torch.isfinite(self.evaluation.value).all())


def expand(
    approximation: Approximation,
    values: ParameterValues,
    centre: Tensor,
    *,
    gradient: bool = False,
    weights: Tensor | None = None,
    follow: bool = False,
    bearable: float = 1.0,
) -> Expansion:
    """Find the expansion points from a warm start and evaluate the approximation there.

    Args:
        approximation: FO, FOCE, ... joined to a model and its data.
        values: Raw name to ``(start, *shape)``.
        centre: Where to begin, ``(effect, start, subject)``.
        gradient: Whether to differentiate.
        weights: Weight of every subject in the gradient, ``(start, subject)``; None for 1.
        follow: Give up at once where a mode is not found from the warm start, rather than search elsewhere.
        bearable: Give up, too, where the modes of more than this share of the subjects are not.

    Returns:
        The evaluation; a subject without a mode has an infinite value.
    """
    if not approximation.has_modes:
        evaluation = approximation.evaluate(values, centre, gradient=gradient, weights=weights)
        failed = ~torch.isfinite(evaluation.value)
        return Expansion(evaluation, failed.long() * int(ModeStatus.FAILED), 0)
    with torch.no_grad():
        conditional = approximation.density.at(values)
    integrand = approximation.integrand(conditional)

    def narrow(subjects: Tensor) -> Integrand:
        part = approximation.restricted(subjects)
        with torch.no_grad():
            return part.integrand(part.density.at(values))

    few = narrow if approximation.density.model.has_dynamics and centre[0].numel() >= NARROW_FROM else None
    found = inner_modes(integrand, centre, narrow=few, steps=TRIAL_STEPS if follow else 60)
    count = found.evaluations
    missing = 1.0 - float(found.usable.double().mean())
    if missing > (0.0 if follow else bearable):
        lost = torch.full_like(centre[0], torch.inf)
        nothing = lost.new_zeros(len(lost), sum(values[name][0].numel() for name in approximation.names))
        unknown = lost.new_full((len(centre), *centre.shape), torch.nan)
        return Expansion(Evaluation(lost, unknown, centre, nothing if gradient else None), found.status, count)
    if missing:
        found = _rescued(approximation, values, centre, found)
        count = found.evaluations
    evaluation = approximation.evaluate(values, found.effects, gradient=gradient, weights=weights)
    value = torch.where(found.usable, evaluation.value, torch.inf)
    return Expansion(evaluation._replace(value=value), found.status, count)


def _rescued(approximation: Approximation, values: ParameterValues, centre: Tensor, found: InnerModes) -> InnerModes:
    """Search elsewhere for the subjects whose mode was lost, and for nobody else."""
    subjects = (~found.usable).any(0).nonzero()[:, 0]
    if len(subjects) == 1 < centre.shape[-1]:  # a batch of one would be compiled anew
        subjects = torch.cat([subjects, (subjects + 1) % centre.shape[-1]])
    part = approximation.restricted(subjects)
    with torch.no_grad():
        integrand = part.integrand(part.density.at(values))
    before, shape = centre[..., subjects], centre[..., subjects].shape[1:]
    best = climb(_columns(integrand, shape), before.flatten(1)[:, None])
    if not bool(best.found().all()):
        costly = solves_equations(approximation.density.model)
        best = joined(best, Modes(*(f[..., None, :] for f in search_modes(integrand, before, RESCUE, 0, costly).modes)))
    modes = best_mode(best)
    elsewhere = torch.where(torch.isfinite(modes.value), modes.effects, 0.0).reshape(before.shape)
    again = inner_modes(integrand, elsewhere)
    # at a kink Newton's method finds nothing better, and says so
    kink = (modes.found() & (modes.status == ModeStatus.STALLED)).reshape(shape) & ~again.usable
    effects = torch.where(kink, elsewhere, again.effects)
    lost = ~found.usable[:, subjects]
    points, status = found.effects.clone(), found.status.clone()
    points[..., subjects] = torch.where(lost, effects, points[..., subjects])
    settled = torch.where(kink, int(ModeStatus.STALLED), again.status)
    status[:, subjects] = torch.where(lost, settled, status[:, subjects])
    return InnerModes(points, status, found.evaluations + again.evaluations)


def decrements(approximation: Approximation, values: ParameterValues, centre: Tensor) -> Tensor:
    """Return how much lower g would be by a quadratic next to where it was expanded, ``(start, subject)``.

    Args:
        approximation: FOCE, Laplace, ... joined to a model and its data.
        values: Raw name to ``(start, *shape)``.
        centre: The modes, ``(effect, start, subject)``: nothing is to be gained there, but at a kink.
    """
    with torch.no_grad():
        integrand = approximation.integrand(approximation.density.at(values))
    shape = centre.shape[1:]
    return (
        conditional_modes(_columns(integrand, shape), centre.flatten(1)[:, None], newton_steps=0)
        .decrement[0]
        .reshape(shape)
    )


def _columns(integrand: Integrand, shape: torch.Size) -> LogDensity:
    """The log joint density of g as mode searches see it: starts are further subjects."""

    def log_joint(effects: Tensor) -> Tensor:
        value = -integrand(effects.reshape(effects.shape[0], -1, *shape))
        return value.reshape(effects.shape[1:])

    return log_joint


def solves_equations(model: Model) -> bool:
    """Whether every value costs the solution of a differential equation."""
    return model.has_dynamics and not model.has_compartments


def search_modes(integrand: Integrand, centre: Tensor, searches: int, seed: int, costly: bool) -> BestModes:
    """Search the lowest minimum of g for every subject, whatever the objective there.

    Args:
        integrand: g, to be minimised.
        centre: A point to begin at, ``(effect, start, subject)``; zero is another one.
        searches: One more than climbs to other hills in a round; for many effects, where hills cannot be looked for,
            the starts of climbs in all.
        seed: Seed of the draws where those begin.
        costly: Whether g solves equations, so that fewer points are looked at.

    Returns:
        The modes, batch ``(start * subject,)``, and how far below lies the next.
    """
    shape = centre.shape[1:]
    log_joint = _columns(integrand, shape)
    origins = torch.stack([centre, torch.zeros_like(centre)], 1)
    if len(centre) <= MOST_EFFECTS:
        points = 8 + 4 * len(centre) if costly else None
        return best_modes(log_joint, origins.flatten(-2), climbs=max(searches - 1, 1), points=points)
    generator = torch.Generator().manual_seed(seed)
    size = (centre.shape[0], max(searches - 2, 0), *shape)
    draws = torch.randn(size, generator=generator, dtype=centre.dtype).to(centre.device)
    return best_and_next(climb(log_joint, torch.cat([origins, draws], 1).flatten(-2)))
