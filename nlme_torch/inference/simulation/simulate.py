"""Simulation from a model or a fit: one data set, or many replicates with the uncertainty of the estimates."""

import copy
import logging
from typing import Any, overload

import pandas as pd
import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.data import Dataset, Regimen
from nlme_torch.errors import FitError, ModelError
from nlme_torch.inference.fitting.record import FitRecord
from nlme_torch.inference.simulation.population import population
from nlme_torch.inference.simulation.replicates import draw_replicates
from nlme_torch.inference.simulation.result import Simulation
from nlme_torch.inference.uncertainty.parameter_draws import ParameterDraws, Plausible, draw_parameters
from nlme_torch.model.declare.arguments import check_arguments
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.values import assign, parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.simulation import simulate as simulate_once
from nlme_torch.model.density.time_switches import switch_warnings
from nlme_torch.model.observation import IntervalCensoredEvent, TimeToEvent
from nlme_torch.solve import Solver, choose_solver

_log = logging.getLogger(__name__)


@overload
def simulate(
    model: Model | FitRecord,
    data: Dataset | Regimen,
    *,
    seed: int,
    eta: Float[Tensor, "effect subject"] | None = ...,
    solver: Solver | str | None = ...,
    times: Any = ...,
    subjects: int | None = ...,
    covariates: Any = ...,
    residual: bool = ...,
    replicates: None = ...,
    uncertainty: None = ...,
) -> Dataset: ...


@overload
def simulate(
    model: Model | FitRecord,
    data: Dataset | Regimen,
    *,
    seed: int,
    eta: Float[Tensor, "effect subject"] | None = ...,
    solver: Solver | str | None = ...,
    times: Any = ...,
    subjects: int | None = ...,
    covariates: Any = ...,
    residual: bool = ...,
    replicates: int | None = ...,
    uncertainty: Plausible | None = ...,
) -> Dataset | Simulation: ...


def simulate(
    model: Model | FitRecord,
    data: Dataset | Regimen,
    *,
    seed: int,
    eta: Float[Tensor, "effect subject"] | None = None,
    solver: Solver | str | None = None,
    times: Any = None,
    subjects: int | None = None,
    covariates: Any = None,
    residual: bool = True,
    replicates: int | None = None,
    uncertainty: Plausible | None = None,
) -> Dataset | Simulation:
    r"""Draw random effects and observations of every subject, once or in many replicates.

    .. math:: \eta_i \sim N(0, \Omega), \qquad y_{ij} \sim p(y \mid f(t_{ij}; \eta_i), \sigma)

    With ``uncertainty=`` every replicate has parameters of its own, drawn from what is known of the estimates.

    A subject has one event at most, and its rows of that outcome end there: a ``TimeToEvent`` puts a row at its time,
    or leaves 0 in the last row where none happens until then; an ``IntervalCensoredEvent`` has 1 in the first row after
    it.

    Args:
        model: A fit, or a model whose own parameters are the truth.
        data: Who gets which doses and when to look: data whose observations are to be replaced, a design of
            ``Dataset.from_regimen`` or ``with_regimen``, or, from a fit, a regimen for new subjects.
        seed: Seed of all draws.
        eta: Random effects to use in place of draws, ``(effect, subject)``.
        solver: How differential equations are solved; if None that of the fit, or ``Auto()``.
        times: When new subjects under a regimen are looked at [data's unit of time].
        subjects: How many. Those of a data set, or the lines of a table of covariates, are drawn with replacement.
        covariates: Of new subjects under a regimen: a table with one line for each; a data set (``fit.data``), whose
            subjects' lines are meant; or a mapping from name to one value, one for each, or a distribution.
        residual: Whether observations have residual error; without it they are expectations given the effects.
        replicates: How many times all subjects are simulated; None: once, as a data set.
        uncertainty: Parameters of each replicate: ``"asymptotic"`` draws them by the standard errors of the fit
            (computed if it has none), normal on the estimation scale; or standard errors, the result of
            ``nlme.sir`` or of a bootstrap, or a table of parameter vectors (columns named as fits print them), whose
            vectors are used once each unless ``replicates`` says otherwise. None: the estimates.

    Returns:
        A data set with one column for every outcome; with ``replicates`` or ``uncertainty`` a :class:`Simulation` of
        all replicates.

    Raises:
        NLMEError: The equations of a subject cannot be solved, an outcome cannot be drawn, events are several, or
            arguments do not fit together.

    Example:
        >>> import nlme_torch as nlme
        >>> data = nlme.simulate(nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline(), seed=1)
        >>> data
        Dataset of 12 subjects, 132 rows
          observations  conc 132
          covariates    Wt, Dose
        >>> fit = nlme.fit(nlme.examples.TheophyllineClosedForm(), data, nlme.FOCEI(), progress=False)
        >>> many = nlme.simulate(fit, data, seed=2, subjects=500, replicates=20, uncertainty="asymptotic")
        >>> many.observations["conc"].shape, sorted(many.parameters)[:2]
        ((20, 5500), ['cl', 'ka'])
    """
    fit = model if isinstance(model, FitRecord) else None
    own = model.model if isinstance(model, FitRecord) else model
    outputs = fit.data.outputs if fit is not None and isinstance(data, Regimen) else None
    generator = torch.Generator().manual_seed(_checked(own, seed, replicates))
    design = population(data, times, subjects, covariates, outputs, generator)
    check_arguments("simulate", own, design, seed, fits=False)
    chosen = fit.solver if fit is not None and solver is None else choose_solver(solver)
    if replicates is None and uncertainty is None:
        return simulate_once(own, design, seed=seed, eta=eta, solver=chosen, residual=residual)
    draws = _parameters(fit, own, uncertainty, replicates, generator)
    density = Density(own, design.batch(), chosen)
    if eta is not None and eta.shape != (own.n_effects, density.batch.n_subjects):
        raise ModelError(
            f"simulate: eta has the shape {tuple(eta.shape)}, and the model has {own.n_effects} effects of "
            f"{density.batch.n_subjects} subjects: give {(own.n_effects, density.batch.n_subjects)}."
        )
    warnings = list(switch_warnings(density))
    if uncertainty is not None and own.has_network:
        warnings.append("network weights are those of the estimates in all replicates; only the others were drawn")
    if _has_events(density):
        sets = _one_by_one(own, design, draws, eta, chosen, residual, generator)
        result = Simulation(design, draws.table, {}, {}, sets, tuple(warnings))
    else:
        total = len(draws.table) * density.batch.n_subjects
        observations, means, failed = draw_replicates(density, design, draws.values, eta, residual, generator)
        if failed:
            total = len(draws.table) * density.batch.n_subjects
            warnings.append(
                f"the equations of {failed} of {total} simulated subjects could not be solved; they are NaN"
            )
        if failed == len(draws.table) * density.batch.n_subjects:
            raise ModelError("simulate: no subject's equations can be solved; check parameters and Omega.")
        result = Simulation(design, draws.table, observations, means, (), tuple(warnings))
    for warning in warnings:
        _log.warning(warning)
    return result


