"""Objective function values at given parameters, without any estimation."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.errors import FitError
from nlme_torch.inference.effects.unseen import effects_for_likelihood
from nlme_torch.inference.estimates.method_arguments import check_method
from nlme_torch.inference.fitting.solver_error import solver_warnings
from nlme_torch.inference.fitting.tables import effect_table
from nlme_torch.inference.foce.end import natural_effects
from nlme_torch.inference.foce.focei import FOCEI
from nlme_torch.inference.foce.marginal_method import MarginalMethod
from nlme_torch.inference.likelihood.doubtful_modes import doubtful_modes, modes_at_kinks, next_modes
from nlme_torch.inference.likelihood.likelihood import LikelihoodMethod, evaluate_likelihood
from nlme_torch.inference.marginal.expansion_points import expand, search_modes, solves_equations
from nlme_torch.inference.marginal.laplace import exact_curvature
from nlme_torch.inference.marginal.quadrature import next_rule
from nlme_torch.inference.modes.conditional_modes import ModeStatus
from nlme_torch.inference.pooled.pooled import Pooled
from nlme_torch.model.covariates.levels import learn_levels
from nlme_torch.model.declare.arguments import check_arguments
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.natural import values_from_natural
from nlme_torch.model.declare.values import ParameterValues, assign, parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.independence import refuse_mixing
from nlme_torch.model.density.normal_observations import normal_observations
from nlme_torch.solve import Solver, choose_solver

if TYPE_CHECKING:
    from nlme_torch.data import Dataset


@dataclass(frozen=True)
class ObjectiveValue:
    """An approximate -2 log-likelihood at given parameters; it prints as one line.

    Attributes:
        method: Name of the approximation.
        minus2ll: -2 log-likelihood with all constants; infinite if a subject failed.
        ofv: The same without ``n log 2 pi`` (NONMEM's and nlmixr2's objective function value).
        log_prior: Log prior density of the parameters, 0 without priors.
        subjects: One row per subject: id, ofv, minus2ll, n_observations, status of its mode, and next_mode: how much
            higher -2 log joint density is at a second mode, NaN where none was found.
        modes: Conditional modes of the random effects, one row per subject (FO: the linear predictor).
        curvatures: H at the modes, ``(effect, effect, subject)``.
        standard_error: Monte-Carlo standard error of ``minus2ll``; 0 for a deterministic method.
        next_rule: Of quadrature: ``minus2ll`` by the rule with two more nodes per effect; else NaN.
        warnings: What may make the value wrong: subjects for which one mode does not say enough, the solver's error,
            bad importance weights.
    """

    method: str
    minus2ll: float
    ofv: float
    log_prior: float
    subjects: pd.DataFrame
    modes: pd.DataFrame
    curvatures: Float[Tensor, "effect effect subject"]
    standard_error: float = 0.0
    next_rule: float = math.nan
    warnings: tuple[str, ...] = ()

    @property
    def penalised(self) -> float:
        """-2 (log-likelihood + log prior): what a MAP fit minimises. Not a likelihood."""
        return self.minus2ll - 2 * self.log_prior

    def __str__(self) -> str:
        text = f"OFV {self.ofv:.6f}, -2LL {self.minus2ll:.6f}, by {self.method}"
        if self.standard_error:
            text = (
                f"OFV {self.ofv:.3f}, -2LL {self.minus2ll:.3f} (Monte-Carlo SE {self.standard_error:.2g}), "
                f"by {self.method}"
            )
        if not math.isnan(self.next_rule):
            text += f" (next rule {self.next_rule - self.minus2ll:+.2g})"
        if self.log_prior:
            text += f"; with priors: penalised objective {self.penalised:.6f} (not a likelihood)"
        failed = self.subjects[~self.subjects["status"].isin(["CONVERGED", "STALLED", "SAMPLED"])]
        if len(failed):
            text += f"; no value for {len(failed)} subjects: {', '.join(map(str, failed['id'].head(5)))}"
        return "; ".join([text, *self.warnings])

    __repr__ = __str__


def ofv(
    model: Model,
    data: "Dataset",
    method: MarginalMethod | Pooled | LikelihoodMethod | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    solver: Solver | str | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> ObjectiveValue:
    """Evaluate an approximation of the marginal likelihood, estimating nothing.

    Args:
        model: The model; it is not changed.
        data: The data set.
        method: ``FO()``, ``FOCE()``, ``FOCEI()``, ``Laplace()``, ``Quadrature(nodes=)``, ``Pooled()`` for the
            likelihood of typical subjects, or ``ImportanceSampling(samples)``, ``AnnealedImportanceSampling()`` and
            other methods of :func:`nlme.loglik`, whose value comes with its Monte-Carlo error; ``FOCEI()`` if None.
        params: Name to value on the natural scale, as fits print them (``ka``, ``sigma``, ``omega_ka`` for a variance,
            ``omega_ka,cl`` for a covariance); also the name of an Omega block to a whole matrix, or of a network to
            its weights. Parameters not named keep the model's own values.
        solver: How differential equations are solved; ``Auto()`` if None or "auto".
        device: Where tensors live; the CPU if None.
        seed: Seed of further starting points for the modes, and of Monte-Carlo methods.

    Returns:
        Total and per-subject values, conditional modes, curvatures and statuses.

    Raises:
        FitError: Unknown names, values out of bounds, Omega not positive definite, too many quadrature nodes, or an
            outcome that the method cannot take.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> nlme.ofv(model, data, nlme.FOCEI(), params={"ka": 1.6, "sigma": 0.7, "omega_v": 0.02})
        OFV 117.443622, -2LL 360.043395, by FOCEI
    """
    check_arguments("ofv", model, data, seed, device)
    if data.n_observations == 0:
        raise FitError("the data set has no observations to evaluate.")
    check_method("ofv", method, ("approximation", "log_marginal"), "nlme.FOCEI()")
    chosen: MarginalMethod | Pooled | LikelihoodMethod = method or FOCEI()
    model = copy.deepcopy(model).to(device=device)
    batch = data.batch(device=device)
    learn_levels(model, batch)
    values = parameter_values(model) if params is None else values_from_natural(model, params)
    density = Density(model, batch, choose_solver(solver))
    refuse_mixing(density)
    if not isinstance(chosen, MarginalMethod | Pooled):
        return _sampled(chosen, density, values, seed)
    if isinstance(chosen, MarginalMethod):
        chosen = chosen.at(density, values)
    approximation = chosen.approximation(density)
    centre = approximation.origin(1)
    gap = None
    searches = chosen.searches(density)
    if searches > 1 and approximation.has_modes:
        with torch.no_grad():
            conditional = density.at(values)
        best = search_modes(approximation.integrand(conditional), centre, searches, seed, solves_equations(model))
        centre = torch.where(torch.isfinite(best.modes.value), best.modes.effects, 0.0)[:, None]
        gap = best.gap
    found = expand(approximation, values, centre)
    value = found.evaluation.value[0]
    batch = density.batch
    counts = torch.stack([outcome.mask.sum(0) for outcome in batch.outcomes.values()]).sum(0)
    without = value - normal_observations(density).to(value.dtype) * math.log(2 * math.pi)
    eta, curvature = natural_effects(approximation, values, found)
    subjects = pd.DataFrame(
        {
            "id": list(batch.subjects),
            "ofv": without.numpy(force=True),
            "minus2ll": value.numpy(force=True),
            "n_observations": counts.numpy(force=True),
            "status": [ModeStatus(status).name for status in found.status[0].tolist()],
            "next_mode": next_modes(gap, len(value)).numpy(force=True),
        }
    )
    following = next_rule(approximation, values, found.evaluation.centre)
    assign(model, values)
    return ObjectiveValue(
        method=chosen.name,
        minus2ll=float(value.sum()),
        ofv=float(without.sum()),
        log_prior=float(density.log_prior(values)[0]),
        subjects=subjects,
        modes=effect_table(model, batch.subjects, eta),
        curvatures=curvature,
        next_rule=math.nan if following is None else -2 * float(following.sum()),
        warnings=(
            *doubtful_modes(chosen.name, batch.subjects, gap, exact_curvature(approximation, found.evaluation)),
            *modes_at_kinks(chosen.name, approximation, values, found),
            *solver_warnings(density, eta, then="evaluate again"),
        ),
    )


def _sampled(method: LikelihoodMethod, density: Density, values: ParameterValues, seed: int) -> ObjectiveValue:
    """The value by a method that integrates over the effects rather than expanding at their modes."""
    assign(density.model, values)
    generator = torch.Generator().manual_seed(seed)
    effects = effects_for_likelihood(density, generator)
    found = evaluate_likelihood(density, effects, method, generator)
    normal = normal_observations(density).numpy(force=True)
    counts = torch.stack([outcome.mask.sum(0) for outcome in density.batch.outcomes.values()]).sum(0)
    minus2ll = -2 * found.subjects["log_likelihood"]
    subjects = pd.DataFrame(
        {
            "id": found.subjects["id"],
            "ofv": minus2ll - normal * math.log(2 * math.pi),
            "minus2ll": minus2ll,
            "n_observations": counts.numpy(force=True),
            "status": ["SAMPLED" if math.isfinite(value) else "FAILED" for value in minus2ll],
            "standard_error": 2 * found.subjects["standard_error"],
            "effective_size": found.subjects["effective_size"],
            "k_hat": found.subjects["k_hat"],
        }
    )
    return ObjectiveValue(
        method=found.method,
        minus2ll=found.minus2ll,
        ofv=found.ofv,
        log_prior=float(density.log_prior(values)[0]),
        subjects=subjects,
        modes=effect_table(density.model, density.batch.subjects, effects.modes),
        curvatures=effects.precision,
        standard_error=2 * found.standard_error,
        next_rule=found.next_rule,
        warnings=found.warnings + solver_warnings(density, effects.modes, then="evaluate again"),
    )
