"""What a fit gives: parameters, random effects, likelihood, predictions, and how far each can be trusted."""

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from nlme_torch.errors import FitError
from nlme_torch.inference.effects.effect_estimates import find_modes
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.fitting.individuals import Individuals
from nlme_torch.inference.fitting.predictions import prediction_table
from nlme_torch.inference.fitting.record import FitRecord
from nlme_torch.inference.fitting.text import render
from nlme_torch.inference.fitting.writing import save
from nlme_torch.inference.foce.marginal_method import MarginalMethod
from nlme_torch.inference.information.observed import Kind
from nlme_torch.inference.residuals.table import diagnostic_table
from nlme_torch.inference.uncertainty.parameter_draws import Plausible, draw_parameters
from nlme_torch.inference.uncertainty.standard_errors import InformationMethod, standard_errors
from nlme_torch.model.declare.arguments import check_arguments
from nlme_torch.model.density.density import Density
from nlme_torch.settings import check_values

if TYPE_CHECKING:
    from nlme_torch.data import Dataset

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit(FitRecord):
    """A fitted model with everything that was learnt about it; it prints as a table.

    Attributes:
        model: The model at its estimates.
        data: The data it was fitted to.
        method: The estimation method with its settings; ``str`` of it is its text.
        solver: How its equations were solved.
        seed: Seed of the fit.
        trace: One row per iteration.
        status: How the method ended.
        termination: The same in a sentence, with numbers.
        warnings: What the reader must know.
        seconds: Wall time of the fit, likelihood and effects included.
        effects: Conditional modes, means, covariances and draws of the random effects.
        log_likelihood: Marginal log-likelihood with its method and diagnostics.
        uncertainty: Standard errors, once :meth:`with_standard_errors` has computed them.
    """

    def with_standard_errors(
        self,
        method: MarginalMethod | InformationMethod | None = None,
        *,
        kind: Kind = "sandwich",
        level: float = 0.95,
    ) -> "Fit":
        """Return the same fit with standard errors, which its tables, its text and its saved copy then show.

        Args:
            method: As for :func:`nlme_torch.standard_errors`.
            kind: ``sandwich`` (R⁻¹SR⁻¹), ``R`` (R⁻¹) or ``S`` (S⁻¹).
            level: Of the confidence limits.

        Raises:
            FitError: The likelihood has no maximum, or what :func:`nlme_torch.standard_errors` raises.

        Example:
            >>> import nlme_torch as nlme
            >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
            >>> fit = nlme.fit(model, data, nlme.FOCEI(), progress=False).with_standard_errors(kind="R")
            >>> fit.parameters.loc["cl", ["estimate", "se"]].round(1).tolist()
            [2.8, 0.2]
        """
        if self.status is Status.UNBOUNDED:
            raise FitError(
                "standard errors cannot be computed: the likelihood has no maximum (fit.termination says where it "
                "rises without end); fix that parameter, or leave out what makes it so."
            )
        return replace(self, uncertainty=standard_errors(self, method, kind=kind, level=level))

    def draw_parameters(
        self, count: int | None = None, *, seed: int, uncertainty: Plausible = "asymptotic"
    ) -> pd.DataFrame:
        """Draw parameter vectors that are as plausible as the estimates, for ``nlme.simulate(uncertainty=...)``.

        Args:
            count: How many; None takes every vector of a sample once.
            seed: Of the draws.
            uncertainty: ``"asymptotic"``: normal on the estimation scale by the standard errors of the fit, so that no
                variance is negative; or other standard errors, the result of ``nlme.sir`` or of a bootstrap, whose
                vectors are taken.

        Returns:
            One row per vector and one column per estimated scalar, natural scale, named as in ``parameters``.

        Raises:
            FitError: A direction is not identified, or there is no vector.

        Example:
            >>> import nlme_torch as nlme
            >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
            >>> fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
            >>> draws = fit.draw_parameters(200, seed=1)
            >>> draws.shape, bool((draws["omega_ka"] > 0).all())
            ((200, 7), True)
        """
        return draw_parameters(self, uncertainty, count, torch.Generator().manual_seed(seed)).table

    def predict(self, times: Any) -> pd.DataFrame:
        """Predict at new times.

        Args:
            times: Times common to all subjects, or a mapping from subject id to times (data's time unit).

        Returns:
            PRED and IPRED at the new times for every subject and outcome, observations left out.
        """
        extended = self.data.with_times(times)
        density = Density(self.model, extended.batch(device=self.effects.modes.device), self.solver)
        table = prediction_table(density, extended, self.effects.modes)
        new = np.flatnonzero(extended.prediction_rows)
        kept = table[table["row"].isin(new)].drop(columns=["row", "DV", "RES", "IRES", "IWRES"])
        return kept.reset_index(drop=True)

    def table(self, *, simulations: int = 1000, seed: int = 0) -> pd.DataFrame:
        """Return data, predictions, residuals, effects and individual parameters, in the rows of the user's table.

        One line for every observation (several where a row holds several outcomes) and one for every other row, doses
        included:

        ======================  ========================================================================================
        row, ID, TIME, OUTCOME  position in the table (from 0), subject, the table's own time, name of the outcome
        DV, CENS, AMT, EVID     as in the data; CENS only where something is censored, AMT and EVID where there are
                                doses (EVID 2 where neither anything is observed nor given)
        PRED, IPRED             expected outcome at effects of zero and at the conditional mode [outcome's unit]; at
                                rows that are no observations too if there is one outcome
        CPRED                   expected outcome by the linearisation at the mode [outcome's unit]
        RES, IRES               DV - PRED, DV - IPRED [outcome's unit]
        WRES, IWRES, CWRES      residuals in standard deviations, WRES and CWRES decorrelated within subjects; of
                                log-normal outcomes on the log scale
        NPD, NPDE               normal prediction discrepancy and distribution error, by simulation
        PEARSON, DEVIANCE       of discrete outcomes at the mode; DEVIANCE of events too
        MARTINGALE, COX_SNELL   of times of events: events less hazard, and hazard, since the subject's row before
        ======================  ========================================================================================

        then the random effects at the conditional modes, the individual parameters there (natural scale), and the
        covariates, with what ``missing=`` filled in.

        A censored value has no RES, IRES, WRES, IWRES and CWRES; its NPD and NPDE are drawn from its conditional
        distribution. What is not defined for an outcome is NaN, or the column is absent;
        ``table.attrs["absent"]`` says why, by column and outcome.

        Args:
            simulations: Simulated values of every observation for NPD and NPDE; 0 leaves both out.
            seed: Of the simulations.

        Returns:
            The table; its ``attrs`` hold ``absent``, ``simulations``, ``seed``, the ``units`` of the data, and
            ``log_scale``: the outcomes whose weighted residuals are of the logarithm.

        Raises:
            FitError: The fit was loaded without its data, or ``simulations`` is no number.

        Example:
            >>> import nlme_torch as nlme
            >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
            >>> fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
            >>> table = fit.table(simulations=200)
            >>> table.shape[0], round(float(table["CWRES"].std()))
            (132, 1)

        References:
            Hooker, Staatz and Karlsson (2007), Conditional weighted residuals (CWRES): a model diagnostic for the FOCE
            method. doi:10.1007/s11095-007-9361-x
            Comets, Brendel and Mentré (2008), Computing normalised prediction distribution errors to evaluate nonlinear
            mixed-effect models. doi:10.1016/j.cmpb.2007.12.002
        """
        check_values("table", FitError, simulations=(simulations, int), seed=(seed, int))
        if simulations < 0:
            raise FitError(f"table: simulations must be 0 or more, got {simulations}.")
        return diagnostic_table(self.density, self.data, self.effects.modes, simulations, seed)

    def individualise(self, data: "Dataset", starts: int = 6, seed: int = 0) -> Individuals:
        """Find the conditional modes of subjects at the estimates: their effects, parameters and predictions.

        Args:
            data: Subjects the model has not seen, or later observations; a subject without any has the effects 0.
            starts: Starting points per subject: zero and draws from the prior.
            seed: Seed of those draws.

        Returns:
            Tables ``eta``, ``eta_sd``, ``parameters`` and ``predictions``, and ``predict`` for the same subjects under
            another regimen. IPRED is NaN, and a warning is logged, for a subject whose mode was not found.

        Raises:
            NLMEError: The data or the settings are not what they should be.

        Example:
            >>> import nlme_torch as nlme
            >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
            >>> fit = nlme.fit(model, data.subset(data.subjects[:11]), nlme.FOCEI(), progress=False)
            >>> patient = fit.individualise(data.subset(data.subjects[11:]))
            >>> sorted(patient.parameters.columns), len(patient.predictions)
            (['cl', 'ka', 'v'], 11)
        """
        check_arguments("individualise", self.model, data, seed)
        check_values("individualise", FitError, starts=(starts, int))
        if not 1 <= starts < 2**31:
            raise FitError(f"individualise: starts must be a whole number of 1 or more, got {starts!r:.60}.")
        density = Density(self.model, data.batch(device=self.effects.modes.device), self.solver)
        conditional = density.at()
        with torch.no_grad():
            draws = conditional.sample(starts - 1, torch.Generator().manual_seed(seed))[:, :, 0]
            origin = draws.new_zeros(draws.shape[0], 1, draws.shape[-1])
        modes = find_modes(conditional, torch.cat([origin, draws], dim=1))
        lost = (~torch.isfinite(modes.effects).all(0)).nonzero()[:, 0].tolist()
        if lost:
            named = ", ".join(str(data.subjects[place]) for place in lost[:5])
            _log.warning("no conditional mode was found for %d subjects (%s): their IPRED is NaN", len(lost), named)
        covariances = torch.linalg.inv_ex(modes.precision.movedim(-1, 0)).inverse
        deviations = covariances.diagonal(dim1=-2, dim2=-1).mT.sqrt()
        return Individuals(density, data, modes.effects, deviations)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the fit to a directory of JSON, safetensors and CSV files; see :func:`nlme_torch.load`.

        Args:
            path: The directory, made if absent.
            overwrite: Replace a fit that already stands there.

        Returns:
            The directory.

        Raises:
            FitError: A file or directory stands there and ``overwrite`` is False.
        """
        check_values("save", FitError, path=(path, str | os.PathLike), overwrite=(overwrite, bool))
        return save(self, Path(path), overwrite=overwrite)

    def __repr__(self) -> str:
        return render(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return f"<pre>{render(self)}</pre>"
