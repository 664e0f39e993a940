r"""Divided differences of the exponential: what stays exact when two rates are equal.

.. math:: [x, y] e^z = \frac{e^x - e^y}{x - y}, \qquad [x, y, w] e^z = \frac{[x, y] e^z - [y, w] e^z}{x - w}

They are smooth and symmetric. Close arguments would cost the quotients all digits, so there a series is taken. Sorting
and the choice between series and quotient select one of several expressions of the same function, so every derivative
of the chosen one is a derivative of the function; the other is evaluated at a harmless place, so that no infinite
derivative is multiplied by its zero.

References:
    McCurdy, Ng, Parlett (1984), Accurate computation of divided differences of the exponential function,
    doi:10.1090/S0025-5718-1984-0755197-5.
"""

from math import factorial

import torch
from torch import Tensor

# Series beyond rounding, with room for three derivatives, for arguments within 1 (first) or 0.5 (second).
FIRST_TERMS, SECOND_TERMS = 7, 17


def first_difference(x: Tensor, y: Tensor) -> Tensor:
    """[x, y] of exp, elementwise; e^x where x = y."""
    x, y = _ordered(x, y)
    return torch.exp(x) * mean_decay(y - x)


def second_difference(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """[x, y, z] of exp, elementwise; e^x / 2 where x = y = z."""
    x, y = _ordered(x, y)
    y, z = _ordered(y, z)
    x, y = _ordered(x, y)
    b, c = y - x, z - x
    near = c > -0.5
    series = _series(torch.where(near, b, 0.0), torch.where(near, c, 0.0))
    b, c = torch.where(near, 0.0, b), torch.where(near, -1.0, c)
    quotient = (mean_decay(b) - torch.exp(b) * mean_decay(c - b)) / -c
    return torch.exp(x) * torch.where(near, series, quotient)


def mean_decay(u: Tensor) -> Tensor:
    """(e^u - 1) / u for u <= 0 (and moderate u > 0), elementwise; 1 at 0."""
    near = u.abs() < 1.0
    close = torch.where(near, u, 0.0)
    square = 0.25 * close * close
    series = 1.0 + square / (2 * FIRST_TERMS * (2 * FIRST_TERMS + 1))
    for term in range(FIRST_TERMS - 1, 0, -1):
        series = 1.0 + square * series / (2 * term * (2 * term + 1))
    apart = torch.where(near, -1.0, u)
    return torch.where(near, torch.exp(0.5 * close) * series, torch.expm1(apart) / apart)


def scaled_phi(orders: int, a: Tensor, u: Tensor) -> list[Tensor]:
    """e^-a phi_m(u) for m = 1 .. orders, phi_m(u) = sum of u^j / (j + m)!, elementwise, for u <= a.

    Far from 0 the recurrence phi_{m+1} = (phi_m - 1/m!) / u runs upwards, near 0 downwards from a series: each way
    where it loses least.
    """
    reach = max(1.0, 0.6 * orders)
    near = u.abs() < reach
    close, far = torch.where(near, u, 0.0), torch.where(near, reach, u)
    left = torch.exp(-a)
    upward = [torch.exp(torch.where(near, 0.0, u - a))]
    for order in range(1, orders + 1):
        upward.append((upward[-1] - left / factorial(order - 1)) / far)
    terms = next(n for n in range(1, 200) if reach**n * factorial(orders) / factorial(n + orders) < 1e-21)
    total = torch.full_like(u, 1.0 / factorial(terms + orders))
    for term in range(terms - 1, -1, -1):
        total = total * close + 1.0 / factorial(term + orders)
    downward = [total]
    for order in range(orders - 1, 0, -1):
        downward.append(downward[-1] * close + 1.0 / factorial(order))
    return [torch.where(near, left * low, up) for low, up in zip(reversed(downward), upward[1:], strict=True)]


def _ordered(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The larger and the smaller; a choice, not a maximum, whose second derivative is wrong where they are equal."""
    first = x >= y
    return torch.where(first, x, y), torch.where(first, y, x)


def _series(b: Tensor, c: Tensor) -> Tensor:
    """[0, b, c] of exp as the sum of b^i c^j / (i + j + 2)!."""
    inner = torch.zeros_like(c)
    total = inner
    for power in range(SECOND_TERMS, -1, -1):
        inner = inner * c + 1.0 / factorial(power + 2)
        total = torch.addcmul(inner, total, b)
    return total
