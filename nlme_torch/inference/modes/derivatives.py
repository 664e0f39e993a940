"""Value, gradient and exact Hessian of a log density for every column, in one double-backward pass."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from nlme_torch._typing import Float, LogDensity
from nlme_torch.model.density.absolute_zeros import gradients


class Derivatives(NamedTuple):
    """The log density and its derivatives, detached.

    Attributes:
        value: ``(*batch)``; ``-inf`` where the density cannot be evaluated.
        gradient: ``(effect, *batch)``; not finite where it cannot be evaluated.
        hessian: ``(effect, effect, *batch)``, symmetric; not finite where it cannot be evaluated.
    """

    value: Tensor
    gradient: Tensor
    hessian: Tensor


@runtime_checkable
class WithDerivatives(Protocol):
    """A log density that may know its derivatives."""

    def __call__(self, effects: Tensor) -> Tensor:
        """Log density, ``(effect, *batch) -> (*batch)``."""
        ...

    def derivatives(self, effects: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Value, gradient and Hessian at ``(effect, *batch)``, or None."""
        ...


def derivatives(
    log_joint: LogDensity, effects: Float[Tensor, "effect *batch"], *, max_columns: int = 20_000
) -> Derivatives:
    r"""Exact derivatives: those that the density knows, or else by replication.

    Every column is copied once per effect; the gradient of :math:`\sum_j \partial_j \log p(\eta^{(j)})`,
    where replica ``j`` contributes its ``j``-th partial derivative, holds all rows of all Hessians at once. A
    density whose cost hardly grows with the batch (a batched ODE solve) so costs one call instead of one per
    effect.

    Args:
        log_joint: Log density, ``(effect, *batch) -> (*batch)``, twice differentiable.
        effects: Points, ``(effect, *batch)``, subject last.
        max_columns: Split the chains so that no call holds more columns than this, replicas counted.

    Returns:
        The derivatives at ``effects``.

    Example:
        >>> import torch
        >>> point = torch.ones(2, 1, 3, dtype=torch.float64)
        >>> result = derivatives(lambda e: -0.5 * e.pow(2).sum(0), point)
        >>> result.hessian[..., 0, 0]
        tensor([[-1., -0.],
                [-0., -1.]], dtype=torch.float64)
    """
    count, batch = effects.shape[0], effects.shape[1:]
    if isinstance(log_joint, WithDerivatives):
        found = log_joint.derivatives(effects.detach())
        if found is not None:
            value, gradient, hessian = found
            return Derivatives(torch.where(torch.isfinite(value), value, -torch.inf), gradient, hessian)
    points = effects.detach().reshape(count, -1, batch[-1])
    chunk = max(1, max_columns // (count * batch[-1]))
    parts = [_replicated(log_joint, part) for part in points.split(chunk, dim=1)]
    value, gradient, hessian = (torch.cat([p[i] for p in parts], -2) for i in range(3))
    value = torch.where(torch.isfinite(value), value, -torch.inf)
    return Derivatives(value.reshape(batch), gradient.reshape(count, *batch), hessian.reshape(count, count, *batch))


def _replicated(log_joint: LogDensity, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives at ``(effect, chain, subject)`` through ``(effect, replica, chain, subject)`` copies."""
    count = points.shape[0]
    with torch.enable_grad():
        replicas = points[:, None].expand(-1, count, -1, -1).clone().requires_grad_()
        value = log_joint(replicas)
        evaluated = torch.isfinite(value.detach())
        (gradient,) = gradients(value.sum(), replicas, create_graph=True, evaluated=evaluated)
        hessian = torch.zeros_like(replicas)
        if gradient.requires_grad:  # a density linear in every effect leaves no graph: its Hessian is zero
            own = gradient.diagonal(dim1=0, dim2=1).sum()
            (hessian,) = gradients(own, replicas, materialize_grads=True, evaluated=evaluated)
    symmetric = 0.5 * (hessian + hessian.transpose(0, 1))
    return value.detach()[0], gradient.detach()[:, 0], symmetric.detach()
