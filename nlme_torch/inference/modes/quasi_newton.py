"""Batched BFGS ascent: the cheap approach to a conditional mode when there are many effects."""

from collections.abc import Callable

import torch
from torch import Tensor

from nlme_torch._typing import Bool, Float, LogDensity
from nlme_torch.inference.mcmc.kernels import evaluate_gradient


def on_active(
    function: Callable[[Tensor], tuple[Tensor, ...]],
    points: Float[Tensor, "effect start subject"],
    active: Bool[Tensor, "start subject"],
) -> tuple[Tensor, ...]:
    """Evaluate only as many starts as the busiest subject still has active.

    Subjects cannot leave a batch (each column belongs to its own data), but starts can: the active starts of
    each subject are packed together, evaluated, and put back.

    Args:
        function: ``(effect, start', subject)`` to tensors that end in ``(start', subject)``.
        points: All points, ``(effect, start, subject)``.
        active: Which of them are wanted, ``(start, subject)``.

    Returns:
        The results at full size; entries that are not active are NaN.
    """
    width = int(active.sum(0).max())
    order = (~active).to(torch.int8).argsort(dim=0, stable=True)[:width]
    packed = points.gather(1, order.expand(points.shape[0], -1, -1))
    keep = active.gather(0, order)
    results = []
    for result in function(packed):
        full = result.new_full((*result.shape[:-2], *active.shape), torch.nan)
        index = order.expand_as(result)
        # Each subject's packed order is a set of distinct starts, so nothing is written twice.
        results.append(full.scatter(-2, index, torch.where(keep, result, torch.nan)))
    return tuple(results)


def quasi_newton(
    log_joint: LogDensity,
    starts: Float[Tensor, "effect start subject"],
    *,
    steps: int,
    tolerance: float = 1e-3,
) -> Float[Tensor, "effect start subject"]:
    r"""Climb by BFGS with a backtracking line search, each column at its own pace.

    Each call evaluates one trial point of every column still climbing: a column whose trial rises enough
    updates its inverse Hessian and turns; a column whose trial does not (or cannot be evaluated) shortens its
    own step.

    Args:
        log_joint: Log density, ``(effect, *batch) -> (*batch)``.
        starts: Starting points, ``(effect, start, subject)``.
        steps: Largest number of calls.
        tolerance: A column stops when :math:`\tfrac12 g^\top B g`, the rise it still expects, is below this.

    Returns:
        Improved points, ``(effect, start, subject)``; never lower than the starts.

    References:
        Nocedal and Wright (2006), Numerical Optimization, chapter 6. doi:10.1007/978-0-387-40065-5
    """
    effect, *batch = starts.shape
    points = starts.detach().clone()
    value, gradient = evaluate_gradient(log_joint, points)
    identity = torch.eye(effect, dtype=points.dtype, device=points.device)[..., None, None]
    inverse = identity.expand(effect, effect, *batch).clone()
    fresh = torch.ones(batch, dtype=torch.bool, device=points.device)
    direction = gradient / gradient.norm(dim=0).clamp(min=1.0)
    length = torch.ones_like(value)
    active = torch.isfinite(value) & (gradient != 0).any(0)
    for _ in range(steps):
        if not bool(active.any()):
            break
        slope = (gradient * direction).sum(0)
        trial = points + length * direction
        found, turned = on_active(lambda x: evaluate_gradient(log_joint, x), trial, active)
        rise = torch.where(torch.isfinite(found), found - value, -torch.inf)
        accepted = active & (rise >= 1e-4 * length * slope)
        inverse, fresh = _update(inverse, fresh, trial - points, gradient - turned, accepted)
        points, value = torch.where(accepted, trial, points), torch.where(accepted, found, value)
        gradient = torch.where(accepted, turned, gradient)
        direction = torch.where(accepted, torch.einsum("ij...,j...->i...", inverse, gradient), direction)
        # Where a parabola through the values and the slope has its top; a fifth where nothing was evaluated.
        fitted = 0.5 * length * slope / (slope - rise / length).clamp(min=1e-30)
        shorter = torch.where(torch.isfinite(rise), fitted.clamp(0.1 * length, 0.5 * length), 0.2 * length)
        length = torch.where(accepted, 1.0, shorter)
        expected = 0.5 * (gradient * direction).sum(0)
        active = active & ~(accepted & (expected < tolerance)) & (length > 1e-8)
    return points


def _update(inverse: Tensor, fresh: Tensor, step: Tensor, bend: Tensor, accepted: Tensor) -> tuple[Tensor, Tensor]:
    """BFGS update of the inverse Hessian of minus the log density, where the curvature is positive."""
    curvature = (step * bend).sum(0)
    good = accepted & (curvature > 1e-10 * step.norm(dim=0) * bend.norm(dim=0))
    curvature = torch.where(good, curvature, 1.0)
    # The first update of a column sets its scale.
    scale = curvature / bend.pow(2).sum(0)
    inverse = torch.where(good & fresh, inverse * scale, inverse)
    pushed = torch.einsum("ij...,j...->i...", inverse, bend)
    outer = (1.0 + (bend * pushed).sum(0) / curvature) * step[:, None] * step[None] - (
        pushed[:, None] * step[None] + step[:, None] * pushed[None]
    )
    return torch.where(good, inverse + outer / curvature, inverse), fresh & ~good
