"""The step of a trust region: the minimum of a quadratic within a ball."""

import math

import torch
from torch import Tensor


def best_step(hessian: Tensor, slope: Tensor, radius: float) -> tuple[Tensor, float]:
    """Return the minimum of a quadratic within a ball, and by how much it lies lower.

    Args:
        hessian: Symmetric, ``(parameter, parameter)``.
        slope: ``(parameter,)``.
        radius: Of the ball.
    """
    values, vectors = torch.linalg.eigh(0.5 * (hessian + hessian.mT))
    along = vectors.mT @ slope
    lowest = float(values[0])

    def at(shift: float) -> Tensor:
        return -along / (values + shift)

    shift = 0.0
    if lowest <= 0 or float(at(0.0).norm()) > radius:
        low = max(0.0, -lowest) + 1e-12 * (1 + abs(lowest))
        high = low + float(along.norm()) / radius + 1e-6
        for _ in range(80):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if float(at(middle).norm()) > radius else (low, middle)
        shift = high
    step = at(shift)
    return vectors @ step, -float(along @ step + 0.5 * (values * step * step).sum())
