r"""Normal outcomes as numbers: observation, location and log variance at every observed record.

.. math:: y_{ij} \sim N(f_{ij}(\eta_i), r_{ij}(\eta_i))

FO, FOCE and FOCEI expand f and r, so they need them rather than a density. A log-normal outcome is a normal one of
the logarithm, with the Jacobian :math:`\sum \log y` added.
"""

import math

import torch
from torch import Tensor
from torch.distributions import LogNormal, Normal

from nlme_torch.errors import FitError
from nlme_torch.model.density.density import Conditional, Density


class NormalRecords:
    """The observations of a data set, stacked along one record axis, and how to predict them.

    Args:
        density: The model, joined to data and solver.
        method: Name of the method that asks, for the message.

    Attributes:
        observed: ``(record, start or 1, subject)``, on the log scale for log-normal outcomes.
        weight: ``(record, start 1, subject)``, 1 where something was observed and 0 elsewhere.
        constant: ``(start or 1, subject)``, what -2 log-likelihood holds besides squares and log variances.
        homoscedastic: Whether no variance depends on the effects: FOCE and FOCEI are the same then.

    Raises:
        FitError: An outcome is neither normal nor log-normal.
    """

    def __init__(self, density: Density, method: str) -> None:
        with torch.no_grad():
            conditional = density.at()
            zero = conditional.mean.new_zeros(density.model.n_effects, 1, 1, density.batch.n_subjects)
            groups, _ = conditional.observations(zero)
        observed, weights = [], []
        self.constant = density.batch.times.new_zeros(1, density.batch.n_subjects)
        for records, distributions in groups:
            for name in records.values:
                values, kind = records.aligned(name)[:, 0], distributions[name]
                if not isinstance(kind, Normal | LogNormal):
                    raise FitError(
                        f"{method} linearises a normal or log-normal outcome, but {name!r} is a "
                        f"{type(kind).__name__}; use nlme.Laplace(), which takes any outcome."
                    )
                weight = records.mask[:, None].to(values.dtype)
                logarithmic = isinstance(kind, LogNormal)
                observed.append(values.log() if logarithmic else values)
                weights.append(weight)
                self.constant = self.constant + (weight * math.log(2 * math.pi)).sum(0)
                if logarithmic:
                    self.constant = self.constant + 2 * (weight * values.log()).sum(0)
        starts = max(len(values[0]) for values in observed)
        self.observed = torch.cat([values.expand(-1, starts, -1) for values in observed])
        self.weight = torch.cat(weights)
        self.homoscedastic = self._is_homoscedastic(conditional)
        if not self.homoscedastic and density.correlated_outcomes:
            pair = " and ".join(map(repr, density.correlated_outcomes[0]))
            raise FitError(
                f"{method} takes the correlated errors of {pair} where their standard deviations are the same for all "
                "effects (additive errors, log-normal outcomes); use nlme.Laplace() or nlme.SAEM(), which take any."
            )

    def _is_homoscedastic(self, conditional: Conditional) -> bool:
        """Whether variances have no derivative with respect to effects, and are the same at others."""
        subjects = conditional.density.batch.n_subjects
        draws = torch.randn(
            conditional.density.model.n_effects, 1, 1, subjects, generator=torch.Generator().manual_seed(0)
        )
        other = conditional.colour(draws.to(conditional.mean))
        with torch.enable_grad():
            effects = torch.cat([torch.zeros_like(other), other], 1).requires_grad_()
            log_variance = self.predict(conditional, effects)[1]
        here, there = log_variance.detach().unbind(1)
        return not log_variance.requires_grad and bool((here == there).all())

    def predict(self, conditional: Conditional, eta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return location, log variance and the mask of solved subjects.

        Args:
            conditional: The model at fixed parameters.
            eta: ``(effect, chain, start, subject)``.

        Returns:
            Two tensors ``(record, chain, start, subject)`` and one that broadcasts to ``(chain, start, subject)``.
        """
        groups, solved = conditional.observations(eta)
        locations, log_variances = [], []
        for records, distributions in groups:
            for name in records.values:
                shape = (records.mask.shape[0], *eta.shape[1:])
                kind = distributions[name]
                locations.append(kind.loc.expand(shape))
                log_variances.append(2 * kind.scale.log().expand(shape))
        if len(locations) == 1:
            return locations[0], log_variances[0], solved
        return torch.cat(locations), torch.cat(log_variances), solved
