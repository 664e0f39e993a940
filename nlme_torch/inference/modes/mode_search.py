r"""The best conditional mode of every subject, from however far away, and the next best.

The density of a subject's effects may have several maxima. A climb from one point finds one of them; which is the
highest only a search tells. This one spends values, which are cheap, to decide where the few climbs with second
derivatives begin:

1. the density at given starts, along the axes, and at quasi-random points that spread over several prior standard
   deviations: one call; climbs from the two highest that lie apart;
2. from the best mode so far, rays along the axes and along the eigenvectors of the curvature, and chords to the highest
   of the other points: where the density rises again beyond a fall there is another hill (Ursem's test), and a climb
   begins there; once more if a higher mode was found.

The best mode is the one of largest joint density. Laplace's value there may be larger or smaller than at another mode:
it must not choose.

References:
    Ursem (1999), Multinational evolutionary algorithms. doi:10.1109/CEC.1999.785470
    Rinnooy Kan and Timmer (1987), Stochastic global optimization methods part II: multi level methods.
    doi:10.1007/BF02592071
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Bool, Float, LogDensity
from nlme_torch.inference.mcmc.kernels import evaluate
from nlme_torch.inference.modes.conditional_modes import (
    Modes,
    ModeStatus,
    best_mode,
    conditional_modes,
    distinct_modes,
    joined,
)
from nlme_torch.model.density.density import Conditional

AXIS = 1.5
"""Where points lie on the axes, in prior standard deviations, as RAY is, and the widths SCALES of the lattice."""
SCALES = (0.7, 1.2, 2.0, 3.5)
"""From within the prior to beyond it: data may put a subject several standard deviations out."""
RAY = (0.4, 0.9, 1.5, 2.3, 3.3, 4.8, 7.0)
"""Distances along a ray; they widen, as hills do that lie far out."""
CHORD = (0.12, 0.3, 0.5, 0.7, 0.88)
"""Shares of a chord at which a valley between two hills is looked for; the ends themselves are known."""
CHORDS = 12
"""Highest other points to which there are chords."""
EXCESS, DEPTH, ODD = 2.0, 20.0, 2
"""Log density above the normal at the mode that is odd, below the mode that still counts, and how many are climbed."""
FIRST, LATER, RESCUES, ROUNDS = 2, 3, 6, 3
"""Climbs at the beginning, in a later round, where none was found, and rounds: each costs second derivatives."""
MOST_EFFECTS = 8
"""Beyond, a lattice is too thin to find anything."""
FEW = 4
"""Effects up to which rays go along axes and eigenvectors both."""
MAX_COLUMNS = 20_000
"""Points times subjects in one call: some 100 MB of doubles for a few hundred records."""
KINK, KINK_END, KINK_STEPS = 0.1, 1e-9, 60
"""First and last length of a climb without derivatives; steps shrink by 0.4, so that twenty of them lie between."""
REACH = 12.0
"""Standard deviations: a longer step leads where nothing can be evaluated."""
SAME = 0.1
"""Conditional standard deviations within which two searches ended at one mode."""


class BestModes(NamedTuple):
    """The highest mode of every column, and how far below it the next one lies.

    Attributes:
        modes: Batch ``(column,)``; status says where none was found.
        gap: Fall of the log joint density to the next mode found, ``(column,)``; infinite where there is none.
    """

    modes: Modes
    gap: Float[Tensor, "column"]


def best_modes(
    log_joint: LogDensity,
    starts: Float[Tensor, "effect start column"],
    *,
    climbs: int = LATER,
    points: int | None = None,
) -> BestModes:
    """Search the highest mode of every column.

    Args:
        log_joint: Log joint density of standardised effects, ``(effect, *batch, column) -> (*batch, column)``.
        starts: Points that are known to be of interest, zero or earlier modes, ``(effect, start, column)``.
        climbs: Most climbs to other hills in one round.
        points: Quasi-random points; None takes 64 and 16 more for every effect.

    Returns:
        The modes.

    Example:
        >>> import torch
        >>> def two_hills(z):  # the higher one at 2
        ...     return torch.logaddexp(-8 * (z[0] + 1) ** 2, 1 - 8 * (z[0] - 2) ** 2)
        >>> found = best_modes(two_hills, -torch.ones(1, 1, 1, dtype=torch.float64))
        >>> round(found.modes.effects.item(), 6), round(found.gap.item(), 6)
        (2.0, 1.0)
    """
    starts = starts.detach()
    spread = _lattice(len(starts), 64 + 16 * len(starts) if points is None else points).to(starts)
    seen = torch.cat([starts, spread[:, :, None].expand(-1, -1, starts.shape[-1])], 1)
    heights = values_at(log_joint, seen)
    chosen = _apart(seen, heights, FIRST)
    modes = climb(log_joint, *chosen)
    lost = ~modes.found().any(0)
    if bool(lost.any()):
        more, wanted = _apart(seen, heights, FIRST + RESCUES)
        modes = joined(modes, climb(log_joint, more, wanted & lost))
    for _ in range(ROUNDS):
        best = best_mode(modes)
        hills, wanted = _other_hills(log_joint, best, seen, heights, climbs)
        if not bool(wanted.any()):
            break
        found = climb(log_joint, hills, wanted)
        higher = found.found() & (found.value > best.value + 1e-6 * (1 + best.value.abs()))
        modes = joined(modes, found)
        if not bool(higher.any()):
            break
    return best_and_next(modes)


def search(log_joint: LogDensity, starts: Float[Tensor, "effect start column"], climbs: int) -> BestModes:
    """Search the highest mode: over all hills for a handful of effects, from every start for many.

    Args:
        log_joint: As for :func:`best_modes`.
        starts: Points of interest.
        climbs: As for :func:`best_modes`.
    """
    if len(starts) <= MOST_EFFECTS:
        return best_modes(log_joint, starts, climbs=climbs)
    return best_and_next(climb(log_joint, starts))


def best_and_next(modes: Modes) -> BestModes:
    """Return the highest usable mode of every column, and the fall to the next different one.

    Args:
        modes: Batch ``(start, column)``.
    """
    distinct, best = distinct_modes(modes), best_mode(modes)
    difference = distinct.effects - best.effects[:, None]
    square = torch.einsum("ims,ijms,jms->ms", difference, distinct.precision, difference)
    other = torch.isfinite(distinct.value) & (square > SAME**2)
    gap = torch.where(other, best.value - distinct.value, torch.inf).amin(0)
    return BestModes(best, gap.clamp_min(0.0))


def climb(log_joint: LogDensity, starts: Tensor, wanted: Bool[Tensor, "start column"] | None = None) -> Modes:
    """Climb from every wanted start of standardised effects, with steps of sensible length, and along kinks."""
    modes = conditional_modes(log_joint, starts, wanted=wanted, reach=REACH)
    stuck = (modes.status == ModeStatus.STALLED) | (modes.status == ModeStatus.NOT_CONCAVE)
    stuck = stuck & ~modes.usable() & torch.isfinite(modes.value)
    if len(starts) > MOST_EFFECTS or not bool(stuck.any()):
        return modes
    effects, value, alone = along_kinks(log_joint, modes.effects, modes.value, stuck)
    # from a saddle point Newton's method goes on; at a kink it still finds no way, and this is the highest point
    again = conditional_modes(log_joint, effects, wanted=stuck, reach=REACH)
    smooth = again.usable()
    kink = torch.where(alone, int(ModeStatus.FAILED), int(ModeStatus.STALLED))
    status = torch.where(smooth, again.status, torch.where(stuck, kink, modes.status))
    rest = modes._replace(effects=effects, value=value)
    return Modes(*(torch.where(smooth, a, b) for a, b in zip(again, rest, strict=True)))._replace(status=status)


def reach(conditional: Conditional) -> float:
    """Return the longest sensible step of effects that are not standardised: as many standard deviations of the widest.

    Args:
        conditional: Densities at the parameters.
    """
    with torch.no_grad():
        variances = conditional.covariance().diagonal(dim1=-2, dim2=-1)
    return REACH * float(variances.max().sqrt()) if variances.numel() else math.inf


def along_kinks(
    log_joint: LogDensity, points: Tensor, value: Tensor, stalled: Tensor
) -> tuple[Tensor, Tensor, Bool[Tensor, "start column"]]:
    """Climb without derivatives where a kink, as of a lag time at an observation, leaves Newton no way up.

    Args:
        log_joint: Log joint density of standardised effects.
        points: ``(effect, start, column)``.
        value: There, ``(start, column)``.
        stalled: Which to climb on from.

    Returns:
        Points and values, never lower; and where nothing around a point can be evaluated, so that it is no maximum.

    References:
        Kolda, Lewis and Torczon (2003), Optimization by direct search. doi:10.1137/S003614450242889
    """
    effect = len(points)
    generator = torch.Generator().manual_seed(0)
    length, alone = torch.where(stalled, KINK, 0.0).to(points), stalled
    for _ in range(KINK_STEPS):
        turned = torch.randn(effect, effect, generator=generator, dtype=torch.float64).to(points)
        lines = torch.cat([torch.eye(effect).to(points), torch.linalg.qr(turned)[0]], 1)
        lines = torch.cat([lines, -lines], 1)
        trials = points[:, None] + lines[:, :, None, None] * length
        heights = evaluate(log_joint, trials)
        alone = stalled & ~torch.isfinite(heights).any(0)
        top, place = heights.max(0)
        rose = top > value
        chosen = trials.gather(1, place[None, None].expand(effect, 1, -1, -1))[:, 0]
        points, value = torch.where(rose, chosen, points), torch.where(rose, top, value)
        length = length * torch.where(rose, 2.0, 0.4)
        if bool((length < KINK_END).all()):
            break
    return points, value, alone


def values_at(log_joint: LogDensity, points: Float[Tensor, "effect point column"]) -> Float[Tensor, "point column"]:
    """Return the log density, in pieces; ``-inf`` where it cannot be evaluated."""
    chunk = max(1, MAX_COLUMNS // points.shape[-1])
    return torch.cat([evaluate(log_joint, part) for part in points.split(chunk, dim=1)])


@lru_cache(maxsize=32)
def _lattice(effects: int, points: int) -> Float[Tensor, "effect point"]:
    """Zero, points on the axes, and quasi-random normal points of several widths."""
    axes = AXIS * torch.eye(effects, dtype=torch.float64)
    uniform = torch.quasirandom.SobolEngine(effects, scramble=True, seed=0).draw(points, dtype=torch.float64)
    spread = torch.special.ndtri(uniform.clamp(1e-4, 1 - 1e-4)).mT
    widths = torch.tensor(SCALES, dtype=torch.float64).repeat(points // len(SCALES) + 1)[:points]
    return torch.cat([torch.zeros(effects, 1, dtype=torch.float64), axes, -axes, widths * spread], 1)


def _apart(points: Tensor, heights: Tensor, count: int, distance: float = 0.5) -> tuple[Tensor, Tensor]:
    """The highest points of every column, none near a higher one; and which of them exist."""
    left = heights.clone()
    taken, exist = [], []
    for _ in range(min(count, points.shape[1])):
        top, place = left.max(0)
        point = points.gather(1, place[None, None].expand(len(points), 1, -1))
        taken.append(point)
        exist.append(torch.isfinite(top))
        near = (points - point).square().sum(0) < distance**2
        left = torch.where(near, -torch.inf, left)
    return torch.cat(taken, 1), torch.stack(exist)


def _other_hills(
    log_joint: LogDensity, best: Modes, points: Tensor, heights: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Points that belong to other hills as seen from the best mode, and which of them exist."""
    top, precision = best.effects[:, None], best.precision
    known = best.found() & torch.isfinite(precision).all(0).all(0)
    ends = points
    if heights.shape[0] > CHORDS:
        order = heights.argsort(0, descending=True)[:CHORDS]
        ends, tops = points.gather(1, order.expand(len(points), -1, -1)), heights.gather(0, order)
    else:
        tops = heights
    lines = _lines(torch.where(known, precision, torch.eye(len(top)).to(top)[..., None]))
    rays = (top[:, :, None] + lines[:, :, None] * top.new_tensor(RAY)[:, None]).flatten(1, 2)
    chords = (ends[:, :, None] + top.new_tensor(CHORD)[:, None] * (top - ends)[:, :, None]).flatten(1, 2)
    found = values_at(log_joint, torch.cat([rays, chords], 1))
    on_rays = found[: rays.shape[1]].unflatten(0, (lines.shape[1], len(RAY)))
    on_chords = found[rays.shape[1] :].unflatten(0, (ends.shape[1], len(CHORD)))
    margin = 1e-6 * (1 + best.value.abs())
    before = torch.cat([best.value.expand_as(on_rays[:, :1]), on_rays[:, :-1]], 1).cummin(1).values
    seen = torch.cat([rays, ends], 1)
    value = torch.cat([on_rays.flatten(0, 1), tops])
    beyond = torch.cat([(on_rays > before + margin).flatten(0, 1), on_chords.amin(1) < tops - margin])
    beyond = beyond & known & torch.isfinite(value)
    # what is far higher than the normal distribution at the mode says: most of it need not lie in this hill
    everywhere, level = torch.cat([seen, points], 1), torch.cat([value, heights])
    difference = everywhere - top
    square = torch.einsum("ims,ijs,jms->ms", difference, precision, difference)
    excess = level - best.value + 0.5 * square
    odd = known & torch.isfinite(excess) & (excess > EXCESS) & (level > best.value - DEPTH)
    hills = _apart(seen, torch.where(beyond, value, -torch.inf), count)
    others = _apart(everywhere, torch.where(odd, excess, -torch.inf), min(ODD, count))
    return torch.cat([hills[0], others[0]], 1), torch.cat([hills[1], others[1]])


def _lines(precision: Tensor) -> Float[Tensor, "effect line column"]:
    """Directions along the axes and the eigenvectors of the curvature, both ways."""
    effect, columns = precision.shape[0], precision.shape[-1]
    lines = torch.eye(effect).to(precision)[..., None].expand(-1, -1, columns)
    if effect > 1:
        vectors = torch.linalg.eigh(precision.movedim(-1, 0))[1].permute(1, 2, 0)
        lines = torch.cat([lines, vectors], 1) if effect <= FEW else vectors
    return torch.cat([lines, -lines], 1)
