"""Eigenvalues and projectors of a mammillary disposition matrix."""

from typing import NamedTuple

import torch
from torch import Tensor

# Two eigenvalues closer than this, relative to their sum, make projectors and their derivatives inexact.
CLOSE = 0.1


class Spectrum(NamedTuple):
    r"""f(M) = sum over i of P_i f(lambda_i), for a central compartment (first) and peripheral ones.

    Attributes:
        values: (mode, *batch) [1 / time] the eigenvalues, none of them positive.
        projectors: (mode, state, state, *batch).
        close: (*batch) True where two eigenvalues nearly coincide and the projectors are not to be used; None
            where that cannot be.
    """

    values: Tensor
    projectors: Tensor
    close: Tensor | None


def spectrum(elimination: Tensor, outward: tuple[Tensor, ...], inward: tuple[Tensor, ...]) -> Spectrum:
    """Return the spectrum of the disposition matrix of one, two or three compartments.

    Args:
        elimination: (*batch) [1 / time] rate constant out of the central compartment, k10.
        outward: (*batch) each [1 / time], from the central to each peripheral compartment, k12, k13.
        inward: (*batch) each [1 / time], back from each peripheral compartment, k21, k31; all of one shape.
    """
    if not outward:
        return Spectrum(
            -elimination.unsqueeze(0), torch.ones_like(elimination).reshape(1, 1, 1, *elimination.shape), None
        )
    return (_two if len(outward) == 1 else _three)(elimination, *outward, *inward)


def _two(k10: Tensor, k12: Tensor, k21: Tensor) -> Spectrum:
    half = 0.5 * (k10 + k12 - k21)
    mean = 0.5 * (k10 + k12 + k21)
    coupling = k12 * k21
    with torch.no_grad():
        close = ~(half * half + coupling > (CLOSE * mean) ** 2)
    root = torch.sqrt(half * half + coupling)
    fast = mean + root
    values = -torch.stack([k10 * k21 / fast, fast])
    # root + half and root - half, whose product is the coupling: the smaller one without cancellation.
    towards = half >= 0
    large = root + torch.where(towards, half, -half)
    small = coupling / large
    above, below = torch.where(towards, large, small), torch.where(towards, small, large)
    first = torch.stack([below, k21, k12, above])
    second = torch.stack([above, -k21, -k12, below])
    projectors = torch.stack([first, second]) / (2 * root)
    return Spectrum(values, projectors.reshape(2, 2, 2, *k10.shape), close)


def _three(k10: Tensor, k12: Tensor, k13: Tensor, k21: Tensor, k31: Tensor) -> Spectrum:
    trace = k10 + k12 + k13 + k21 + k31
    minors = (k10 + k13) * k21 + (k10 + k12) * k31 + k21 * k31
    determinant = k10 * k21 * k31
    fast = _largest_root(trace, minors, determinant)
    # The two others from their product and sum, both without cancellation.
    product = determinant / fast
    mean = 0.5 * (minors - product) / fast
    square = mean * mean - product
    with torch.no_grad():
        close = ~((square > (CLOSE * mean) ** 2) & (fast - mean > 2 * CLOSE * fast + torch.sqrt(square)))
    middle = mean + torch.sqrt(square)
    decays = torch.stack([product / middle, middle, fast])
    central, first, second = k10 + k12 + k13 - decays, k21 - decays, k31 - decays
    adjugate = [
        [first * second, k21 * second, k31 * first],
        [k12 * second, central * second - k13 * k31, k12 * k31],
        [k13 * first, k13 * k21, central * first - k12 * k21],
    ]
    slow, middle, fast = decays.unbind(0)
    slope = torch.stack(
        [(middle - slow) * (fast - slow), (slow - middle) * (fast - middle), (slow - fast) * (middle - fast)]
    )
    entries = torch.stack([entry.expand(decays.shape) for row in adjugate for entry in row], 1)
    projectors = entries / slope.unsqueeze(1)
    return Spectrum(-decays, projectors.reshape(3, 3, 3, *k10.shape), close)


def _largest_root(trace: Tensor, minors: Tensor, determinant: Tensor) -> Tensor:
    """The largest root of x^3 - trace x^2 + minors x - determinant, all of whose roots are real.

    The trigonometric solution, then Newton's method; each step doubles the order of the derivatives that are exact, so
    the last two carry the gradient to the third order.
    """
    with torch.no_grad():
        centre = trace / 3
        spread = (centre * centre - minors / 3).clamp(min=0)
        skew = 2 * centre**3 - centre * minors + determinant
        cosine = (0.5 * skew / spread**1.5).clamp(-1, 1)
        root = centre + 2 * torch.sqrt(spread) * torch.cos(torch.acos(cosine) / 3)
        root = _newton(root, trace, minors, determinant)
    return _newton(_newton(root, trace, minors, determinant), trace, minors, determinant)


def _newton(root: Tensor, trace: Tensor, minors: Tensor, determinant: Tensor) -> Tensor:
    value = ((root - trace) * root + minors) * root - determinant
    slope = (3 * root - 2 * trace) * root + minors
    return root - value / slope
