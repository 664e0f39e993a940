"""Mixtures of multivariate normal or Student-t distributions, one mixture per subject.

They serve as independence proposals (``kernels.Independent``), as importance distributions and
as the reference of annealed importance sampling.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.errors import FitError


@dataclass(frozen=True)
class Mixture:
    r"""A mixture of Student-t (or normal) distributions for every subject.

    .. math:: q_i(\eta) = \sum_m w_{mi}\, t_\nu(\eta;\, c_{mi},\, L_{mi} L_{mi}^\top)

    Attributes:
        centres: Component centres, ``(effect, component, subject)``.
        factors: Lower Cholesky factors of the scale matrices, ``(effect, effect, component, subject)``.
        log_weights: Logarithms of the mixture weights, ``(component, subject)``; they sum to one over
            components, and a component that a subject does not use has ``-inf``.
        df: Degrees of freedom; ``math.inf`` is the normal distribution. The scale matrix is the covariance
            only for the normal; for finite ``df`` the covariance is ``df / (df - 2)`` times larger.

    Example:
        >>> import torch
        >>> q = normal(torch.zeros(2, 3, dtype=torch.float64), torch.eye(2, dtype=torch.float64)[..., None])
        >>> draws = q.sample(5, torch.Generator().manual_seed(0))
        >>> draws.shape, q.log_density(draws).shape
        (torch.Size([2, 5, 3]), torch.Size([5, 3]))
    """

    centres: Tensor
    factors: Tensor
    log_weights: Tensor
    df: float | int = math.inf

    @property
    def effects(self) -> int:
        """Number of random effects."""
        return self.centres.shape[0]

    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, "effect {count} subject"]:
        """Draw independently from every subject's mixture.

        Args:
            count: Number of draws per subject.
            generator: Source of randomness, on the device of the mixture.

        Returns:
            Draws, ``(effect, count, subject)``.
        """
        effect, _, subject = self.centres.shape
        like: dict[str, Any] = {"dtype": self.centres.dtype, "device": self.centres.device}
        # Inverse transform on the cumulative weights: reproducible on every device, no multinomial kernels.
        uniform = torch.rand(count, subject, generator=generator, **like)
        cumulative = self.log_weights.exp().cumsum(0)
        cumulative = cumulative / cumulative[-1]
        chosen = (uniform >= cumulative[:-1, None]).sum(0)
        noise = torch.randn(effect, count, subject, generator=generator, **like)
        if math.isfinite(self.df):
            chi_square = _chi_square(self.df, (count, subject), generator, self.centres)
            noise = noise / chi_square.div(self.df).sqrt()
        draws = torch.zeros_like(noise)
        for component in range(self.centres.shape[1]):  # one matrix per draw would be far more memory
            shaped = torch.einsum("ijs,jcs->ics", self.factors[:, :, component], noise)
            draws = torch.where(chosen == component, self.centres[:, component, None] + shaped, draws)
        return draws

    def log_density(self, effects: Float[Tensor, "effect *batch"]) -> Float[Tensor, "*batch"]:
        """Log density of every column under its own subject's mixture.

        Args:
            effects: Points, ``(effect, *batch, subject)``.

        Returns:
            Log densities, ``(*batch, subject)``; differentiable with respect to ``effects``.
        """
        return torch.logsumexp(self.component_log_densities(effects), 0)

    def component_log_densities(self, effects: Float[Tensor, "effect *batch"]) -> Float[Tensor, "component *batch"]:
        """Log of weight times density per component; its ``logsumexp`` is ``log_density``."""
        effect, _, subject = self.centres.shape
        batch = effects.shape[1:]
        points = effects.reshape(effect, -1, batch[-1])
        # (component, subject, effect, column): one triangular solve for all columns of a subject.
        difference = (points[:, None] - self.centres[:, :, None]).permute(1, 3, 0, 2)
        factors = self.factors.permute(2, 3, 0, 1).expand(-1, subject, -1, -1)
        standardised = torch.linalg.solve_triangular(factors, difference, upper=False)
        square = standardised.pow(2).sum(2).transpose(1, 2)  # (component, column, subject)
        log_determinant = factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = (self.log_weights - log_determinant)[:, None]
        if math.isfinite(self.df):
            normaliser = (
                math.lgamma((self.df + effect) / 2)
                - math.lgamma(self.df / 2)
                - 0.5 * effect * math.log(self.df * math.pi)
            )
            density = normaliser - 0.5 * (self.df + effect) * torch.log1p(square / self.df)
        else:
            density = -0.5 * (square + effect * math.log(2 * math.pi))
        return (constant + density).reshape(-1, *batch)


def _chi_square(df: float | int, shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """Chi-square draws; whole ``df`` as sums of squares, because ``torch`` gamma draws take no generator."""
    whole = round(df)
    if whole != df or whole < 1:
        raise FitError(f"degrees of freedom of a proposal must be a whole number or infinity, not {df}")
    normal_draws = torch.randn(whole, *shape, generator=generator, dtype=like.dtype, device=like.device)
    return normal_draws.pow(2).sum(0)


def normal(centre: Float[Tensor, "effect subject"], factor: Float[Tensor, "effect effect #subject"]) -> Mixture:
    """One normal distribution per subject.

    Args:
        centre: Means, ``(effect, subject)``.
        factor: Lower Cholesky factor of the covariance, ``(effect, effect, subject)`` or
            ``(effect, effect, 1)``.

    Returns:
        The distribution. With a zero centre and the factor of Omega it is the prior of the random effects.
    """
    return student(centre, factor, df=math.inf)


def student(
    centre: Float[Tensor, "effect subject"],
    factor: Float[Tensor, "effect effect #subject"],
    df: float | int = 5.0,
) -> Mixture:
    """One Student-t distribution per subject.

    Args:
        centre: Centres, ``(effect, subject)``.
        factor: Lower Cholesky factor of the scale matrix, ``(effect, effect, subject)`` or
            ``(effect, effect, 1)``.
        df: Degrees of freedom, a whole number or ``math.inf``.

    Returns:
        The distribution.
    """
    subject = centre.shape[-1]
    factors = factor.expand(-1, -1, subject)[:, :, None]
    return Mixture(centre[:, None], factors, torch.zeros_like(centre[:1]), df)


def factor_of_precision(
    precision: Float[Tensor, "effect effect *batch"],
) -> Float[Tensor, "effect effect *batch"]:
    r"""Lower Cholesky factor of the **inverse** of a precision matrix.

    Args:
        precision: Symmetric matrices, ``(effect, effect, *batch)``.

    Returns:
        ``L`` with :math:`L L^\top = P^{-1}`; all NaN for a column whose precision is not positive definite.
    """
    matrices = precision.movedim((0, 1), (-2, -1))
    # P = U U^T with U upper (Cholesky of the flipped matrix) gives P^-1 = L L^T with L = U^-T, lower.
    flipped, info = torch.linalg.cholesky_ex(matrices.flip(-2, -1))
    upper = flipped.flip(-2, -1)
    identity = torch.eye(upper.shape[-1], dtype=upper.dtype, device=upper.device).expand_as(upper)
    lower = torch.linalg.solve_triangular(upper.mT, identity, upper=False)
    lower = torch.where((info == 0)[..., None, None], lower, torch.nan)
    return lower.movedim((-2, -1), (0, 1))
