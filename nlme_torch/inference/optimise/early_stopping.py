"""Early stopping: subjects that take no part in a fit say when it has learnt enough.

References:
    Prechelt (1998), Early stopping - but when? doi:10.1007/3-540-49430-8_3
"""

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.errors import FitError
from nlme_torch.model.declare.values import ParameterValues
from nlme_torch.model.density.density import Density


class EarlyStopping:
    """Keeps, for every start, the values at which the likelihood of held-out subjects was highest.

    Args:
        density: The model with the held-out subjects.
        patience: Steps without a rise that are allowed.
    """

    every = 5

    def __init__(self, density: Density, patience: int) -> None:
        self.density, self.patience = density, patience
        self.best: dict[str, Tensor] = {}
        self.highest = torch.empty(0)
        self.at = torch.empty(0)
        self.history: dict[int, float] = {}

    def says_stop(self, step: int, values: ParameterValues) -> bool:
        """Look at the held-out subjects, and say whether no start has been rising for long."""
        if step % self.every and step != 1:
            return False
        found = pooled_log_likelihood(self.density, values)
        self.history[step] = float(found.max())
        if not self.best:
            self.best = {name: value.clone() for name, value in values.items()}
            self.highest, self.at = found, torch.full_like(found, step)
            return False
        rose = found > self.highest
        self.highest, self.at = torch.where(rose, found, self.highest), torch.where(rose, step, self.at)
        for name, value in values.items():
            self.best[name] = torch.where(rose.reshape(-1, *(1,) * (value.dim() - 1)), value, self.best[name])
        return bool((step - self.at >= self.patience).all())

    def verdict(self, steps: int) -> str:
        """Say when the fit ended and which values were kept."""
        kept, subjects = ", ".join(f"{step:.0f}" for step in self.at.tolist()), self.density.batch.n_subjects
        return f"{steps} steps of Adam; kept step {kept}, the best for {subjects} held-out subjects"


def pooled_log_likelihood(density: Density, values: ParameterValues) -> Float[Tensor, "start"]:
    """Return the log-likelihood of all subjects at zero effects for every start."""
    with torch.no_grad():
        conditional = density.at(values)
        eta = conditional.mean.new_zeros(len(conditional.mean), 1, conditional.starts, density.batch.n_subjects)
        return conditional.log_likelihood(eta)[0].sum(-1)


def split_density(density: Density, share: float, generator: torch.Generator) -> tuple[Density, Density]:
    """Return the same model with some of the subjects drawn at random, and with the others.

    Args:
        density: The model, joined to data and solver.
        share: Share of the subjects in the second part.
        generator: Source of randomness.

    Raises:
        FitError: One of the parts would be empty.
    """
    count = density.batch.n_subjects
    held = round(share * count)
    if not 0 < held < count:
        raise FitError(f"a share of {share} of {count} subjects leaves none on one side; choose another share.")
    order = torch.randperm(count, generator=generator).tolist()
    parts = (sorted(order[held:]), sorted(order[:held]))
    first, second = (Density(density.model, density.batch.select(part), density.solver) for part in parts)
    return first, second
