"""The inner problem of FOCE and Laplace: conditional modes of all subjects at once, from a warm start."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Bool, Float
from nlme_torch.inference.modes.conditional_modes import ModeStatus
from nlme_torch.inference.modes.derivatives import derivatives
from nlme_torch.inference.numerics import linear_algebra

NOISE = 1e-3
"""Of log-likelihood, that a step may promise within the noise of an adaptive solver at its usual tolerance."""
PATIENCE = 6
"""Steps within the noise before a search rests: in fewer than these Newton's method leaves it, if it can."""
REJECTIONS = 20
"""Of a subject's steps in all: more are refused at a kink, where smaller ones do not help."""
REACH = 12.0
"""Prior standard deviations: a longer step leads where nothing can be evaluated."""
SMALL = 1.5e-4
"""Prior standard deviations; longer steps within the tolerance occur where the Hessian is nearly singular."""


class InnerModes(NamedTuple):
    """Where the search of every subject ended.

    Attributes:
        effects: Standardised effects, ``(effect, start, subject)``.
        status: A ``ModeStatus`` each, ``(start, subject)``.
        evaluations: Calls of the second derivatives.
    """

    effects: Tensor
    status: Tensor
    evaluations: int

    @property
    def usable(self) -> Bool[Tensor, "start subject"]:
        """Which subjects have a mode."""
        return (self.status == ModeStatus.CONVERGED) | (self.status == ModeStatus.STALLED)


def inner_modes(
    integrand: Callable[[Tensor], Tensor],
    starts: Float[Tensor, "effect start subject"],
    *,
    tolerance: float = 1e-8,
    steps: int = 60,
    narrow: Callable[[Tensor], Callable[[Tensor], Tensor]] | None = None,
) -> InnerModes:
    r"""Minimise g over the effects of every subject by damped Newton steps with the exact Hessian.

    .. math:: z \leftarrow z - t\, |\nabla^2 g|^{-1} \nabla g

    A full step is tried first, or one of 12 standard deviations and as much as was gone; a subject for which g
    rises, or cannot be evaluated, shortens its own step and nobody else's. Where the Hessian is not positive
    definite its eigenvalues enter by absolute value; steps that promise little there double while g falls. A subject
    has converged when half its squared Newton decrement is below ``tolerance`` and the step that was due is small; it
    is still taken, so that the error left is of the order of the square of it. A subject that stays within 0.001 of
    its minimum for several steps without converging is as near as the solver's noise allows: it has stalled, which is
    no failure.

    Args:
        integrand: g, ``(effect, chain, start, subject) -> (chain, start, subject)``; infinite where it cannot be
            evaluated.
        starts: Where to begin, ``(effect, start, subject)``.
        tolerance: Of half the squared decrement, in units of log-likelihood.
        steps: Largest number of second-derivative calls.
        narrow: Returns g of some subjects, by their positions ``(subject,)``, so that those that have converged are
            not evaluated again; None evaluates all of them, which for a closed form costs the same.

    Returns:
        The modes.
    """
    points = starts.detach()
    value, gradient, hessian = _evaluate(integrand, points)
    evaluations = 1
    batch = points.shape[1:]
    status = torch.full(batch, int(ModeStatus.MAX_STEPS), device=points.device)
    active = torch.isfinite(value)
    status[~active] = int(ModeStatus.FAILED)
    step, expected, concave = _direction(gradient, hessian, active)
    length = _first_length(step, points).clamp(max=1.0)
    near, rejected, stretch = torch.zeros_like(status), torch.zeros_like(status), torch.ones_like(value)
    among, part = torch.arange(batch[-1], device=points.device), integrand
    while True:
        done = active & (expected < tolerance) & concave & (step.abs().amax(0) < SMALL * (1 + points.abs().amax(0)))
        points = torch.where(done, points + step, points)
        status[done] = int(ModeStatus.CONVERGED)
        active = active & ~done
        if evaluations >= steps or not bool(active.any()):
            return InnerModes(points, status, evaluations)
        trial = torch.where(active, points + length * step, points)
        subjects = active.any(0).nonzero()[:, 0]
        if narrow is not None and 2 * len(subjects) <= len(among) > 2:
            if len(subjects) == 1:  # a batch of one would be compiled anew
                subjects = torch.cat([subjects, (subjects + 1) % active.shape[-1]])
            among, part = subjects, narrow(subjects)
        found, turned, bent = _scattered(_evaluate(part, trial[..., among]), among, active.shape[-1])
        evaluations += 1
        slack = 1e-9 * (1 + value.abs())  # the noise of an adaptive solver
        risen = active & ~(found <= value + slack - 1e-4 * length * expected)
        accepted = active & ~risen
        points = torch.where(accepted, trial, points)
        value = torch.where(accepted, found, value)
        gradient, hessian = torch.where(accepted, turned, gradient), torch.where(accepted, bent, hessian)
        shorter = torch.where(torch.isfinite(found), 0.35, 0.15) * length
        # within the noise of an adaptive solver a mode cannot be had more exactly
        near = torch.where(active & concave & (expected < NOISE), near + 1, 0)
        rejected = rejected + risen
        stuck = (risen & ((shorter < 1e-8) | (rejected > REJECTIONS))) | (active & (near > PATIENCE))
        status[stuck] = torch.where(concave, int(ModeStatus.STALLED), int(ModeStatus.NOT_CONCAVE))[stuck]
        active = active & ~stuck
        # next to a fold g bends down by next to nothing and steps are too short: they double for as long as g falls
        crawled = accepted & ~concave & (expected < NOISE)
        stretch = torch.where(crawled, (2 * length).clamp_min(1.0), torch.where(accepted, 1.0, stretch))
        step, expected, concave = _direction(gradient, hessian, active)
        stretch = torch.where(concave, 1.0, stretch)
        length = torch.where(accepted, _first_length(step, points).minimum(stretch), shorter)


