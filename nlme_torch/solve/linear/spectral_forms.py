"""Transitions and responses of mammillary systems, as sums over eigenvalues."""

import torch
from torch import Tensor

from nlme_torch.solve.linear.compiled import ClosedForm
from nlme_torch.solve.linear.exponentials import first_difference, mean_decay, second_difference


def closed_form(integrated: bool, absorbed: bool) -> ClosedForm:
    """Return the function of (elapsed, eigenvalues, projectors[, absorption rate]) that a system needs.

    Args:
        integrated: whether the integral of the exponential is wanted.
        absorbed: whether there is a depot.
    """
    if absorbed:
        return _absorbed_integral if integrated else _absorbed_exponential
    return _integral if integrated else _exponential


def _exponential(elapsed: Tensor, values: Tensor, projectors: Tensor) -> Tensor:
    return _weigh(projectors, torch.exp(values * elapsed))


def _integral(elapsed: Tensor, values: Tensor, projectors: Tensor) -> Tensor:
    return _weigh(projectors, elapsed * mean_decay(values * elapsed))


def _absorbed_exponential(elapsed: Tensor, values: Tensor, projectors: Tensor, absorption: Tensor) -> Tensor:
    gone = absorption * elapsed
    arrived = gone * first_difference(values * elapsed, -gone)
    disposition = _weigh(projectors, torch.exp(values * elapsed))
    return _with_depot(torch.exp(-gone), _weigh(projectors[:, :, 0], arrived), disposition)


def _absorbed_integral(elapsed: Tensor, values: Tensor, projectors: Tensor, absorption: Tensor) -> Tensor:
    gone = absorption * elapsed
    arrived = gone * elapsed * second_difference(values * elapsed, -gone, torch.zeros_like(gone))
    disposition = _weigh(projectors, elapsed * mean_decay(values * elapsed))
    return _with_depot(elapsed * mean_decay(-gone), _weigh(projectors[:, :, 0], arrived), disposition)


def _weigh(projectors: Tensor, profile: Tensor) -> Tensor:
    """Sum over modes of (mode, state.., *shape) times (mode, *shape)."""
    total = projectors[0] * profile[0]
    for mode in range(1, projectors.shape[0]):
        total = torch.addcmul(total, projectors[mode], profile[mode])
    return total


def _with_depot(depot: Tensor, absorbed: Tensor, disposition: Tensor) -> Tensor:
    """The matrix of the whole system, depot first: (state, state, *shape)."""
    column = torch.cat([depot.unsqueeze(0), absorbed])
    block = torch.cat([torch.zeros_like(disposition[:1]), disposition])
    return torch.cat([column.unsqueeze(1), block], 1)
