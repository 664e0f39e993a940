"""Conditional modes (empirical Bayes estimates): batched damped Newton from many starts."""

import math
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Bool, Float, LogDensity
from nlme_torch.inference.mcmc.kernels import evaluate
from nlme_torch.inference.modes.derivatives import derivatives
from nlme_torch.inference.modes.quasi_newton import on_active, quasi_newton
from nlme_torch.inference.numerics import linear_algebra

RETREATS = 6
"""Halvings of a way back to where there are derivatives: to less than a fiftieth of it."""


class ModeStatus(IntEnum):
    """How the search of one column ended.

    ``CONVERGED``: the expected further rise is below the tolerance and the Hessian is negative definite.
    ``STALLED``: no step raised the density any more although the tolerance was not met: harmless where
    ``decrement`` is small (the noise of an adaptive solver). ``NOT_CONCAVE``: stuck where the Hessian is not
    negative definite. ``MAX_STEPS``: still climbing; allow more steps. ``FAILED``: the density or its
    derivatives cannot be evaluated at the start, nor on the way from it to zero.
    """

    CONVERGED = 0
    STALLED = 1
    NOT_CONCAVE = 2
    MAX_STEPS = 3
    FAILED = 4


class Modes(NamedTuple):
    """Where the searches ended, and the curvature there.

    Attributes:
        effects: Points, ``(effect, *batch)``; batch is ``(start, subject)``, or ``(subject,)`` after
            ``best_mode``.
        value: Log joint density there, ``(*batch)``.
        gradient_norm: Euclidean norm of the gradient there, ``(*batch)``.
        precision: Minus the Hessian there, ``(effect, effect, *batch)``.
        decrement: Half the squared Newton decrement, the rise that a quadratic still expects, ``(*batch)``;
            infinite where the precision is not positive definite.
        status: A ``ModeStatus`` each, ``(*batch)``.
    """

    effects: Tensor
    value: Tensor
    gradient_norm: Tensor
    precision: Tensor
    decrement: Tensor
    status: Tensor

    def usable(self, tolerance: float = 1e-3) -> Bool[Tensor, "*batch"]:
        """Which columns are maxima in practice: within ``tolerance`` of the top of a concave cap."""
        return (self.decrement < tolerance) & (self.status != ModeStatus.FAILED)

    def found(self) -> Bool[Tensor, "*batch"]:
        """Which columns are maxima, those at a kink included, where curvature says nothing."""
        return self.usable() | (self.status == ModeStatus.STALLED)


