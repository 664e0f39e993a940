r"""Observations of one design drawn many times: random effects and outcomes, replicates on the chain axis.

.. math:: \eta_i^{(k)} \sim N(0, \Omega), \qquad y_{ij}^{(k)} \sim p(y \mid f(t_{ij}; \eta_i^{(k)}), \sigma)
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from nlme_torch._typing import Bool, Float
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.drawn import draw_outcomes

CHUNK = 4_000_000
"""Records times replicates that are solved at once: 32 MB for every state."""


class Replicates(NamedTuple):
    """Simulated observations.

    Attributes:
        values: Outcome to ``(record, replicate, subject)`` [outcome's unit]; NaN where an equation was not solved.
        solved: ``(replicate, subject)``.
    """

    values: dict[str, Float[Tensor, "record replicate subject"]]
    solved: Bool[Tensor, "replicate subject"]

    @property
    def lost(self) -> int:
        """Number of replicates of single subjects whose equations could not be solved."""
        return int((~self.solved).sum())

    def complete(self, outcome: str) -> Float[Tensor, "record replicate subject"]:
        """Return an outcome with solved replicates of the same subject in place of those that are not."""
        values = self.values[outcome]
        if not self.lost:
            return values
        order = torch.argsort((~self.solved).to(torch.int8), dim=0, stable=True)  # the solved ones first
        place = torch.arange(len(order), device=order.device)[:, None]
        instead = order.gather(0, place % self.solved.sum(0).clamp_min(1))
        instead = torch.where(self.solved, place, instead)
        return values.gather(1, instead[None].expand_as(values))


def draw_replicates(density: Density, samples: int, outcomes: Iterable[str], seed: int) -> Replicates:
    """Draw random effects and observations at every record of the data, in as few solves as memory allows.

    Args:
        density: The model at the parameters that are the truth, joined to the design.
        samples: Replicates of every subject.
        outcomes: Names of the outcomes to draw.
        seed: Seed of all draws.

    Returns:
        Observations at all records, observed or not.

    Raises:
        ModelError: An outcome has no way to be drawn.
    """
    batch, names = density.batch, list(outcomes)
    generator = torch.Generator().manual_seed(seed)
    # outcomes are drawn by torch's global generator, from a state of its own
    noise = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
    pieces: dict[str, list[Tensor]] = {name: [] for name in names}
    known = []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.set_rng_state(noise.get_state())
        conditional = density.at()
        effects = conditional.sample(samples, generator)
        for part in effects.split(max(1, CHUNK // max(1, batch.n_records * batch.n_subjects)), dim=1):
            observed, solved = conditional.observe(part)
            shape = (batch.n_records, part.shape[1], 1, batch.n_subjects)
            solved = solved.expand(shape[1:])
            drawn = draw_outcomes(batch, observed, names, shape)
            for name in names:
                pieces[name].append(torch.where(solved, drawn[name].to(batch.times), torch.nan)[:, :, 0])
            known.append(solved[:, 0])
    return Replicates({name: torch.cat(parts, 1) for name, parts in pieces.items()}, torch.cat(known))
