r"""Naive pooled estimation: every subject is the typical one, eta = 0.

.. math:: \max_\theta \sum_i \log p(y_i \mid \eta_i = 0, \theta) + \log p(\theta)

No estimate of variability comes out of it. It brings networks into the region where a mixed-effects method can start.
"""

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from nlme_torch.inference.approximation import Approximation
from nlme_torch.inference.estimation import Estimation
from nlme_torch.inference.gradient_step import adam_init, gradient_step
from nlme_torch.inference.naive import Naive
from nlme_torch.inference.progress import progress_line
from nlme_torch.model.density import Density
from nlme_torch.model.scalars import all_scalars, scalar_matrix
from nlme_torch.model.values import ParameterValues, free_names, parameter_values


@dataclass(frozen=True)
class Pooled:
    """Fit without random effects, by Adam with a decreasing step.

    Attributes:
        steps: Gradient steps.
        learning_rate: First step size on the estimation scale; it falls to a hundredth along a cosine.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> fit = nlme.fit(model, data, nlme.Pooled(steps=50), progress=False)
        >>> fit.termination
        '50 steps of Adam'
    """

    steps: int = 500
    learning_rate: float = 0.05

    def estimate(self, density: Density, generator: torch.Generator, progress: bool) -> Estimation:
        """Maximise the pooled likelihood from the model's own values; variances keep their initial values."""
        rows: list[Tensor] = []
        with progress_line(self.steps, "pooled", progress) as line:

            def report(values: ParameterValues) -> None:
                rows.append(scalar_matrix(all_scalars(density.model, values))[0])
                line.advance("pooled")

            values = self.maximise(density, parameter_values(density.model), report)
        trace = pd.DataFrame(torch.stack(rows).numpy(force=True), columns=list(all_scalars(density.model, values)))
        trace.insert(0, "iteration", range(1, len(trace) + 1))
        trace.insert(1, "phase", "pooled")
        warning = "pooled fit: random effects were held at zero and Omega at its initial value"
        return Estimation(values, trace, f"{self.steps} steps of Adam", (warning,))

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

    def maximise(self, density: Density, values: ParameterValues, report: object = None) -> dict[str, Tensor]:
        """Maximise from several starts at once.

        Args:
            density: The model, joined to data and solver.
            values: Raw name to ``(start, *shape)``.
            report: Called with the values after every step, or None.

        Returns:
            New values of the same shapes; those of the covariances are untouched.
        """
        names = tuple(name for name in free_names(density.model) if not name.startswith("_covariances"))
        current = dict(values)
        state = adam_init(current, names)
        for step in range(self.steps):
            rate = self.learning_rate * (0.505 + 0.495 * float(torch.cos(torch.tensor(torch.pi * step / self.steps))))
            mean = density.at(current).mean
            subjects = density.batch.n_subjects
            eta = mean.new_zeros(mean.shape[0], 1, mean.shape[1], subjects)
            moved, state = gradient_step(density, current, names, eta, state, rate, hold_effects=True)
            current.update(moved)
            if callable(report):
                report(current)
        return current
