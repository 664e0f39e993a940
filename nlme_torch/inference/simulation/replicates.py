r"""Many data sets of one design, whose parameters may differ: replicates stand on the start axis of one batch.

.. math:: \theta^{(k)} \sim p(\theta \mid \text{data}), \qquad \eta_i^{(k)} \sim N(0, \Omega^{(k)}), \qquad
          y_{ij}^{(k)} \sim p(y \mid f(t_{ij}; \eta_i^{(k)}, \theta^{(k)}), \sigma^{(k)})
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nlme_torch.data import Dataset
from nlme_torch.model.declare.values import ParameterValues
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.drawn import draw_outcomes, expected
from nlme_torch.model.density.simulated_events import looked_at

COLUMNS = 100_000
"""Subjects times replicates that are solved at once."""


def draw_replicates(
    density: Density,
    data: Dataset,
    values: ParameterValues,
    eta: Tensor | None,
    residual: bool,
    generator: torch.Generator,
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]], int]:
    """Draw effects and observations of every subject once for every parameter vector.

    Args:
        density: The model joined to the design.
        data: The design.
        values: Raw name to ``(replicate, *shape)``.
        eta: ``(effect, subject)`` for all replicates, or None to draw them.
        residual: Whether observations have residual error.
        generator: Source of randomness.

    Returns:
        Outcome to observations ``(replicate, row)`` and to their expectations given the effects, NaN where nothing is
        looked at or no equation solved; and how many subjects of replicates were not solved.
    """
    batch, count = density.batch, next(iter(values.values())).shape[0]
    wanted = {name: looked_at(batch, name, data.prediction_rows) for name in batch.outcomes}
    observations = {name: np.full((count, data.n_rows), np.nan) for name in batch.outcomes}
    means = {name: np.full((count, data.n_rows), np.nan) for name in batch.outcomes}
    failed = 0
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        # outcomes are drawn by torch's global generator, which is put back afterwards
        noise = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        torch.set_rng_state(noise.get_state())
        for members in torch.arange(count).split(max(1, COLUMNS // batch.n_subjects)):
            conditional = density.at({name: value[members] for name, value in values.items()})
            shape = (batch.n_records, 1, len(members), batch.n_subjects)
            if eta is None:
                effects = conditional.sample(1, generator)
            else:
                effects = eta[:, None, None].expand(-1, 1, len(members), -1)
            observed, solved = conditional.observe(effects)
            solved = solved.expand(shape[1:])
            failed += int((~solved).sum())
            observed_values = draw_outcomes(batch, observed, wanted, shape) if residual else {}
            for name, look in wanted.items():
                mean = _mean(observed[name], shape) if residual else expected(name, observed[name], shape)
                for into, found in ((observations, observed_values.get(name, mean)), (means, mean)):
                    kept = torch.where(solved, found, torch.nan)[:, 0].movedim(1, 0)[:, look]
                    into[name][members.numpy()[:, None], batch.rows[look].numpy()] = kept.numpy(force=True)
    return observations, means, failed


def _mean(distribution: torch.distributions.Distribution, shape: tuple[int, ...]) -> Tensor:
    try:
        return distribution.mean.expand(shape)
    except NotImplementedError:
        return torch.full(shape, torch.nan)
