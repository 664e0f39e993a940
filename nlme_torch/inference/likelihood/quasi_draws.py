r"""Weighted draws of every subject's conditional distribution from points that fill space evenly.

A Student-t with the mean and covariance of Markov chains, and a share of the population's own distribution, are drawn
by inverse transform of a Sobol sequence; every subject and every replicate shifts it by its own random vector. The
weights

.. math:: w = \frac{p(y_i, \phi)}{0.9\, t_\nu(\phi; m_i, V_i) + 0.1\, p(\phi)}

are bounded by ten times the largest p(y | phi), whatever the Student-t misses. Draws are independent of chains and
cost one value of the model each; the even filling leaves less noise still. Replicates tell how much.

References:
    Owen and Zhou (2000), Safe and effective importance sampling. doi:10.1080/01621459.2000.10473909
    Cranley and Patterson (1976), Randomization of number theoretic methods for multiple integration.
    doi:10.1137/0713071
    Bauer and Guzy (2004), Monte Carlo parametric expectation maximization (MC-PEM) method for analyzing population
    pharmacokinetic/pharmacodynamic data. doi:10.1007/0-306-48523-0_16
"""

import functools
from typing import NamedTuple

import numpy as np
import scipy.special
import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.inference.likelihood.monte_carlo import log_mean
from nlme_torch.inference.likelihood.pareto_smoothing import pareto_smooth
from nlme_torch.inference.mcmc.kernels import evaluate
from nlme_torch.inference.mcmc.proposals import normal, student
from nlme_torch.inference.modes.effect_density import column_density
from nlme_torch.inference.numerics import linear_algebra
from nlme_torch.model.density.density import Conditional

TAILS = 6
"""Degrees of freedom of the Student-t."""
DEFENSIVE = 0.1
"""Share of the population's distribution."""
TRUSTED, EVEN, FEWEST_EFFECTIVE = 0.7, 0.3, 0.05
"""Largest Pareto shape of a subject's weights, share of its draws that counts from which that is not asked for (with
few draws it is told badly), and the smallest share with which they are used."""
TABLE, FARTHEST = 2**16, 7.1
"""Nodes at which chi-square quantiles are known, over standard normal quantiles up to those of 1e-12: between them they
are right to 1e-8, and cost a twentieth of those by inversion."""
COLUMNS = 20_000
"""Most draws of all subjects in one call of the model."""


class Shape(NamedTuple):
    """Mean and covariance of phi for every subject.

    Attributes:
        mean: ``(effect, subject)``.
        covariance: ``(effect, effect, subject)``.
    """

    mean: Tensor
    covariance: Tensor


class QuasiDraws(NamedTuple):
    """Weighted draws of phi.

    Attributes:
        phi: ``(effect, draw, replicate, subject)``.
        weights: ``(draw, replicate, subject)``, with mean one over draws and replicates.
        khat: Pareto shape of the weights, ``(subject,)``.
        log_marginal: What every replicate by itself makes of log p(y_i), ``(replicate, subject)``.
    """

    phi: Tensor
    weights: Tensor
    khat: Tensor
    log_marginal: Tensor

    @property
    def effective(self) -> Float[Tensor, "subject"]:
        """Share of the draws that counts, for every subject."""
        return 1 / self.weights.square().mean((0, 1))

    @property
    def usable(self) -> bool:
        """Whether every subject has a draw that counts."""
        return bool(torch.isfinite(self.weights).all())

    @property
    def trusted(self) -> bool:
        """Whether the weights of all subjects are as even as it takes."""
        even = (self.khat < TRUSTED) | (self.effective > EVEN)
        return self.usable and bool((even & (self.effective > FEWEST_EFFECTIVE)).all())

    def shape(self) -> Shape:
        """Mean and covariance of every subject."""
        return moments(self.phi.flatten(1, 2), self.weights.flatten(0, 1))

    def resampled(self, count: int, generator: torch.Generator) -> Float[Tensor, "effect draw subject"]:
        """Draw from them with equal weights, systematically."""
        flat = self.weights.flatten(0, 1)
        cumulative = (flat / flat.sum(0)).cumsum(0).mT.contiguous()
        start = torch.rand(len(cumulative), 1, generator=generator, dtype=flat.dtype).to(flat.device)
        wanted = (torch.arange(count, dtype=flat.dtype, device=flat.device) + start) / count
        place = torch.searchsorted(cumulative, wanted.contiguous()).clamp_max(len(flat) - 1)
        phi = self.phi.flatten(1, 2)
        return phi.gather(1, place.mT[None].expand(len(phi), -1, -1))


