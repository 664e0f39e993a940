r"""A covariance matrix of which some entries are given and the others estimated.

The free entries are held as logarithms of standard deviations and as inverse hyperbolic tangents of correlations,
so that any two effects have a covariance matrix whatever the values; with more of them, or with a fixed covariance
beside a free variance, some values have none, and their factor is NaN: a search backs off.

The maximum of the Gaussian likelihood of a second moment S has no closed form then. As the matrix is linear in its
free entries :math:`\omega_g` with patterns :math:`G_g`, and :math:`W_g = \Omega^{-1} G_g`, Newton's method solves

.. math:: \sum_h \operatorname{tr}\bigl(W_g W_h (2 \Omega^{-1} S - I)\bigr)\, \delta_h =
          \operatorname{tr}\bigl(W_g \Omega^{-1} (S - \Omega)\bigr)

(scoring, with :math:`\operatorname{tr}(W_g W_h)` on the left, where that matrix is not positive definite) and halves
steps that leave the positive definite matrices or lower the likelihood.

References:
    Anderson (1973), Asymptotically efficient estimation of covariance matrices with linear structure.
    doi:10.1214/aos/1193342389
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nlme_torch._typing import Bool, Float
from nlme_torch.model.random_effects.covariance_modules import Covariance

_ITERATIONS = 100
"""Newton steps at most; they square the distance."""
_HALVINGS = 40
"""Of one step: that many leave 1e-12 of it."""


class PartlyFixedCovariance(Covariance):
    """Correlated effects, with some variances or covariances given.

    Args:
        matrix: Initial and given values, positive definite.
        fixed: True where a value is given; symmetric.
    """

    diagonal = False

    def __init__(self, matrix: Float[Tensor, "effect effect"], fixed: Bool[Tensor, "effect effect"]) -> None:
        super().__init__(matrix.shape[0])
        rows, columns = torch.tril_indices(self.size, self.size)
        free = ~fixed[rows, columns]
        self._rows, self._columns = rows[free], columns[free]
        self.register_buffer("given", torch.where(fixed, matrix, 0.0))
        patterns = torch.zeros(len(self._rows), self.size, self.size, dtype=matrix.dtype)
        entry = torch.arange(len(self._rows))
        patterns[entry, self._rows, self._columns] = patterns[entry, self._columns, self._rows] = 1.0
        self.register_buffer("patterns", patterns)
        self.register_buffer("start", matrix.clone())
        self.entries = nn.Parameter(self._pack(matrix[None])[0])

    def positions(self) -> list[tuple[int, int]]:
        """Row and column of every free entry, in the order of the parameters."""
        return list(zip(self._rows.tolist(), self._columns.tolist(), strict=True))

    def _pack(self, matrix: Tensor) -> Tensor:
        entries = matrix[:, self._rows, self._columns]
        deviations = matrix.diagonal(dim1=-2, dim2=-1).sqrt()
        on_diagonal = (self._rows == self._columns).to(matrix.device)
        scale = deviations[:, self._rows] * deviations[:, self._columns]
        correlation = torch.where(on_diagonal, 0.0, entries / scale)
        return torch.where(on_diagonal, 0.5 * torch.where(on_diagonal, entries, 1.0).log(), torch.atanh(correlation))

    def matrix(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the covariance matrix, which need not be positive definite for all values."""
        packed, given = parameters["entries"], self.get_buffer("given")
        on_diagonal = (self._rows == self._columns).to(packed.device)
        variance = torch.where(on_diagonal, 2 * packed, 0.0).exp() * on_diagonal
        patterns = self.get_buffer("patterns")
        diagonal = given.diagonal() + torch.einsum("sk,kii->si", variance, patterns)
        deviations = diagonal.sqrt()
        scale = deviations[:, self._rows] * deviations[:, self._columns]
        covariance = torch.tanh(torch.where(on_diagonal, 0.0, packed)) * scale
        return given + torch.einsum("sk,kij->sij", torch.where(on_diagonal, variance, covariance), patterns)

    def cholesky(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the lower-triangular factor, NaN where the matrix has none."""
        factor, info = torch.linalg.cholesky_ex(self.matrix(parameters))
        return torch.where((info == 0)[:, None, None], factor, torch.nan)

    def maximise(self, moment: Tensor) -> dict[str, Tensor]:
        """Return the maximum by Newton's method, from the free entries of the moment where they are allowed."""
        patterns, given = self.get_buffer("patterns"), self.get_buffer("given")
        free = patterns.sum(0) > 0
        here = torch.where(free, moment, given)
        value = _log_likelihood(here, moment)
        initial = self.get_buffer("start").expand_as(moment)
        here = torch.where(torch.isfinite(value)[:, None, None], here, initial)
        value = _log_likelihood(here, moment)
        for _ in range(_ITERATIONS):
            inverse, _ = torch.linalg.inv_ex(here)
            whitened = torch.einsum("sij,kjl->skil", inverse, patterns)
            expected = torch.einsum("skij,slji->skl", whitened, whitened)
            observed = 2 * torch.einsum("skij,sljm,smi->skl", whitened, whitened, inverse @ moment) - expected
            observed = 0.5 * (observed + observed.mT)
            _, info = torch.linalg.cholesky_ex(observed)
            information = torch.where((info == 0)[:, None, None], observed, expected)
            score = torch.einsum("skij,sji->sk", whitened, inverse @ (moment - here))
            change, _ = torch.linalg.solve_ex(information, score)
            step = torch.einsum("sk,kij->sij", change, patterns)
            size = torch.ones_like(value)
            for _ in range(_HALVINGS):
                there = _log_likelihood(here + size[:, None, None] * step, moment)
                worse = ~(there >= value)
                if not bool(worse.any()):
                    break
                size = torch.where(worse, 0.5 * size, size)
            better = (there >= value) & torch.isfinite(there)
            here = torch.where(better[:, None, None], here + size[:, None, None] * step, here)
            gain = torch.where(better, there - value, 0.0)
            value = torch.where(better, there, value)
            if bool((gain <= 1e-14 * (1 + value.abs())).all()):
                break
        return {"entries": self._pack(here)}


def _log_likelihood(matrix: Tensor, moment: Tensor) -> Tensor:
    """Twice the log likelihood of a second moment, ``(start,)``; -inf where the matrix is not positive definite."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    good = (info == 0) & torch.isfinite(matrix).all(-1).all(-1)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    factor = torch.where(good[:, None, None], factor, identity)
    trace = torch.cholesky_solve(moment, factor).diagonal(dim1=-2, dim2=-1).sum(-1)
    value = -2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - trace
    return torch.where(good & torch.isfinite(value), value, -torch.inf)
