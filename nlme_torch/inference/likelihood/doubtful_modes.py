"""Where one conditional mode does not stand for a subject's distribution: a second one nearby, or no curvature."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.inference.estimates.log_likelihood import LogLikelihood
from nlme_torch.inference.marginal.approximation import Approximation
from nlme_torch.inference.marginal.expansion_points import Expansion, decrements
from nlme_torch.inference.marginal.singular_hessian import SINGULAR, smallest_eigenvalues
from nlme_torch.inference.modes.conditional_modes import ModeStatus
from nlme_torch.model.declare.values import ParameterValues

NEAR = 5.0  # units of -2 log joint density
SHOWN = 5
"""Subjects that a message names."""
PROMISED = 1e-3  # of the log joint density: less is within the noise of a solver


def next_modes(gap: Float[Tensor, "subject"] | None, subjects: int) -> Float[Tensor, "subject"]:
    """Return how much higher -2 log joint density is at the second-best mode; NaN where none is known.

    Args:
        gap: Fall of the log joint density to the next mode, infinite where none was found; None: not searched for.
        subjects: How many there are.
    """
    if gap is None:
        return torch.full((subjects,), torch.nan, dtype=torch.float64)
    return torch.where(torch.isfinite(gap), 2 * gap, torch.nan)


def with_next_modes(found: LogLikelihood, gap: Float[Tensor, "subject"] | None) -> LogLikelihood:
    """Return the same with the column ``next_mode`` in its table of subjects."""
    table = found.subjects.assign(next_mode=next_modes(gap, len(found.subjects)).numpy(force=True))
    return dataclasses.replace(found, subjects=table)


def doubtful_modes(
    method: str,
    subjects: Sequence[Any],
    gap: Float[Tensor, "subject"] | None,
    hessian: Float[Tensor, "effect effect subject"] | None,
) -> tuple[str, ...]:
    """Name the subjects whose distribution one normal at the mode does not describe.

    Args:
        method: Name of the approximation.
        subjects: Ids in the order of the batch.
        gap: As for :func:`next_modes`.
        hessian: Exact curvature of the standardised effects at the mode; None where the method has another one.
    """
    messages = []
    near = (next_modes(gap, len(subjects)) < NEAR).nonzero()[:, 0].tolist()
    if near:
        messages.append(
            f"{_counted(near, subjects)} a second conditional mode within {NEAR:g} units of -2 log joint density: "
            f"{method} expands at one of them and is not to be trusted there; importance sampling over several modes "
            "(nlme.ImportanceSampling(modes=4)) is"
        )
    if hessian is not None:
        smallest = smallest_eigenvalues(hessian)
        flat = (smallest < SINGULAR).nonzero()[:, 0].tolist()
        if flat:
            messages.append(
                f"{_counted(flat, subjects)} a nearly singular Hessian at the conditional mode (smallest eigenvalue "
                f"{float(smallest.min()):.2g} in units of the prior's): {method} overrates such subjects without "
                "bound; importance sampling does not"
            )
    return tuple(messages)


def modes_at_kinks(
    method: str, approximation: Approximation, values: ParameterValues, found: Expansion
) -> tuple[str, ...]:
    """Name the subjects whose conditional mode lies where the derivative of the density jumps.

    Args:
        method: Name of the approximation.
        approximation: FOCE, Laplace, ... joined to a model and its data.
        values: Raw name to ``(1, *shape)``.
        found: Its expansion points there.
    """
    stalled = found.status[0] == ModeStatus.STALLED
    if not approximation.has_modes or not bool(stalled.any()):
        return ()
    # no step is any better, and yet a quadratic promises more
    promised = decrements(approximation, values, found.evaluation.centre)[0]
    kinked = (stalled & (promised > PROMISED)).nonzero()[:, 0].tolist()
    if not kinked:
        return ()
    return (
        f"{_counted(kinked, approximation.density.batch.subjects)} a conditional mode at a kink, as where a lag, a "
        f"duration or a switch meets an observation: {method} expands there by the derivatives of one side; importance "
        "sampling and nlme.SAEM need none",
    )


def _counted(places: list[int], subjects: Sequence[Any]) -> str:
    named = ", ".join(str(subjects[place]) for place in places[:SHOWN]) + (", ..." if len(places) > SHOWN else "")
    return f"{len(places)} of {len(subjects)} subjects ({named}) {'has' if len(places) == 1 else 'have'}"