def conditional_modes(
    log_joint: LogDensity,
    starts: Float[Tensor, "effect start subject"],
    *,
    tolerance: float = 1e-10,
    newton_steps: int = 50,
    quasi_newton_steps: int | None = None,
    max_columns: int = 20_000,
    wanted: Bool[Tensor, "start subject"] | None = None,
    reach: float = math.inf,
) -> Modes:
    r"""Climb to a conditional mode from every start of every subject.

    .. math:: \hat\eta_i = \arg\max_\eta \log p(y_i, \eta), \qquad
        \eta \leftarrow \eta + V (\Lambda + \mu I)^{-1} V^\top \nabla, \quad -\nabla^2 = V \Lambda V^\top

    Newton steps with the exact Hessian. Where the density is not concave the eigenvalues are shifted, or
    enter by their absolute values, so that a step still climbs. The damping :math:`\mu` and the length of
    each column's step are chosen among a ladder tried in one batched call. Columns that have converged are
    not evaluated again. Once a column has converged, the step that was due is still taken, so that its error is of the
    order of the square of it. With many effects a quasi-Newton phase, which needs gradients only, goes first.

    Args:
        log_joint: Log joint density, ``(effect, *batch) -> (*batch)``, twice differentiable; NaN or ``-inf``
            where the model cannot be solved (a trial step there is shortened, for that column alone).
        starts: Starting points, ``(effect, start, subject)``.
        tolerance: A column has converged when half its squared Newton decrement is below this.
        newton_steps: Largest number of Newton steps.
        quasi_newton_steps: Largest number of gradient calls before; None is 0 below 8 effects and
            ``6 * effect`` from there.
        max_columns: Largest batch of a second-derivative call, replicas counted.
        wanted: Which starts to climb from; the others are ``FAILED``. None: all.
        reach: Longest step from zero, from elsewhere longer by the distance to it; about ten, where effects are
            standardised, keeps trials where models can be evaluated.

    Returns:
        One mode per start and subject; see ``best_mode`` and ``distinct_modes``.

    Example:
        >>> import torch
        >>> centre = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
        >>> log_joint = lambda effects: -(effects - centre).pow(2).sum(0)
        >>> modes = conditional_modes(log_joint, torch.zeros(2, 1, 3, dtype=torch.float64))
        >>> modes.effects[0, 0]
        tensor([ 1., -2.,  3.], dtype=torch.float64)

    References:
        Dauphin et al. (2014), Identifying and attacking the saddle point problem in high-dimensional
        non-convex optimization.
        Nocedal and Wright (2006), Numerical Optimization, chapter 3. doi:10.1007/978-0-387-40065-5
    """
    effect, *batch = starts.shape
    active = torch.ones(batch, dtype=torch.bool, device=starts.device) if wanted is None else wanted
    points = _evaluable(log_joint, torch.where(active, starts.detach(), 0.0))
    if quasi_newton_steps is None:
        quasi_newton_steps = 0 if effect < 8 else 6 * effect
    if quasi_newton_steps:
        points = quasi_newton(log_joint, points, steps=quasi_newton_steps)

    value = points.new_full(batch, -torch.inf)
    gradient_norm, decrement = torch.full_like(value, torch.inf), torch.full_like(value, torch.inf)
    precision = points.new_full((effect, effect, *batch), torch.nan)
    status = torch.where(active, int(ModeStatus.MAX_STEPS), int(ModeStatus.FAILED))
    before, retreats = points, torch.zeros_like(status)
    if not bool(active.any()):
        return Modes(points, value, gradient_norm, precision, decrement, status)
    for step in range(newton_steps + 1):
        found, gradient, hessian = on_active(
            lambda x: tuple(derivatives(log_joint, x, max_columns=max_columns)), points, active
        )
        finite = torch.isfinite(torch.cat([found[None], gradient, hessian.flatten(0, 1)])).all(0)
        broken = active & ~finite
        retreats = retreats + broken
        hopeless = broken & ((retreats > RETREATS) | (points == before).all(0))
        status[hopeless] = int(ModeStatus.FAILED)
        climbing, active = active & ~hopeless, active & ~broken
        eigenvalues, vectors = _eigen(hessian, active)
        along = torch.einsum("...ji,j...->i...", vectors, torch.where(active, gradient, 0.0))
        concave = (eigenvalues > 0).all(0)
        expected = torch.where(concave, 0.5 * (along.pow(2) / eigenvalues).sum(0), torch.inf)
        value, precision = torch.where(active, found, value), torch.where(active, -hessian, precision)
        gradient_norm = torch.where(active, gradient.norm(dim=0), gradient_norm)
        decrement = torch.where(active, expected, decrement)
        done = active & (decrement < tolerance)
        status[done] = int(ModeStatus.CONVERGED)
        last = torch.einsum("...ij,j...->i...", vectors, along / torch.where(done, eigenvalues, 1.0))
        points = torch.where(done, points + last, points)
        active, climbing = active & ~done, climbing & ~done
        if step == newton_steps:
            status[climbing & ~active] = int(ModeStatus.FAILED)
        if step == newton_steps or not bool(climbing.any()):
            break
        # where there are values but no derivatives: part of the way back to where there were
        here = torch.where(climbing & ~active, 0.5 * (points + before), points)
        before = torch.where(active, points, before)
        points, moved = _climb(log_joint, here, value, along, eigenvalues, vectors, active, max_columns, reach)
        stuck = active & ~moved
        status[stuck & concave] = int(ModeStatus.STALLED)
        status[stuck & ~concave] = int(ModeStatus.NOT_CONCAVE)
        active = climbing & ~stuck
        if not bool(active.any()):
            break
    return Modes(points, value, gradient_norm, precision, decrement, status)


def _evaluable(log_joint: LogDensity, starts: Tensor) -> Tensor:
    """Starts where the density is finite; the others are pulled towards zero until it is."""
    finite = torch.isfinite(evaluate(log_joint, starts))
    if bool(finite.all()):
        return starts
    shrink = torch.tensor([0.5, 0.25, 0.1, 0.0], dtype=starts.dtype, device=starts.device)
    candidates = starts[:, None] * shrink[:, None, None]
    good = torch.isfinite(evaluate(log_joint, candidates))
    first = good.to(torch.int8).argmax(0)
    pulled = candidates.gather(1, first[None, None].expand(starts.shape[0], 1, -1, -1))[:, 0]
    return torch.where(finite | ~good.any(0), starts, pulled)


