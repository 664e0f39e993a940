r"""Stochastic Newton steps for the means of random weights, where plain EM crawls.

EM moves a mean mu to the mean of the conditional means. Along directions of the weights that the data say little
about, that is a small fraction of the way. Louis's formula gives the observed information of mu from what the chains
know anyway, the mean conditional covariance C of phi, and so the Newton step

.. math:: \mu \leftarrow \mu + g\, (I - C \Omega^{-1})^{-1} (\bar m - \mu)

taken in the eigenvectors of the whitened C, with a floor under ``1 - eigenvalue`` because the information is itself
estimated.

References:
    Louis (1982), Finding the observed information matrix when using the EM algorithm.
    doi:10.1111/j.2517-6161.1982.tb01203.x
    Lange (1995), A gradient algorithm locally equivalent to the EM algorithm. doi:10.1111/j.2517-6161.1995.tb02037.x
"""

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.inference.numerics import linear_algebra


def newton_step(
    current: Float[Tensor, "start effect"],
    expected: Float[Tensor, "start effect"],
    factor: Float[Tensor, "start effect effect"],
    covariance: Float[Tensor, "start effect effect"],
    gain: float,
    floor: float,
) -> Float[Tensor, "start effect"]:
    """Return the means after one step.

    Args:
        current: mu.
        expected: What plain EM would move it to.
        factor: Lower Cholesky factor of Omega.
        covariance: Conditional covariance of phi, averaged over subjects.
        gain: Step size g in (0, 1].
        floor: Smallest fraction of information assumed in any direction; no step is longer than ``gain / floor`` EM
            steps.

    Returns:
        New means.

    Example:
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> newton_step(0 * one, 0.1 * one, one[None, 0:1], 0.9 * one[None], gain=1.0, floor=0.01)
        tensor([[1.0000]], dtype=torch.float64)
    """
    whitened = torch.linalg.solve_triangular(factor, covariance, upper=False)
    whitened = torch.linalg.solve_triangular(factor, whitened.mT, upper=False)
    missing, directions = linear_algebra.symmetric_eigen(0.5 * (whitened + whitened.mT))
    move = torch.linalg.solve_triangular(factor, (expected - current)[..., None], upper=False)
    move = directions @ ((directions.mT @ move) / (1 - missing).clamp_min(floor)[..., None])
    return current + gain * (factor @ move)[..., 0]