def moments(phi: Float[Tensor, "effect draw subject"], weights: Float[Tensor, "draw subject"]) -> Shape:
    """Mean and covariance of weighted draws; weights with mean one."""
    mean = (weights * phi).mean(1)
    centred = phi - mean[:, None]
    return Shape(mean, torch.einsum("dn,idn,jdn->ijn", weights, centred, centred) / phi.shape[1])


def quasi_draws(
    conditional: Conditional, shape: Shape, draws: int, replicates: int, generator: torch.Generator
) -> QuasiDraws:
    """Draw and weight.

    Args:
        conditional: Densities at the parameters in question; one start.
        shape: About where every subject's phi lies.
        draws: Per subject and replicate.
        replicates: Independent randomisations of the sequence.
        generator: Source of randomness.

    Returns:
        The draws; those that cannot be evaluated weigh nothing.
    """
    subjects = conditional.density.batch.n_subjects
    centre = shape.mean - conditional.mean[:, 0].expand(-1, subjects)
    matrices = shape.covariance.permute(2, 0, 1)
    size = matrices.diagonal(dim1=-2, dim2=-1)
    matrices = matrices + 1e-9 * torch.diag_embed(size) + 1e-24 * torch.eye(len(centre)).to(matrices)
    near = student(centre, linear_algebra.cholesky(matrices).permute(1, 2, 0), df=TAILS)
    prior = normal(torch.zeros_like(centre), linear_algebra.cholesky(conditional.covariance()).permute(1, 2, 0))
    from_prior = max(1, round(DEFENSIVE * draws))
    share = from_prior / draws

    noise = quasi_normal(len(centre), draws, replicates, subjects, generator).to(centre)
    pieces = [
        torch.einsum("ijn,jdrn->idrn", prior.factors[:, :, 0], noise[:-1, :from_prior]),
        centre[:, None, None]
        + torch.einsum("ijn,jdrn->idrn", near.factors[:, :, 0], noise[:-1, from_prior:] / noise[-1, from_prior:]),
    ]
    eta = torch.cat(pieces, 1).flatten(1, 2)

    log_joint = column_density(conditional)

    def log_weight(part: Tensor) -> Tensor:
        proposed = torch.logaddexp(near.log_density(part) + np.log1p(-share), prior.log_density(part) + np.log(share))
        return evaluate(log_joint, part) - proposed

    with torch.no_grad():
        log_weights = torch.cat([log_weight(part) for part in eta.split(max(1, COLUMNS // subjects), 1)])
    khat = pareto_smooth(log_weights)[1]
    weights = log_weights.softmax(0) * len(log_weights)
    phi = eta + conditional.mean[:, 0, None]
    return QuasiDraws(
        phi.unflatten(1, (draws, replicates)),
        weights.unflatten(0, (draws, replicates)),
        khat.nan_to_num(torch.inf),
        log_mean(log_weights.unflatten(0, (draws, replicates))),
    )


def quasi_normal(
    effects: int, draws: int, replicates: int, subjects: int, generator: torch.Generator
) -> Float[Tensor, "row draw replicate subject"]:
    """Standard normal numbers and, in the last row, roots of chi-square numbers over their degrees of freedom."""
    points = torch.quasirandom.SobolEngine(effects + 1, scramble=True, seed=0).draw(draws, dtype=torch.float64)
    # which draws come from which proposal must not depend on where they lie
    shifts = torch.rand(effects + 1, 1, replicates, subjects, generator=generator, dtype=torch.float64)
    uniform = ((points.mT[:, :, None, None] + shifts) % 1.0).clamp(1e-12, 1 - 1e-12)
    normals = torch.special.ndtri(uniform[:-1])
    return torch.cat([normals, _chi_square(uniform[-1:]).div(TAILS).sqrt()])


def _chi_square(uniform: Tensor) -> Tensor:
    """Quantiles of chi-square, between those of a fine grid of normal quantiles."""
    table = _chi_square_table()
    position = (torch.special.ndtri(uniform) + FARTHEST) * ((len(table) - 1) / (2 * FARTHEST))
    left = position.floor().clamp(0, len(table) - 2)
    index = left.long()
    return torch.lerp(table[index], table[index + 1], position - left)


@functools.cache
def _chi_square_table() -> Tensor:
    quantiles = np.linspace(-FARTHEST, FARTHEST, TABLE)
    below = scipy.special.gammaincinv(0.5 * TAILS, scipy.special.ndtr(quantiles[quantiles <= 0]))
    above = scipy.special.gammainccinv(0.5 * TAILS, scipy.special.ndtr(-quantiles[quantiles > 0]))
    return torch.as_tensor(2 * np.concatenate([below, above]))