def _eigen(hessian: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``(effect, *batch)`` and vectors ``(*batch, effect, effect)`` of minus the Hessian."""
    matrices = -hessian.movedim((0, 1), (-2, -1))
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    safe = torch.where(active[..., None, None], matrices, identity)
    eigenvalues, vectors = linear_algebra.symmetric_eigen(safe)
    return eigenvalues.movedim(-1, 0), vectors


def _climb(
    log_joint: LogDensity,
    points: Tensor,
    value: Tensor,
    along: Tensor,
    eigenvalues: Tensor,
    vectors: Tensor,
    active: Tensor,
    max_columns: int,
    reach: float,
) -> tuple[Tensor, Tensor]:
    """The best of a ladder of damped and stretched steps for every active column, and whether it rises."""
    best, moved = points, torch.zeros_like(active)
    if not bool(active.any()):  # all that still climb are on their way back
        return best, moved
    largest = eigenvalues.abs().amax(0)
    shift = (-eigenvalues.amin(0)).clamp(min=0.0)
    saddle_free = eigenvalues.abs().clamp(min=1e-6 * largest)[:, None]
    # Damped steps follow a curved valley, stretched ones a flat one (Newton's own step is then too short).
    for low, high, stretches in ((-5.0, 1.0, (1.0, 2.0, 4.0)), (1.5, 8.0, (1.0,))):
        ladder = torch.logspace(low, high, 8, dtype=points.dtype, device=points.device)
        damping = ladder[:, None, None] * largest
        denominator = torch.cat([saddle_free, eigenvalues[:, None] + shift + damping], 1)
        steps = torch.einsum("...ij,jd...->id...", vectors, along[:, None] / denominator)
        steps = torch.cat([stretch * steps for stretch in stretches], 1)
        longest = reach + points.norm(dim=0)
        trials = points[:, None] + steps * (longest / steps.norm(dim=0).clamp_min(1e-300)).clamp(max=1.0)
        rungs = trials.shape[1]
        wanted = active & ~moved

        def values(packed: Tensor, rungs: int = rungs) -> tuple[Tensor, ...]:
            columns = packed.unflatten(0, (-1, rungs))  # (effect, rung, start, subject)
            chunk = max(1, max_columns // max(1, columns[0, 0].numel()))
            return (torch.cat([evaluate(log_joint, part) for part in columns.split(chunk, dim=1)]),)

        (found,) = on_active(values, trials.flatten(0, 1), wanted)
        found = torch.nan_to_num(found, nan=-torch.inf)
        top, rung = found.max(0)
        rose = wanted & (top > value)
        chosen = trials.gather(1, rung[None, None].expand(points.shape[0], 1, -1, -1))[:, 0]
        best, moved = torch.where(rose, chosen, best), moved | rose
        if bool((moved | ~active).all()):
            break
    return best, moved


def _take(modes: Modes, index: Tensor) -> Modes:
    """Gather along the start axis: ``index`` is ``(start', subject)``."""
    return Modes(*(f.gather(-2, index.expand(*f.shape[:-2], *index.shape)) for f in modes))


def joined(*several: Modes) -> Modes:
    """Return the results of several searches of the same subjects, along the start axis."""
    return Modes(*(torch.cat(parts, -2) for parts in zip(*several, strict=True)))


def best_mode(modes: Modes) -> Modes:
    """The highest mode found of every subject; where none was, the highest point with its status.

    Args:
        modes: Modes with batch ``(start, subject)``.

    Returns:
        Modes with batch ``(subject,)``.
    """
    value = torch.where(modes.found(), modes.value, -torch.inf)
    value = torch.where(modes.found().any(0), value, modes.value)
    best = _take(modes, value.argmax(0, keepdim=True))
    return Modes(*(f[..., 0, :] for f in best))


def distinct_modes(modes: Modes, *, distance: float = 0.1, below: float = 30.0) -> Modes:
    r"""The different usable modes of every subject, highest first.

    Two searches ended in the same mode when :math:`(\eta_a - \eta_b)^\top P_a (\eta_a - \eta_b)` is below
    ``distance`` squared, :math:`P_a` the precision at the higher one.

    Args:
        modes: Modes with batch ``(start, subject)``.
        distance: Distance in conditional standard deviations.
        below: Modes lower than the best by more than this many units of log density are dropped.

    Returns:
        Modes with batch ``(mode, subject)``, the mode axis as long as the richest subject needs. Other
        subjects are padded with copies of their best mode whose value is ``-inf`` and whose status is
        ``FAILED``.
    """
    value = torch.where(modes.usable(), modes.value, -torch.inf)
    order = value.argsort(0, descending=True)
    ranked, value = _take(modes, order), value.gather(0, order)
    keep = torch.isfinite(value) & (value >= value[0] - below)
    for rank in range(1, len(value)):
        difference = ranked.effects[:, :rank] - ranked.effects[:, rank : rank + 1]
        square = torch.einsum("ims,ijms,jms->ms", difference, ranked.precision[:, :, :rank], difference)
        keep[rank] &= ~(keep[:rank] & (square < distance**2)).any(0)
    width = max(1, int(keep.sum(0).max()))
    place = (~keep).to(torch.int8).argsort(dim=0, stable=True)[:width]
    kept = keep.gather(0, place)
    chosen = _take(ranked, torch.where(kept, place, 0))
    return chosen._replace(
        value=torch.where(kept, chosen.value, -torch.inf),
        status=torch.where(kept, chosen.status, int(ModeStatus.FAILED)),
    )
