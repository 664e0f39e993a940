"""Data sets drawn anew for the bootstrap: subjects by weights, or observations from the fitted model."""

from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from nlme_torch._typing import Float, Int
from nlme_torch.data.records.batch import Batch
from nlme_torch.errors import FitError, ModelError
from nlme_torch.inference.foce.marginal_method import MarginalMethod
from nlme_torch.inference.marginal.approximation import Approximation
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.drawn import draw_outcomes
from nlme_torch.model.density.start_outcomes import with_outcomes


@runtime_checkable
class Resamples(Protocol):
    """Several data sets that differ from the fitted one: all at once, or one by one."""

    @property
    def kind(self) -> str:
        """What the bootstrap is called."""
        ...

    def together(self, method: MarginalMethod, members: Tensor) -> tuple[Approximation, Tensor | None]:
        """Return the objective of some of the data sets on the start axis, and the weights of their subjects."""
        ...

    def batch(self, number: int) -> Batch:
        """Return one data set."""
        ...


class CaseResamples:
    """Subjects drawn with replacement.

    Args:
        density: The model with the data.
        picked: Which subjects every data set holds, ``(start, subject)``.
    """

    kind = "case"

    def __init__(self, density: Density, picked: Int[Tensor, "start subject"]) -> None:
        self.density, self.picked = density, picked
        counts = torch.nn.functional.one_hot(picked, density.batch.n_subjects).sum(1)
        self.weights = counts.to(density.batch.times)
        self._approximation: Approximation | None = None

    @classmethod
    def draw(cls, density: Density, samples: int, generator: torch.Generator) -> "CaseResamples":
        """Draw as many subjects as there are, with replacement."""
        subjects = density.batch.n_subjects
        return cls(density, torch.randint(subjects, (samples, subjects), generator=generator))

    def together(self, method: MarginalMethod, members: Tensor) -> tuple[Approximation, Tensor | None]:
        """Return one objective for all, and how often each subject counts."""
        if self._approximation is None:
            self._approximation = method.approximation(self.density)
        return self._approximation, self.weights[members.to(self.weights.device)]

    def batch(self, number: int) -> Batch:
        """Return the batch with its repeated subjects."""
        return self.density.batch.select(self.picked[number])


class ParametricResamples:
    """Observations simulated from the fitted model, at the records where there was one.

    Args:
        density: The model with the data.
        outcomes: Outcome to simulated values, ``(record, start, subject)``.
    """

    kind = "parametric"

    def __init__(self, density: Density, outcomes: dict[str, Float[Tensor, "record start subject"]]) -> None:
        self.density, self.outcomes = density, outcomes
        self._last: tuple[Tensor, Approximation] | None = None

    @classmethod
    def draw(cls, density: Density, samples: int, generator: torch.Generator) -> "ParametricResamples":
        """Draw random effects and observations of every data set.

        Raises:
            FitError: An outcome is censored or cannot be drawn.
        """
        censored = [name for name, outcome in density.batch.outcomes.items() if outcome.censoring is not None]
        if censored:
            raise FitError(
                f"parametric_bootstrap: outcome {censored[0]!r} has censored values, whose limits of quantification "
                "are not known for simulated ones; use nlme.case_bootstrap."
            )
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            conditional = density.at()
            observed, solved = conditional.observe(conditional.sample(samples, generator))
            # distributions draw from torch's global generator, which is put back afterwards
            torch.set_rng_state(generator.get_state())
            shape = (density.batch.n_records, samples, 1, density.batch.n_subjects)
            try:
                found = draw_outcomes(density.batch, observed, density.batch.outcomes, shape)
            except ModelError as error:
                raise FitError(f"parametric_bootstrap: {error} Use nlme.case_bootstrap.") from None
            # a subject whose equation was not solved makes its data set fail, which is counted
            there = solved.expand(shape[1:])
            outcomes = {name: torch.where(there, value, torch.nan)[:, :, 0] for name, value in found.items()}
        return cls(density, outcomes)

    def together(self, method: MarginalMethod, members: Tensor) -> tuple[Approximation, Tensor | None]:
        """Return an objective whose starts have their own observations."""
        if self._last is None or not torch.equal(self._last[0], members):
            some = {name: value[:, members.to(value.device)] for name, value in self.outcomes.items()}
            self._last = members.clone(), method.approximation(with_outcomes(self.density, some))
        return self._last[1], None

    def batch(self, number: int) -> Batch:
        """Return the batch with other observations."""
        before = self.density.batch
        outcomes = {
            name: replace(outcome, value=torch.where(outcome.mask, self.outcomes[name][:, number], 0.0))
            for name, outcome in before.outcomes.items()
        }
        return replace(before, outcomes=outcomes)
