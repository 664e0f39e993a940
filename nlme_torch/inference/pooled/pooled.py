r"""Naive pooled estimation: every subject is the typical one, eta = 0.

.. math:: \max_\theta \sum_i \log p(y_i \mid \eta_i = 0, \theta) + \log p(\theta)

No estimate of variability comes out of it. It brings networks into the region where a mixed-effects method can start.
"""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.estimation import Estimation
from nlme_torch.inference.estimates.free_scalars import raw_labels
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.marginal.approximation import Approximation
from nlme_torch.inference.optimise.early_stopping import EarlyStopping, split_density
from nlme_torch.inference.optimise.gradient_step import adam_init, gradient_step
from nlme_torch.inference.pooled.naive import Naive
from nlme_torch.inference.progress import progress_line
from nlme_torch.model.declare.raw_parameters import Role, names_of_omega, raw_parameters
from nlme_torch.model.declare.scalars import all_scalars, scalar_matrix
from nlme_torch.model.declare.values import ParameterValues, free_names, parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.start_check import check_start
from nlme_torch.settings import check_above, check_at_least, check_types


@dataclass(frozen=True)
class Pooled:
    """Fit without random effects, by Adam with a decreasing step.

    Attributes:
        steps: Gradient steps.
        learning_rate: First step size on the estimation scale; it falls to a hundredth along a cosine.
        hold_out: Share of the subjects that take no part, but say when to stop: the values at which their likelihood
            was highest are kept. 0 uses all subjects and all steps.
        patience: Steps without a rise of that likelihood after which the fit stops.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> fit = nlme.fit(model, data, nlme.Pooled(steps=50), progress=False)
        >>> fit.termination
        '50 steps of Adam'
    """

    steps: int = 500
    learning_rate: float = 0.05
    _: KW_ONLY
    hold_out: float = 0.0
    patience: int = 100

    def __post_init__(self) -> None:
        check_types(self, FitError)
        check_at_least(self, FitError, 0, "steps")
        check_above(self, FitError, 0, "learning_rate")
        if not 0 <= self.hold_out < 1 or self.patience < 1:
            raise FitError(
                f"Pooled: hold_out={self.hold_out} must be a share of the subjects below one, patience={self.patience} "
                "a number of steps."
            )

    def estimate(self, density: Density, generator: torch.Generator, progress: bool) -> Estimation:
        """Maximise the pooled likelihood from the model's own values; variances keep their initial values.

        Args:
            density: The model, joined to data and solver.
            generator: Source of randomness, for the choice of held-out subjects.
            progress: Whether to show a progress line.

        Raises:
            FitError: A subject cannot be evaluated at the initial values.
        """
        check_start(density, parameter_values(density.model))
        rows: list[Tensor] = []
        with progress_line(self.steps, "pooled", progress) as line:

            def report(values: ParameterValues) -> None:
                rows.append(scalar_matrix(all_scalars(density.model, values))[0])
                line.advance("pooled")

            found = self._climb(density, parameter_values(density.model), report, generator)
            line.finish("pooled", len(rows))
        values = found.values
        names = list(all_scalars(density.model, values))
        table = torch.stack(rows) if rows else torch.zeros(0, len(names))
        trace = pd.DataFrame(table.numpy(force=True), columns=names)
        trace.insert(0, "iteration", range(1, len(trace) + 1))
        trace.insert(1, "phase", "pooled")
        if found.held_out:
            trace["held_out_loglik"] = trace["iteration"].map(found.held_out)
        warning = "pooled fit: random effects were held at zero and Omega at its initial value"
        warnings = (warning, *self._still(density))
        status = Status.INTERRUPTED if found.interrupted else Status.COMPLETED
        return Estimation(values, trace, status, found.termination, warnings)

    def _still(self, density: Density) -> tuple[str, ...]:
        """Say what the likelihood of typical subjects does not depend on; of networks that is not asked."""
        table = raw_parameters(density.model)
        # weights for an effect at zero rest, rightly
        moving = {name for name, raw in table.items() if raw.role is not Role.OMEGA and not raw.role.of_network}
        names = tuple(name for name in free_names(density.model) if name in moving)
        if not names:
            return ()
        values = parameter_values(density.model)
        eta = density.batch.times.new_zeros(density.model.n_effects, 1, 1, density.batch.n_subjects)
        _, state = gradient_step(density, values, names, eta, adam_init(values, names), 0.0, hold_effects=True)
        labels = raw_labels(density.model, names)
        still = [label for label, slope in zip(labels, state.first[0].tolist(), strict=True) if slope == 0.0]
        return (f"the objective does not depend on {', '.join(still[:5])} at the initial values",) if still else ()

    @property
    def name(self) -> str:
        """What the values of this method are called."""
        return "Pooled"

    def searches(self, density: Density) -> int:
        """Return the number of searches for each mode: there are none."""
        return 1

    def approximation(self, density: Density) -> Approximation:
        """Return the likelihood at zero effects for one model and its data."""
        return Naive(density)

    def maximise(self, density: Density, values: ParameterValues) -> dict[str, Tensor]:
        """Maximise from several starts at once.

        Args:
            density: The model, joined to data and solver.
            values: Raw name to ``(start, *shape)``.

        Returns:
            New values of the same shapes; those of the covariances are untouched.
        """
        found = self._climb(density, values, lambda values: None, torch.Generator().manual_seed(0))
        if found.interrupted:  # what follows a warm-up is not begun
            raise KeyboardInterrupt
        return found.values

    def _climb(
        self,
        density: Density,
        values: ParameterValues,
        report: Callable[[ParameterValues], None],
        generator: torch.Generator,
    ) -> "_Found":
        """Take the steps, and stop where held-out subjects say so."""
        judge = None
        if self.hold_out:
            density, other = split_density(density, self.hold_out, generator)
            judge = EarlyStopping(other, self.patience)
        omegas = names_of_omega(density.model)
        names = tuple(name for name in free_names(density.model) if name not in omegas)
        current = dict(values)
        state = adam_init(current, names)
        done, interrupted = 0, False
        try:
            for step in range(self.steps):
                rate = self.learning_rate * (0.505 + 0.495 * math.cos(math.pi * step / self.steps))
                mean = density.at(current).mean
                eta = mean.new_zeros(mean.shape[0], 1, mean.shape[1], density.batch.n_subjects)
                moved, state = gradient_step(density, current, names, eta, state, rate, hold_effects=True)
                current = {**current, **moved}
                done = step + 1
                report(current)
                if judge is not None and judge.says_stop(done, current):
                    break
        except KeyboardInterrupt:
            interrupted = True
        if judge is None or not judge.best:
            return _Found(current, f"{done} steps of Adam" + (", interrupted" if interrupted else ""), {}, interrupted)
        verdict = judge.verdict(done) + (", interrupted" if interrupted else "")
        return _Found(judge.best, verdict, judge.history, interrupted)


class _Found(NamedTuple):
    """What a pooled fit ends with.

    Attributes:
        values: Raw name to ``(start, *shape)``.
        termination: Why it ended.
        held_out: Step to log-likelihood of the held-out subjects (of the best start).
        interrupted: Whether the user ended it.
    """

    values: dict[str, Tensor]
    termination: str
    held_out: dict[int, float]
    interrupted: bool
