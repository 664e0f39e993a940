r"""Differences of logarithms without cancellation, in the value and in every derivative that autograd takes.

``log1p(x) / x`` is right as a number near zero, but the derivative that autograd builds of it is a difference of two
large ones. With :math:`s = x / (2 + x)`,

.. math:: \log(1 + x) = 2 \operatorname{artanh} s = 2 s\,\bigl(1 + s^2 q(s^2)\bigr), \qquad
          q(w) = \sum_{n \ge 0} \frac{w^n}{2 n + 3}

and what cancels can be taken out by hand.
"""

import torch
from torch import Tensor

NEAR = 0.25
"""Up to here the series are used: ten terms of a ratio of (1/7)^2."""


def horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Return the polynomial ``coefficients[0] + coefficients[1] x + ...``."""
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def mean_log1p(x: Tensor) -> Tensor:
    """Return ``log(1 + x) / x`` for x > -1; 1 at zero."""
    near = x.abs() <= NEAR
    small, large = torch.where(near, x, 0.0), torch.where(near, 1.0, x)
    square = (small / (2 + small)).square()
    return torch.where(near, 2 * (1 + square * _remainder(square)) / (2 + small), torch.log1p(large) / large)


def shortfall_log1p(x: Tensor) -> Tensor:
    """Return ``(x - log(1 + x)) / x^2`` for x > -1; 1/2 at zero."""
    near = x.abs() <= NEAR
    small, large = torch.where(near, x, 0.0), torch.where(near, 1.0, x)
    ratio = small / (2 + small)
    series = (1 - 2 * ratio * _remainder(ratio.square()) / (2 + small)) / (2 + small)
    return torch.where(near, series, (large - torch.log1p(large)) / large.square())


def log1mexp(x: Tensor) -> Tensor:
    """Return ``log(1 - exp(x))`` for x < 0."""
    near = x > -0.7
    return torch.where(
        near, torch.log(-torch.expm1(torch.where(near, x, -0.7))), torch.log1p(-torch.exp(torch.where(near, -0.7, x)))
    )


def _remainder(square: Tensor) -> Tensor:
    return horner(tuple(1 / (2 * n + 3) for n in range(11)), square)
