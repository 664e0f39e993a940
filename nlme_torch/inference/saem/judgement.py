r"""Score and information of a marginal likelihood as the gain still to be had, and the step towards it.

.. math:: g = \tfrac12 s^\top I^{-1} s

in the eigenvectors of the information relative to that of the complete data.

References:
    Louis (1982), Finding the observed information matrix when using the EM algorithm.
    doi:10.1111/j.2517-6161.1982.tb01203.x
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch.inference.numerics.linear_algebra import cholesky
from nlme_torch.inference.saem.louis import LouisSums

FLAT = 0.01
"""Fraction of the complete information below which a direction may be flat: no quadratic tells what is left there."""
NEAR = 0.5
"""Largest move of any parameter within one standard error (of a logarithm, a factor 1.6) along a direction that is
known well, however little of the complete information the data carry: phi holds a mean of effects to nearly nothing."""


class Judgement(NamedTuple):
    """Score and information of one round in numbers.

    Attributes:
        gain: Half of s' I^-1 s, noise included.
        noise: What of it is expected from noise alone.
        standard_error: Monte-Carlo error of the gain.
        step: Newton's step, ``(kept,)``.
        deviations: Standard errors by the information, ``(kept,)``.
        fraction: The smallest fraction of the complete information that the data carry in any direction.
        fraction_error: Its Monte-Carlo error.
        flattest: Which parameter moves most along that direction, by its complete information.
        reach: How far any parameter moves within one standard error along it, on the estimation scale.
    """

    gain: float
    noise: float
    standard_error: float
    step: Tensor
    deviations: Tensor
    fraction: float
    fraction_error: float
    flattest: int
    reach: float

    @property
    def left(self) -> float:
        """The gain without what noise alone shows."""
        return max(self.gain - self.noise, 0.0)

    @property
    def flat(self) -> bool:
        """Whether the likelihood is flat along some direction."""
        return self.fraction < FLAT and self.reach > NEAR

    @property
    def doubtful(self) -> bool:
        """Whether more draws might decide otherwise about that."""
        return self.reach > NEAR and abs(self.fraction - FLAT) < 2 * self.fraction_error


def judge(sums: LouisSums, prior_slope: Tensor, prior_curvature: Tensor) -> Judgement | None:
    """Turn sums over draws into the gain still to be had and the step towards it.

    Args:
        sums: Over draws at the parameters in question.
        prior_slope: First derivatives of the log prior, ``(kept,)``.
        prior_curvature: Second derivatives, ``(kept, kept)``.

    Returns:
        The judgement; None where the complete data have no information on some direction, or numbers fail.
    """
    score = sums.mean_scores().sum(0) + prior_slope
    complete = sums.complete() - prior_curvature
    idle = torch.diag((complete.diagonal() == 0).to(complete))  # what nothing depends on stays
    complete = complete + idle
    size = complete.diagonal().clamp_min(1e-300).sqrt()
    factor = cholesky(complete / size / size[:, None])
    if not bool(torch.isfinite(factor).all() & torch.isfinite(score).all()):
        return None

    def whiten(columns: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(factor, columns / size[:, None], upper=False)

    by_chain = sums.information()
    information = whiten(whiten(by_chain.mean(0) - prior_curvature + idle).mT)
    fractions, directions = torch.linalg.eigh(0.5 * (information + information.mT))
    back = torch.linalg.solve_triangular(factor.mT, directions, upper=True)
    flattest = back[:, 0] / size
    each_fraction = torch.einsum("i,cij,j->c", flattest, by_chain, flattest)
    smallest, fraction_error = float(fractions[0]), float(each_fraction.std()) / math.sqrt(len(each_fraction))
    fractions = fractions.clamp_min(FLAT)
    each = sums.scores.sum(1) / sums.iterations
    along = (directions.mT @ whiten(score[:, None]))[:, 0] / fractions.sqrt()
    spread = directions.mT @ whiten((each - each.mean(0)).mT) / fractions.sqrt()[:, None]
    noise = spread @ spread.mT / (len(each) - 1) / len(each)
    error = along @ noise @ along + 0.5 * noise.square().sum()
    return Judgement(
        0.5 * float(along.square().sum()),
        0.5 * float(noise.trace()),
        math.sqrt(float(error)),
        back @ (along / fractions.sqrt()) / size,
        ((back / size[:, None]).square() / fractions).sum(1).sqrt(),
        smallest,
        fraction_error,
        int(back[:, 0].abs().argmax()),
        float(flattest.abs().max()) / math.sqrt(float(fractions[0])),
    )
