r"""Normalised prediction discrepancies and distribution errors: where data lie among simulations of the whole model.

For an observation among K simulated ones (ties count half)

.. math:: pd_{ij} = \frac{\#\{y_{ij}^{(k)} < y_{ij}\} + 1/2}{K + 1}, \qquad NPD_{ij} = \Phi^{-1}(pd_{ij})

so that, data and simulations being exchangeable under the model, NPD is standard normal whatever the distribution.
NPDE is the same of the decorrelated vectors :math:`y_i^* = L_i^{-1} (y_i - \bar y_i)`, with mean and covariance
:math:`L_i L_i^\top` of the subject's simulations (Cholesky, in time order, all continuous outcomes together).

A censored observation has a pd drawn uniformly between those of the ends of its interval (the whole tail where there
is one end only), and takes the place of the quantile of the simulations at that pd; so do simulated values beyond the
limit of quantification, which the record would have censored.

Discrete outcomes have NPD alone, by a rank drawn uniformly among the ties.

References:
    Brendel, Comets, Laffont, Laveille and Mentré (2006), Metrics for external model evaluation with an application to
    the population pharmacokinetics of gliclazide. doi:10.1007/s11095-006-9067-5
    Comets, Brendel and Mentré (2008), Computing normalised prediction distribution errors to evaluate nonlinear
    mixed-effect models: the npde add-on package for R. doi:10.1016/j.cmpb.2007.12.002
    Nguyen, Comets and Mentré (2012), Extension of NPDE for evaluation of nonlinear mixed effect models in presence of
    data below the quantification limit with application to HIV dynamic model. doi:10.1007/s10928-012-9264-2
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.inference.numerics.linear_algebra import cholesky
from nlme_torch.inference.residuals.continuous_records import ContinuousRecords, is_event
from nlme_torch.inference.residuals.limits import quantification_limits
from nlme_torch.model.density.replicates import draw_replicates

CHUNK = 8_000_000
"""Simulated numbers that are ranked at once, 64 MB."""


class PredictionErrors(NamedTuple):
    """Prediction errors of every observation.

    Attributes:
        npd: Outcome to ``(record, subject)``, standard normal under the model; NaN where nothing was observed.
        npde: The same, decorrelated within subjects; continuous outcomes alone.
        lost: Replicates whose equations could not be solved; others of the subject stand in for them.
        few: Subjects with too few replicates for the covariance of their records; they have no NPDE.
    """

    npd: dict[str, Float[Tensor, "record subject"]]
    npde: dict[str, Float[Tensor, "record subject"]]
    lost: int
    few: int


def prediction_errors(records: ContinuousRecords, simulations: int, seed: int) -> PredictionErrors:
    """Return NPD and NPDE of every observation.

    Args:
        records: The observations, joined to the model at its estimates.
        simulations: Simulated values of every observation, K.
        seed: Of simulations and of what is drawn for censored and discrete observations.

    Raises:
        ModelError: An outcome cannot be drawn.
    """
    batch = records.density.batch
    names = [name for name, kind in records.kinds.items() if not is_event(kind)]
    drawn = draw_replicates(records.density, simulations, names, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    npd, npde, few = {}, {}, 0
    if records.names:
        lower, upper = (
            records.stacked(dict(zip(records.names, ends, strict=True)))
            for ends in zip(*(quantification_limits(batch.outcomes[name]) for name in records.names), strict=True)
        )
        other = records.stacked({name: _other_ends(records, name) for name in records.names})
        simulated = records.stacked({name: drawn.complete(name) for name in records.names})
        single, joint = torch.full_like(records.value, torch.nan), torch.full_like(records.value, torch.nan)
        size = max(1, CHUNK // max(1, simulations * len(simulated)))
        for part in torch.arange(batch.n_subjects, device=batch.device).split(size):
            rows = records.mask[:, part].any(1)
            if not bool(rows.any()):
                continue
            parts = (simulated[..., part], records.mask[:, part], records.value[:, part], records.censoring[:, part])
            sims, mask, value, code = (tensor[rows] for tensor in parts)
            ends = (lower[rows][:, part], upper[rows][:, part], other[rows][:, part])
            pd, value, sims = imputed(value, code, ends, sims, generator)
            block = single[:, part]
            block[rows] = torch.where(mask, normal(pd), torch.nan)
            single[:, part] = block
            star, stars, regular = decorrelated_by_simulations(value, sims, mask)
            few += int((~regular).sum())
            block = joint[:, part]
            block[rows] = torch.where(mask & regular, normal(rank(star, stars)), torch.nan)
            joint[:, part] = block
        for name in records.names:
            npd[name], npde[name] = records.outcome(single, name), records.outcome(joint, name)
    for name in names:
        if name not in npd:
            outcome = batch.outcomes[name]
            uniform = torch.rand(outcome.value.shape, generator=generator, dtype=outcome.value.dtype).to(batch.device)
            pd = rank(outcome.value, drawn.complete(name), uniform)
            npd[name] = torch.where(outcome.mask, normal(pd), torch.nan)
    return PredictionErrors(npd, npde, drawn.lost, few)


def rank(
    value: Float[Tensor, "record subject"],
    simulated: Float[Tensor, "record replicate subject"],
    share: Float[Tensor, "record subject"] | float = 0.5,
) -> Float[Tensor, "record subject"]:
    """Return where a value lies among simulated ones, between 0 and 1; of ties a share counts as smaller.

    Args:
        value: The data.
        simulated: The simulations.
        share: Of the ties, itself included.
    """
    below = (simulated < value[:, None]).sum(1).to(value)
    ties = (simulated == value[:, None]).sum(1).to(value)
    return (below + share * (ties + 1)) / (simulated.shape[1] + 1)


def normal(probability: Tensor) -> Tensor:
    """Return standard normal quantiles."""
    return torch.special.ndtri(probability)


def imputed(
    value: Float[Tensor, "record subject"],
    code: Tensor,
    ends: tuple[Tensor, Tensor, Tensor],
    simulated: Float[Tensor, "record replicate subject"],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return pd, and data and simulations in which what is censored is drawn from the simulations beyond the limit.

    Args:
        value: The data.
        code: 0 observed, 1 left-censored, -1 right-censored, ``(record, subject)``.
        ends: Limits of quantification below and above, and the other end of the interval of a censored value.
        simulated: The simulations.
        generator: Source of randomness.
    """
    lower, upper, other = ends
    pd = rank(value, simulated)
    if not bool((code != 0).any()):
        return pd, value, simulated
    ordered, count = simulated.sort(1).values, simulated.shape[1]
    uniform = torch.rand(value.shape, generator=generator, dtype=value.dtype).to(value.device)
    limit = torch.where(code == 1, lower, upper)
    first = torch.where(torch.isfinite(other), rank(other, simulated), (code == -1).to(value))
    drawn = first + uniform * (rank(limit, simulated) - first)
    pd = torch.where(code == 0, pd, drawn)
    value = torch.where(code == 0, value, quantile(ordered, drawn[:, None])[:, 0])
    again = torch.rand(simulated.shape, generator=generator, dtype=value.dtype).to(value.device)
    below, above = simulated < lower[:, None], simulated > upper[:, None]
    left = below.sum(1, keepdim=True).to(value) / count
    right = 1 - above.sum(1, keepdim=True).to(value) / count
    simulated = torch.where(below, quantile(ordered, again * left), simulated)
    return pd, value, torch.where(above, quantile(ordered, right + again * (1 - right)), simulated)