def _checked(model: Any, seed: Any, replicates: Any) -> int:
    """The seed, if it is one."""
    if replicates is not None and (not isinstance(replicates, int) or isinstance(replicates, bool) or replicates < 1):
        raise FitError(f"simulate: replicates must be a whole number of 1 or more, got {replicates!r}.")
    try:
        return int(torch.Generator().manual_seed(seed).initial_seed())
    except (TypeError, RuntimeError, ValueError, OverflowError):
        raise FitError(f"simulate: seed must be a whole number of 64 bits, got {seed!r}.") from None


def _parameters(
    fit: FitRecord | None, model: Model, source: Any, replicates: int | None, generator: torch.Generator
) -> ParameterDraws:
    """The parameters of every replicate."""
    if source is None:
        assert replicates is not None
        return ParameterDraws(parameter_values(model, replicates), pd.DataFrame(index=pd.RangeIndex(replicates)))
    if fit is None:
        raise FitError("simulate: uncertainty= is that of a fit, and a model was given; pass the fit.")
    return draw_parameters(fit, source, replicates, generator)


def _has_events(density: Density) -> bool:
    with torch.no_grad():
        zero = density.at().mean.new_zeros(density.model.n_effects, 1, 1, density.batch.n_subjects)
        observed, _ = density.at().observe(zero)
    return any(isinstance(observed[name], TimeToEvent | IntervalCensoredEvent) for name in density.batch.outcomes)


def _one_by_one(
    model: Model,
    design: Dataset,
    draws: ParameterDraws,
    eta: Tensor | None,
    solver: Solver,
    residual: bool,
    generator: torch.Generator,
) -> tuple[Dataset, ...]:
    """Replicates whose rows are their own, as times of events make them."""
    one, sets = copy.deepcopy(model), []
    for replicate in range(len(draws.table)):
        assign(one, draws.values, replicate)
        seed = int(torch.randint(2**62, (1,), generator=generator))
        sets.append(simulate_once(one, design, seed=seed, eta=eta, solver=solver, residual=residual))
    return tuple(sets)