def _first_length(step: Tensor, points: Tensor) -> Tensor:
    """The multiple of a step that keeps within reach, which grows with the way that was gone."""
    return (REACH + points.norm(dim=0)) / step.norm(dim=0).clamp_min(1e-300)


def _evaluate(integrand: Callable[[Tensor], Tensor], points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient and Hessian; infinite value where any of them is not finite."""
    value, gradient, hessian = derivatives(lambda z: -integrand(z), points, max_columns=2**62)
    good = torch.isfinite(value) & torch.isfinite(gradient).all(0) & torch.isfinite(hessian).all(0).all(0)
    return torch.where(good, -value, torch.inf), -gradient, -hessian


def _scattered(results: tuple[Tensor, ...], subjects: Tensor, count: int) -> tuple[Tensor, ...]:
    """Put the results of some subjects where they belong; the others get infinity, which nobody reads."""
    if len(subjects) == count:
        return results
    whole = []
    for result in results:
        full = result.new_full((*result.shape[:-1], count), torch.inf)
        full[..., subjects] = result
        whole.append(full)
    return tuple(whole)


def _direction(gradient: Tensor, hessian: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Newton step ``(effect, *batch)``, the fall that it promises, and where the Hessian is positive definite."""
    count = gradient.shape[0]
    identity = torch.eye(count, dtype=gradient.dtype, device=gradient.device)
    matrices = torch.where(active[..., None, None], hessian.movedim((0, 1), (-2, -1)), identity)
    slopes = torch.where(active, gradient, 0.0).movedim(0, -1)[..., None]
    factor, info = torch.linalg.cholesky_ex(matrices)
    definite = info == 0
    if bool(definite.all()):
        steps = -torch.cholesky_solve(slopes, factor)
    else:
        eigenvalues, vectors = linear_algebra.symmetric_eigen(matrices)
        # the standard normal prior of the effects adds one to every eigenvalue: smaller ones are no scale to trust
        sizes = torch.where(definite[..., None], eigenvalues, eigenvalues.abs().clamp_min(1.0))
        steps = -vectors @ ((vectors.mT @ slopes) / sizes[..., None])
    expected = -0.5 * (slopes * steps).sum((-2, -1))
    return steps[..., 0].movedim(-1, 0), expected, definite
