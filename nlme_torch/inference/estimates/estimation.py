"""What an estimation method is asked for and what it hands back, before anything is made pretty."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pandas as pd
import torch
from torch import Tensor

from nlme_torch.errors import FitError
from nlme_torch.inference.effects.effect_estimates import EffectEstimates
from nlme_torch.inference.estimates.certificate import Certificate
from nlme_torch.inference.estimates.log_likelihood import LogLikelihood
from nlme_torch.inference.estimates.status import Status
from nlme_torch.model.density.density import Density


@dataclass(frozen=True)
class Estimation:
    """The bare result of an estimation method.

    Attributes:
        values: Raw parameter name to ``(1, *shape)``.
        trace: One row per iteration: phase, named parameters on the natural scale, and what the method reports.
        status: How it ended.
        termination: The same in a sentence, with numbers.
        warnings: Things the user must know, one sentence each.
        draws: Draws of the random effects from their conditional distributions, ``(effect, draw, subject)``, or None.
        effects: What the method itself knows of the random effects, or None.
        log_likelihood: The method's own approximation of the marginal likelihood, or None.
        certificate: How far the values are from the maximum, where the method measured it.
    """

    values: dict[str, Tensor]
    trace: pd.DataFrame
    status: Status
    termination: str
    warnings: tuple[str, ...]
    draws: Tensor | None = None
    effects: EffectEstimates | None = None
    log_likelihood: LogLikelihood | None = None
    certificate: Certificate | None = None


@runtime_checkable
class FitMethod(Protocol):
    """An estimation method: a frozen dataclass with one method."""

    def estimate(self, density: Density, generator: torch.Generator, progress: bool) -> Estimation:
        """Estimate the parameters.

        Args:
            density: The model, joined to data and solver; its own parameters are the initial values.
            generator: Source of randomness.
            progress: Whether to show a progress line.
        """
        ...


@dataclass(frozen=True)
class UnrepeatableMethod:
    """A method of which nothing but its text is known: an earlier version's saved fit, or a class of the user's.

    Attributes:
        text: What it was called.

    Example:
        >>> str(UnrepeatableMethod("MyMethod(steps=3)"))
        'MyMethod(steps=3)'
    """

    text: str

    def __str__(self) -> str:
        return self.text

    def estimate(self, density: Density, generator: torch.Generator, progress: bool) -> Estimation:
        """Refuse.

        Args:
            density: Not used.
            generator: Not used.
            progress: Not used.

        Raises:
            FitError: Always.
        """
        raise FitError(
            f"of the method {self.text} nothing but this text is known, so that it cannot be repeated; give the "
            "method, such as method=nlme.SAEM(...)."
        )
