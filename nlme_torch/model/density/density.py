r"""The densities of a model, evaluated for all subjects, chains and starts at once.

.. math:: \log p(y_i, \eta_i \mid \theta) = \log p(y_i \mid \eta_i, \theta) + \log p(\eta_i \mid \Omega)

``Density`` joins a model, a batch and a solver. ``density.at(values)`` fixes the parameters and returns a
``Conditional``, whose methods are functions of the random effects alone: ``(effect, chain, start, subject)`` in,
``(chain, start, subject)`` out. This is the only place where a likelihood is computed; SAEM, FOCE, quadrature and
the rest all read it, and the Pyro program is tested against it.
"""

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.data.records.batch import Batch
from nlme_torch.model.covariates.changing_covariates import changing_covariates
from nlme_torch.model.covariates.levels import coded_covariates, with_levels
from nlme_torch.model.covariates.occasions import occasions
from nlme_torch.model.covariates.regressors import regressors
from nlme_torch.model.declare.log_prior import log_prior
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.user_code import told_by_line
from nlme_torch.model.declare.values import ParameterValues, parameter_values
from nlme_torch.model.density.conditional import LOG_2PI as LOG_2PI
from nlme_torch.model.density.conditional import Conditional as Conditional
from nlme_torch.model.density.joined import Joined
from nlme_torch.model.density.observed import observed_records
from nlme_torch.model.density.plain_arithmetic import PlainArithmetic
from nlme_torch.model.density.probe import probe, refuse_unread
from nlme_torch.model.density.time_zero import begins_at_zero
from nlme_torch.model.dosing.dose_plan import DosePlan, dose_plan
from nlme_torch.model.dosing.dosing import check_dosing
from nlme_torch.model.observation import Correlated
from nlme_torch.model.trajectory.vector_field import VectorFields
from nlme_torch.solve import Solver


class Density(Joined):
    """A model joined to a batch of data and a solver.

    Args:
        model: The model; its parameters are read only where values are not given.
        batch: The data as tensors.
        solver: How differential equations are solved; closed-form models ignore it.

    Raises:
        ModelError: The data lack a covariate or an outcome that the model needs, or user code returns wrong shapes or
            takes numbers out of tensors.
    """

    def __init__(self, model: Model, batch: Batch, solver: Solver) -> None:
        self.model, self.solver = with_levels(model, batch), solver
        self._join(batch)
        with torch.no_grad(), told_by_line(self.model), PlainArithmetic(self.model):
            if begins_at_zero(self.at()):
                self._join(batch.starting_at(0.0))
            probe(self.at())

    def _join(self, batch: Batch) -> None:
        model, self.batch = self.model, batch
        refuse_unread(batch, model)
        self._times = batch.times[:, None, None, :]
        coded, refused = coded_covariates(batch, model)
        self._covariates, self._covariates_between = changing_covariates(batch, coded, refused)
        self._regressors = regressors(model, batch, coded, refused)
        self._position = {
            owner: block.start + index
            for block in model.blocks
            if block.kind == "individual"
            for index, owner in enumerate(block.owners)
        }
        others = [block for block in model.blocks if block.kind != "individual"]
        self._slices = {owner: block.slice_of(owner) for block in others for owner in block.owners}
        self._occasions = occasions(batch, model)
        self._observed = observed_records(batch)
        self.fields = VectorFields(model)
        self._plan = self._read_dosing()

    def refreshed(self) -> "Density":
        """Return this density after reading again what the model's code takes from Python: attributes, globals, lists.

        Made or refreshed within a call of a public function, it shows the model as it is then.
        """
        self.fields = VectorFields(self.model)
        if self.batch.doses is not None:
            self._plan = self._read_dosing()
        return self

    def _read_dosing(self) -> DosePlan | None:
        if not self.model.has_dynamics:
            return None
        with torch.no_grad(), told_by_line(self.model), PlainArithmetic(self.model):
            effects = self._times.new_zeros(self.model.n_effects, 1, 1, self.batch.n_subjects)
            dosing = self.model.dosing(self.at().individual(effects))
            check_dosing(dosing, self.model.states)
        return dose_plan(self.batch, self.model.states, dosing)

    def at(self, values: ParameterValues | None = None) -> "Conditional":
        """Fix the parameters.

        Args:
            values: Raw name to ``(start, *shape)``; the model's own parameters if None.

        Returns:
            The densities as functions of the random effects.
        """
        return Conditional(self, parameter_values(self.model) if values is None else values)

    @property
    def correlated_outcomes(self) -> tuple[tuple[str, str], ...]:
        """Names of the pairs of outcomes whose residual errors are correlated."""
        zero = self._times.new_zeros(self.model.n_effects, 1, 1, self.batch.n_subjects)
        with torch.no_grad():
            _, written = self.at().as_written(zero)[0][0]
        pairs = ((name, kind) for name, kind in written.items() if isinstance(kind, Correlated))
        return tuple((name, kind.partner) for name, kind in pairs if kind.leads)

    def log_prior(self, values: ParameterValues) -> Float[Tensor, "start"]:
        """Return the log prior density of the estimated parameters, zero where none has a prior."""
        return log_prior(self.model, values)