def quantile(
    ordered: Float[Tensor, "record replicate subject"], probability: Float[Tensor, "record drawn subject"]
) -> Float[Tensor, "record drawn subject"]:
    """Return values of the piecewise linear inverse of the distribution of ordered simulations."""
    count = ordered.shape[1]
    place = (probability * count - 0.5).clamp(0, count - 1)
    low = place.floor().long()
    high = (low + 1).clamp_max(count - 1)
    start = ordered.gather(1, low)
    return start + (place - low) * (ordered.gather(1, high) - start)


def decorrelated_by_simulations(
    value: Float[Tensor, "record subject"], simulated: Float[Tensor, "record replicate subject"], mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return decorrelated data and simulations, and which subjects have a covariance to do it with.

    Args:
        value: The data.
        simulated: The simulations.
        mask: Where there are data, ``(record, subject)``; the others take no part.
    """
    count = simulated.shape[1]
    centre = simulated.mean(1)
    deviations = torch.where(mask[:, None], simulated - centre[:, None], 0.0)
    varies = (deviations.square().sum(1) > 0) & mask
    deviations = torch.where(varies[:, None], deviations, 0.0).permute(2, 0, 1)
    covariance = deviations @ deviations.mT / (count - 1)
    covariance = covariance + torch.diag_embed((~varies).to(covariance).mT)
    factor = cholesky(covariance)
    regular = torch.isfinite(factor).all(-1).all(-1) & (varies.sum(0) < count)
    factor = torch.where(regular[:, None, None], factor, torch.eye(len(value)).to(factor))
    data = torch.where(varies, value - centre, 0.0).mT[..., None]
    both = torch.linalg.solve_triangular(factor, torch.cat([data, deviations], -1), upper=False).permute(1, 2, 0)
    lost = ~varies & mask
    return torch.where(lost, torch.nan, both[:, 0]), both[:, 1:], regular


def _other_ends(records: ContinuousRecords, name: str) -> Tensor:
    """The other end of the interval of censored values; infinite where there is none."""
    outcome = records.density.batch.outcomes[name]
    return torch.full_like(outcome.value, torch.inf) if outcome.limit is None else outcome.limit
