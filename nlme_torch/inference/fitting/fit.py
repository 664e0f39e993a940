"""The one entry point of estimation."""

import copy
import time
from typing import TYPE_CHECKING

import torch

from nlme_torch.data.records.batch import Batch
from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.estimation import FitMethod
from nlme_torch.inference.estimates.method_arguments import check_method
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.fitting.at_estimates import at_estimates
from nlme_torch.inference.fitting.result import Fit
from nlme_torch.inference.likelihood.likelihood import LikelihoodMethod, check_likelihood
from nlme_torch.inference.saem.saem import SAEM
from nlme_torch.model.covariates.levels import learn_levels
from nlme_torch.model.declare.arguments import check_arguments
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.values import assign
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.independence import refuse_mixing
from nlme_torch.model.density.network_scales import set_awaited_scales
from nlme_torch.solve import Solver, choose_solver, despite_compiler

if TYPE_CHECKING:
    from nlme_torch.data import Dataset


def fit(
    model: Model,
    data: "Dataset",
    method: FitMethod | None = None,
    *,
    seed: int = 0,
    solver: Solver | str | None = None,
    likelihood: LikelihoodMethod | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Fit:
    """Estimate a model's parameters from data.

    Args:
        model: The model; its current parameters are the initial values. It is not changed.
        data: The data set.
        method: An estimation method; ``SAEM()`` if None.
        seed: Seed of everything random; the same seed gives the same result, bit for bit on one machine.
        solver: How differential equations are solved: a solver, or one by name ("auto", "tsit5", "rodas5p", "rk4",
            "torchdiffeq") with its defaults; ``Auto()`` if None.
        likelihood: How the marginal likelihood is computed at the end; None takes the method's own approximation where
            it has one, and else chooses by the number of effects.
        device: Where tensors live; the CPU if None.
        progress: Whether to show a tqdm line.

    Returns:
        The fit: parameters, random effects, likelihood, trace. What cannot be computed at the estimates is NaN there
        and named in ``warnings``.

    Raises:
        NLMEError: The data lack something, user code is malformed, or the initial values give no finite density.

    Example:
        >>> import nlme_torch as nlme
        >>> short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=30, smoothing=20))
        >>> model, data = nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline()
        >>> result = nlme.fit(model, data, short, progress=False)
        >>> sorted(result.eta.columns)
        ['eta_cl', 'eta_ka', 'eta_v']
    """
    check_arguments("fit", model, data, seed, device)
    chosen = SAEM() if method is None else method
    check_method("fit", chosen, ("estimate",), "nlme.FOCEI()")
    check_likelihood("fit: likelihood", likelihood)
    if data.n_observations == 0:
        raise FitError("the data set has no observations to fit.")
    begun = time.perf_counter()
    fitted = copy.deepcopy(model).to(device=device)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    batch = data.batch(device=device)
    _refuse_unobserved(batch)
    learn_levels(fitted, batch)
    density = Density(fitted, batch, choose_solver(solver))
    set_awaited_scales(density)
    refuse_mixing(density)
    estimation = despite_compiler(lambda: chosen.estimate(density, generator.manual_seed(seed), progress))
    assign(fitted, estimation.values)
    there = at_estimates(density, estimation, likelihood, generator, progress)
    return Fit(
        model=fitted,
        data=data,
        method=chosen,
        solver=density.solver,
        seed=seed,
        trace=estimation.trace,
        status=Status.INTERRUPTED if there.interrupted else estimation.status,
        termination=estimation.termination,
        warnings=data.warnings + estimation.warnings + there.warnings,
        seconds=time.perf_counter() - begun,
        effects=there.effects,
        log_likelihood=there.log_likelihood,
    )


def _refuse_unobserved(batch: Batch) -> None:
    """A subject without observations says nothing of the parameters; most often its rows were not meant so."""
    seen = torch.stack([outcome.mask.any(0) for outcome in batch.outcomes.values()]).any(0)
    lost = [batch.subjects[place] for place in (~seen).nonzero()[:, 0].tolist()]
    if lost:
        named = ", ".join(map(repr, lost[:5])) + (", ..." if len(lost) > 5 else "")
        raise FitError(
            f"fit: {len(lost)} of {len(seen)} subjects have no observation of any output ({named}); leave them out "
            "with data.subset(ids), or see why their rows do not count (data.describe())."
        )
