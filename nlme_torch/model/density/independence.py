"""Subjects and chains are evaluated together and must not feel each other."""

import torch

from nlme_torch.errors import ModelError
from nlme_torch.model.density.density import Density
from nlme_torch.solve import TorchDiffEq

SHARE = 0.3
"""Size of the effects that are tried, in standard deviations: small, so that equations can be solved there."""
TOLERANCE = 1e-6
"""Relative difference of a log-likelihood that is no rounding: a subject takes the same steps in any company."""


def refuse_mixing(density: Density) -> None:
    """Evaluate two chains together and one of them alone, with other effects of every other subject.

    ``p.ka[0]``, ``p.ka.mean()`` or a sum over a tensor mean something else in a batch than for one subject, where they
    are harmless: each takes numbers of other chains or subjects, and the likelihood is wrong without a word. A solver
    whose steps are common to all subjects, as torchdiffeq's are, cannot be judged in this way.

    Args:
        density: The model, joined to data and solver.

    Raises:
        ModelError: The likelihood of a subject depends on the effects of another one, or on other chains.
    """
    if not density.model.n_effects or isinstance(density.solver, TorchDiffEq):
        return
    with torch.no_grad():
        conditional = density.at()
        effects = SHARE * conditional.sample(2, torch.Generator().manual_seed(0))
        effects[:, 1, :, 1::2] = effects[:, 0, :, 1::2]
        together = conditional.log_likelihood(effects)[:, 0]
        alone = conditional.log_likelihood(effects[:, 1:])[0, 0]
    for one, other, what in (
        (together[0, 1::2], together[1, 1::2], "the random effects of other subjects"),
        (together[1], alone, "which other chains are evaluated with it"),
    ):
        apart = (one - other).abs() > TOLERANCE * (1 + one.abs())
        if bool((apart & torch.isfinite(one) & torch.isfinite(other)).any()):
            raise ModelError(
                f"{type(density.model).__name__}: the likelihood of a subject depends on {what}. A parameter, state or "
                "time holds one number for every chain and subject: an index such as p.ka[0], a mean, sum, maximum or "
                "norm takes them from the wrong place. Write plain arithmetic on scalars."
            )
