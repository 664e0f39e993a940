"""How many nodes a quadrature needs: the next rule shows the error of the one before."""

import math
from collections.abc import Callable

from torch import Tensor

from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.log_likelihood import TOLERATED

FEWEST = 3
"""Nodes per effect to begin with: one is Laplace's approximation, and two have none at the mode."""
STEP = 2
"""From one odd rule to the next, so that each has a node at the mode."""
LARGEST_GRID = 20_000
"""Nodes per subject up to which a rule is tried: 3 nodes for 9 effects, or the 20,000 columns of one batched call."""


def raised(rule: Callable[[int], Tensor | None]) -> tuple[int, Tensor, Tensor | None]:
    """Raise the nodes until the next rule moves -2LL by no more than 0.05.

    Args:
        rule: Nodes per effect to -2LL of the subjects, ``(subject,)``; None where the grid would be too large.

    Returns:
        The nodes, their values, and those of the next rule; the largest grid that is allowed if none suffices.

    Raises:
        FitError: Even the smallest rule is too large.

    Example:
        >>> import torch
        >>> raised(lambda nodes: torch.tensor([2.0**-nodes]))[0]
        5
    """
    nodes, value = FEWEST, rule(FEWEST)
    if value is None:
        raise FitError(
            f"quadrature with {FEWEST} nodes per effect needs more than {LARGEST_GRID:,} nodes for every subject; use "
            "nlme.Laplace(), or nlme.SAEM() with nlme.ImportanceSampling() for the likelihood."
        )
    while True:
        following = rule(nodes + STEP)
        moved = 0.0 if following is None else abs(float((following - value).sum()))
        if moved <= TOLERATED or not math.isfinite(moved):
            return nodes, value, following
        assert following is not None
        nodes, value = nodes + STEP, following
