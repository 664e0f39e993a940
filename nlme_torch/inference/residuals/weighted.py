r"""Weighted residuals: observations less their expectation, scaled and decorrelated by the linearised model.

With :math:`f_0 = f(0)`, :math:`G_0 = \partial f/\partial\eta` and :math:`R_0` at :math:`\eta = 0`, and the same with a
hat at the conditional mode,

.. math::
    \text{WRES} &= (G_0 \Omega G_0^\top + R_0)^{-1/2} (y - f_0) \\
    \text{CPRED} &= \hat f - \hat G \hat\eta \\
    \text{CWRES} &= (\hat G \Omega \hat G^\top + \hat R)^{-1/2} (y - \text{CPRED}) \\
    \text{IWRES} &= \hat R^{-1/2} (y - \hat f)

The root is the symmetric one (by eigenvalues), over all continuous outcomes of a subject together; R, with the
covariances of outcomes whose errors are correlated, is at the mode (with interaction).

References:
    Hooker, Staatz and Karlsson (2007), Conditional weighted residuals (CWRES): a model diagnostic for the FOCE method.
    doi:10.1007/s11095-007-9361-x
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.inference.numerics.linear_algebra import symmetric_eigen
from nlme_torch.inference.residuals.continuous_records import ContinuousRecords, Coupling

CHUNK = 4_000_000
"""Entries of covariance matrices that are held at once, 32 MB."""

SINGULAR = 1e-13
"""Smallest eigenvalue beside the largest of a covariance matrix that still has a root of its inverse."""


class WeightedResiduals(NamedTuple):
    """One value for every entry; NaN where there is no observation, where it is censored, or where nothing is known.

    Attributes:
        wres: Weighted residual, linearised at zero.
        cwres: Conditional weighted residual, linearised at the mode.
        iwres: Individual weighted residual.
        cpred: Expectation by the linearisation at the mode, on the scale of the locations; of censored entries too.
        spread: Variance of the residual error at the mode; of censored entries too.
    """

    wres: Float[Tensor, "entry subject"]
    cwres: Float[Tensor, "entry subject"]
    iwres: Float[Tensor, "entry subject"]
    cpred: Float[Tensor, "entry subject"]
    spread: Float[Tensor, "entry subject"]


def weighted_residuals(records: ContinuousRecords, modes: Float[Tensor, "effect subject"]) -> WeightedResiduals:
    """Return the residuals of all continuous outcomes.

    Args:
        records: The observations, joined to the model at its estimates.
        modes: Conditional modes; NaN where not known.
    """
    conditional = records.density.at()
    found = torch.isfinite(modes).all(0)
    modes = torch.where(found, modes, 0.0)
    with torch.no_grad():
        omega = conditional.covariance()[0]
        results = []
        for effects in (torch.zeros_like(modes), modes):
            moments = records.moments(conditional, effects[:, None, None])
            location, variance = moments.location[:, 0, 0], moments.variance[:, 0, 0]
            slope = records.slopes(conditional, effects)
            expected = location - torch.einsum("reN,eN->rN", slope, effects)
            usable = records.known & moments.solved[0, 0]
            coupling = records.coupling(conditional, effects)
            residual = decorrelated(records.observed - expected, slope, omega, variance, usable, coupling)
            results.append((location, variance, expected, residual, usable))
        (_, _, _, wres, _), (location, variance, expected, cwres, usable) = results
        scaled = (records.observed - location) / variance.sqrt()
        nan = torch.nan
        return WeightedResiduals(
            wres=wres,
            cwres=torch.where(found, cwres, nan),
            iwres=torch.where(found & usable & (variance > 0), scaled, nan),
            cpred=torch.where(found, expected, nan),
            spread=torch.where(found, variance, nan),
        )


def decorrelated(
    residual: Float[Tensor, "entry subject"],
    slope: Float[Tensor, "entry effect subject"],
    omega: Float[Tensor, "effect effect"],
    variance: Float[Tensor, "entry subject"],
    usable: Tensor,
    coupling: Sequence[Coupling] = (),
) -> Float[Tensor, "entry subject"]:
    r"""Return :math:`(G \Omega G^\top + R)^{-1/2} e` with the symmetric root, subject by subject.

    Args:
        residual: e.
        slope: G.
        omega: Covariance matrix of the random effects.
        variance: The diagonal of R.
        usable: Which entries there are, ``(entry, subject)``; the others are left out and get NaN. So is an entry whose
            expectation does not vary at all.
        coupling: Entries whose residual errors are correlated, which R then has beside its diagonal.
    """
    spread = torch.einsum("reN,ef,rfN->rN", slope, omega, slope) + variance
    usable = usable & torch.isfinite(spread) & (spread > 0) & torch.isfinite(residual)
    result = torch.full_like(residual, torch.nan)
    entries, subjects = residual.shape
    for part in torch.arange(subjects, device=residual.device).split(max(1, CHUNK // max(1, entries * entries))):
        here = usable[:, part]
        kept = here.any(1)
        if not bool(kept.any()):
            continue
        mask = here[kept].mT
        factor = torch.where(mask[..., None], slope[kept][:, :, part].permute(2, 0, 1), 0.0)
        matrix = factor @ omega @ factor.mT
        matrix = matrix + torch.diag_embed(torch.where(mask, variance[kept][:, part].mT, 1.0))
        place = kept.cumsum(0) - 1
        for pairs in coupling:
            own = (pairs.subject >= part[0]) & (pairs.subject <= part[-1])
            own = own & usable[pairs.first, pairs.subject] & usable[pairs.second, pairs.subject]
            first, second, who = pairs.first[own], pairs.second[own], pairs.subject[own]
            shared = pairs.correlation[own] * (variance[first, who] * variance[second, who]).sqrt()
            matrix[who - part[0], place[first], place[second]] += shared
            matrix[who - part[0], place[second], place[first]] += shared
        values, vectors = symmetric_eigen(matrix)
        regular = values[:, :1] > SINGULAR * values[:, -1:]
        roots = torch.where(regular, values, 1.0).rsqrt()
        error = torch.where(mask, residual[kept][:, part].mT, 0.0)
        scaled = torch.einsum("Nij,Nj,Nkj,Nk->Ni", vectors, roots, vectors, error)
        scaled = torch.where(mask & regular, scaled, torch.nan)
        whole = result[:, part]
        whole[kept] = scaled.mT
        result[:, part] = whole
    return result
