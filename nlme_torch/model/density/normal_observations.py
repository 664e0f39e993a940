"""Which observations have the constant ``log 2 pi`` that NONMEM leaves out of its objective function."""

import torch
from torch import Tensor
from torch.distributions import Distribution, LogNormal, Normal

from nlme_torch._typing import Int
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.observed import ObservedRecords
from nlme_torch.model.observation import Censored, Truncated


def normal_observations(density: Density) -> Int[Tensor, "subject"]:
    """Count every subject's normal and log-normal observations, without the censored ones.

    Counts, categories, events and censored values have probabilities, which hold no such constant.

    Args:
        density: The model, joined to data and solver.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> normal_observations(Density(model, data.batch(), nlme.Tsit5())).sum().item()
        132
    """
    with torch.no_grad():
        conditional = density.at()
        zero = conditional.mean.new_zeros(density.model.n_effects, 1, 1, density.batch.n_subjects)
        groups, _ = conditional.observations(zero)
        total = torch.zeros(density.batch.n_subjects, dtype=torch.long, device=zero.device)
        for records, distributions in groups:
            for name in records.values:
                total = total + _normal(distributions[name], records).sum(0)
    return total


def _normal(kind: Distribution, records: ObservedRecords) -> Tensor:
    """Where a record counts, ``(record, subject)``."""
    counted = records.mask
    if isinstance(kind, Censored):
        everywhere = torch.broadcast_shapes(kind.censoring.shape, (len(counted), 1, 1, counted.shape[1]))
        counted = counted & (kind.censoring == 0).expand(everywhere)[:, 0, 0]
        kind = kind.base
    if isinstance(kind, Truncated):
        kind = kind.base
    return counted if isinstance(kind, Normal | LogNormal) else torch.zeros_like(counted)
