"""Estimation in stages: every method begins where the one before it ended."""

import dataclasses
from dataclasses import dataclass

import pandas as pd
import torch

from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.estimation import Estimation, FitMethod
from nlme_torch.inference.estimates.status import Status
from nlme_torch.model.declare.values import assign, parameter_values
from nlme_torch.model.density.density import Density


@dataclass(frozen=True, init=False)
class Staged:
    """Several estimation methods in turn: what the population has in common first, then how subjects differ.

    A network and random effects that are free from the beginning compete for the same differences; fitted to the
    typical subject first, the network leaves to the effects what it cannot explain.

    Attributes:
        methods: The methods in order. Effects and likelihood are those of the last one; so are the warnings.

    Raises:
        FitError: Fewer than two methods, or something that is none.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> fit = nlme.fit(model, data, nlme.Staged(nlme.Pooled(steps=20), nlme.FOCEI()), progress=False)
        >>> fit.termination[:29], round(fit.ofv, 3)
        ('stage 1, 20 steps of Adam; th', 116.803)
    """

    methods: tuple[FitMethod, ...]

    def __init__(self, first: FitMethod, second: FitMethod, *further: FitMethod) -> None:
        methods = (first, second, *further)
        for method in methods:
            if isinstance(method, type) or not isinstance(method, FitMethod):
                raise FitError(
                    f"Staged takes estimation methods such as nlme.Pooled() and nlme.SAEM(), got {method!r}."
                )
        object.__setattr__(self, "methods", methods)

    def __str__(self) -> str:
        return f"Staged({', '.join(map(str, self.methods))})"

    def estimate(self, density: Density, generator: torch.Generator, progress: bool) -> Estimation:
        """Run the methods one after the other.

        Args:
            density: The model, joined to data and solver; its own parameters are the initial values.
            generator: Source of randomness.
            progress: Whether to show a progress line for every stage.

        Returns:
            What the last method found; the traces follow one another, with iterations counted on.

        Raises:
            NLMEError: From a method; nothing of the earlier stages is kept.
        """
        initial = parameter_values(density.model)
        traces: list[pd.DataFrame] = []
        reasons: list[str] = []
        try:
            for method in self.methods:
                found = method.estimate(density, generator, progress)
                assign(density.model, found.values)
                traces.append(found.trace)
                reasons.append(f"stage {len(reasons) + 1}, {found.termination}")
                if found.status is Status.INTERRUPTED:
                    break
        except KeyboardInterrupt:  # from a method that had nothing yet
            if not traces:
                raise
            found = dataclasses.replace(found, status=Status.INTERRUPTED)
            reasons.append(f"stage {len(reasons) + 1} interrupted before its first iteration")
        finally:
            assign(density.model, initial)
        trace = pd.concat(traces, ignore_index=True)
        trace["iteration"] = range(1, len(trace) + 1)
        return Estimation(
            values=found.values,
            trace=trace,
            status=found.status,
            termination="; then ".join(reasons),
            warnings=found.warnings,
            draws=found.draws,
            effects=found.effects,
            log_likelihood=found.log_likelihood,
        )
