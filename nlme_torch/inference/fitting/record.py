"""What is known of a fit: its fields, and the tables and numbers that follow from them."""

import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from nlme_torch.errors import FitError, NLMEError
from nlme_torch.inference.effects.effect_estimates import shrinkage
from nlme_torch.inference.estimates.fitted import Fitted
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.fitting.absent_data import AbsentData
from nlme_torch.inference.fitting.everything_estimated import everything_estimated
from nlme_torch.inference.fitting.individuals import individual_table
from nlme_torch.inference.fitting.predictions import prediction_table
from nlme_torch.inference.fitting.tables import effect_table, error_columns, omega_table
from nlme_torch.inference.information.leave_one_out import LeaveOneOut, leave_one_out
from nlme_torch.inference.uncertainty.standard_errors import Uncertainty
from nlme_torch.model.declare.log_prior import log_prior
from nlme_torch.model.declare.values import free_scalar_count, parameter_values


@dataclass(frozen=True)
class FitRecord(Fitted):
    """A fitted model with everything that was learnt about it.

    The attributes are explained where they are met, in :class:`nlme_torch.Fit`.
    """

    seed: int
    trace: pd.DataFrame
    status: Status
    termination: str
    warnings: tuple[str, ...]
    seconds: float
    uncertainty: Uncertainty | None = None

    @property
    def converged(self) -> bool:
        """Whether the method's own criterion of a maximum was met."""
        return self.status is Status.CONVERGED

    @cached_property
    def parameters(self) -> pd.DataFrame:
        """One row for everything estimated: parameters, coefficients, variances, covariances, networks.

        Indexed by the names that ``model.with_values`` takes; columns estimate, fixed, bsv_cv_percent, bsv_sd,
        correlation, shrinkage_percent, size (of networks) and kind; with standard errors se, rse_percent, lower, upper.
        """
        return error_columns(everything_estimated(self.model, self.shrinkage), self.uncertainty)

    @cached_property
    def omega(self) -> pd.DataFrame:
        """Covariance matrix of the random effects."""
        return omega_table(self.model)

    @cached_property
    def correlation(self) -> pd.DataFrame:
        """Correlation matrix of the random effects."""
        deviations = np.sqrt(np.diag(self.omega))
        return self.omega.div(deviations, axis=0).div(deviations, axis=1)

    @cached_property
    def eta(self) -> pd.DataFrame:
        """Conditional modes of the random effects, one row per subject."""
        return effect_table(self.model, self.data.subjects, self.effects.modes)

    @cached_property
    def eta_mean(self) -> pd.DataFrame:
        """Conditional means of the random effects, one row per subject."""
        return effect_table(self.model, self.data.subjects, self.effects.means)

    @cached_property
    def eta_sd(self) -> pd.DataFrame:
        """Conditional standard deviations of the random effects, one row per subject."""
        deviations = self.effects.covariances.diagonal().mT.sqrt()
        return effect_table(self.model, self.data.subjects, deviations)

    @cached_property
    def shrinkage(self) -> pd.Series:
        """Eta-shrinkage of every random effect, a fraction: 1 - SD(conditional modes) / omega."""
        covariance = torch.tensor(self.omega.to_numpy(), device=self.effects.modes.device)
        return pd.Series(
            shrinkage(self.effects.modes, covariance).numpy(force=True), index=list(self.model.effect_labels)
        )

    @cached_property
    def individual_parameters(self) -> pd.DataFrame:
        """Individual parameters at the conditional modes, natural scale, one row per subject (and occasion)."""
        return individual_table(self.density, self.data.subjects, self.effects.modes)

    @property
    def predictions(self) -> pd.DataFrame:
        """PRED, IPRED, RES, IRES and IWRES at every observation, in the order of the user's rows."""
        return prediction_table(self.density, self.data, self.effects.modes)

    @property
    def left_out(self) -> LeaveOneOut | None:
        """Of a model with a network: what its subjects would be worth to a fit without them; None where unknown."""
        return self.hold_out if isinstance(self.hold_out, LeaveOneOut) else None

    @property
    def hold_out(self) -> LeaveOneOut | NLMEError | None:
        """The same, or the error that says why it is unknown; None without a network or with fewer than 3 subjects."""
        if not self.model.has_network or self.data.n_subjects < 3:
            return None
        if isinstance(self.data, AbsentData):
            return FitError("the fit was loaded without its data")
        with torch.no_grad():  # what was computed before holds while the model's code still does the same
            behaviour = self.density.at().log_joint(self.effects.modes[:, None, None])
        known = self._left_out
        if "found" not in known or not torch.equal(known["behaviour"], behaviour):
            try:
                known["found"] = leave_one_out(self)
            except NLMEError as error:
                known["found"] = error
            known["behaviour"] = behaviour
        return known["found"]

    @cached_property
    def _left_out(self) -> dict[str, Any]:
        return {}

    @property
    def n_parameters(self) -> int:
        """Number of estimated parameters."""
        return free_scalar_count(self.model)

    @property
    def minus2ll(self) -> float:
        """-2 log-likelihood with all constants, by ``log_likelihood.method``."""
        return self.log_likelihood.minus2ll

    @property
    def ofv(self) -> float:
        """-2 log-likelihood without ``n log 2 pi`` (NONMEM's and nlmixr2's objective function value)."""
        return self.log_likelihood.ofv

    @property
    def log_prior(self) -> float:
        """Log prior density of the estimates; 0 without priors. The penalised objective is -2 (LL + log prior)."""
        return float(log_prior(self.model, parameter_values(self.model))[0])

    @property
    def aic(self) -> float:
        """Akaike's criterion, -2LL + 2 p."""
        return self.minus2ll + 2 * self.n_parameters

    @property
    def bic(self) -> float:
        """Schwarz's criterion with the number of observations, -2LL + p log n."""
        return self.minus2ll + self.n_parameters * math.log(self.data.n_observations)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields alone: what was derived from them is derived again, in whatever process it comes to."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
