r"""Stepwise selection of covariate effects by likelihood ratios.

Forward, the candidate whose addition lowers -2 log-likelihood with the smallest p-value is taken as long as that is
below a level; then, backward, the effect whose removal raises it with the largest p-value is given up as long as that
is above another level.

.. math:: \Delta = -2 \log L_{without} + 2 \log L_{with} \sim \chi^2_d

Every step tests many candidates and takes the best, so that its p-value is no measure of evidence: under no effect at
all, the smallest of m independent p-values is below alpha with the probability :math:`1 - (1 - \alpha)^m`. The table
therefore has Bonferroni's p beside it, m times the p-value, m counting the candidates of the step; and effects that
were selected are biased away from zero.

References:
    Jonsson and Karlsson (1998), Automated covariate model building within NONMEM. doi:10.1023/A:1011970125687
    Ribbing and Jonsson (2004), Power, selection bias and predictive performance of the population pharmacokinetic
    covariate model. doi:10.1023/B:JOPA.0000034404.86036.72
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from scipy.stats import chi2

from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.estimation import Estimation, FitMethod
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.fitting.fit import fit
from nlme_torch.inference.fitting.result import Fit
from nlme_torch.inference.foce.focei import FOCEI
from nlme_torch.inference.foce.marginal_method import MarginalMethod
from nlme_torch.model.covariates.levels import learn_levels
from nlme_torch.model.declare.arguments import check_arguments
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.values import assign
from nlme_torch.model.density.density import Density
from nlme_torch.model.parameters.covariate_effects import CovariateEffect
from nlme_torch.model.parameters.individual_parameters import IndividualParameter
from nlme_torch.model.parameters.named_modules import NamedModules
from nlme_torch.settings import check_level
from nlme_torch.solve import Solver, choose_solver

if TYPE_CHECKING:
    from nlme_torch.data import Dataset

Candidates = Mapping[str, CovariateEffect | Sequence[CovariateEffect]]
Place = tuple[str, int]  # parameter, and which of its candidates


@dataclass(frozen=True)
class CovariateSearch:
    """What a search for covariate effects tried; it prints as a table.

    Attributes:
        best: The fit of the selected model.
        base: -2 log-likelihood of the model without candidates.
        table: One row per model tried: step, direction (``forward``, ``backward``), parameter, covariate, effect (its
            class), minus2ll, chi2, df, p, p_bonferroni (times the candidates of the step, at most 1), taken (added or
            given up) and problem (why it was not fitted, else empty).
        selected: Parameter and covariate of the effects that were taken.
        forward: Level of the forward steps.
        backward: Level of the backward steps.
        method: Name of the approximation of the likelihood.
    """

    best: Fit
    base: float
    table: pd.DataFrame
    selected: tuple[tuple[str, str], ...]
    forward: float
    backward: float
    method: str

    def __str__(self) -> str:
        names = ", ".join(f"{covariate} on {parameter}" for parameter, covariate in self.selected) or "no effect"
        lines = [
            f"covariate search by {self.method}: {names} taken, {len(self.table)} models tried (forward p < "
            f"{self.forward:g}, backward p > {self.backward:g}; p-values are of single tests, p_bonferroni counts the "
            "candidates of the step)",
            self.table.to_string(index=False, float_format=lambda value: f"{value:.4g}"),
        ]
        return "\n".join(lines)

    __repr__ = __str__


def covariate_search(
    model: Model,
    data: "Dataset",
    candidates: Candidates,
    method: FitMethod | None = None,
    *,
    forward: float = 0.05,
    backward: float = 0.01,
    seed: int = 0,
    solver: Solver | str | None = None,
    progress: bool = True,
) -> CovariateSearch:
    """Select covariate effects step by step, forward and then backward.

    Args:
        model: The model without the candidates.
        data: The data set.
        candidates: Individual parameter to the effects that it may have, e.g. ``{"cl": [nlme.Power("WT", ref=70),
            nlme.Shift("AGE", ref=40)], "v": nlme.Power("WT", ref=70)}``; of effects of one covariate on one parameter
            one is taken at most.
        method: An approximation of the likelihood (FO, FOCE, FOCEI, Laplace, quadrature); ``FOCEI()`` if None.
        forward: A candidate is added if its p-value is below.
        backward: An added effect is given up if its p-value is above.
        seed: Seed of the fits.
        solver: How differential equations are solved; ``Auto()`` if None.
        progress: Whether to show a tqdm line of the last fit.

    Returns:
        The selected model's fit and every model that was tried.

    Raises:
        FitError: A parameter is none that varies between subjects or has an effect of the covariate already, or the
            model without candidates cannot be fitted.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> found = nlme.covariate_search(model, data, {"v": nlme.Power("Wt", ref=70.0)}, progress=False)
        >>> len(found.table), found.selected
        (1, ())
    """
    check_arguments("covariate_search", model, data, seed)
    chosen = FOCEI() if method is None else method
    if not isinstance(chosen, MarginalMethod):
        raise FitError(
            f"covariate_search compares likelihoods, and {type(chosen).__name__} computes none that repeats exactly; "
            "use nlme.FOCEI() or another method of its kind."
        )
    check_level("covariate_search (forward)", FitError, forward)
    check_level("covariate_search (backward)", FitError, backward)
    if not isinstance(candidates, Mapping):
        raise FitError(
            "covariate_search: candidates must be a mapping from parameters to effects, such as {'cl': "
            f"nlme.Power('WT', ref=70)}}, got {candidates!r:.60}."
        )
    offered = {name: [e] if isinstance(e, CovariateEffect) else list(e) for name, e in candidates.items()}
    _check(model, offered)
    search = _Search(model, data, offered, chosen, seed, choose_solver(solver))
    base = search.estimate((), model)
    if base is None:
        raise FitError(f"covariate_search: the model without candidates cannot be fitted: {search.problem}.")
    taken: tuple[Place, ...] = ()
    current, value, step = base[0], base[1], 0
    while True:
        step += 1
        left = [place for place in search.places if not search.clashes(place, taken)]
        found = search.step(step, "forward", left, taken, current, value)
        if found is None or found[2] >= forward:
            break
        search.last["taken"] = True
        taken, (current, value) = (*taken, found[0]), found[1]
    while taken:
        step += 1
        found = search.step(step, "backward", list(taken), taken, current, value)
        if found is None or found[2] <= backward:
            break
        search.last["taken"] = True
        taken, (current, value) = tuple(place for place in taken if place != found[0]), found[1]
    best = fit(current, data, chosen, seed=seed, solver=search.solver, progress=progress)
    columns = [
        "step", "direction", "parameter", "covariate", "effect", "minus2ll", "chi2", "df", "p", "p_bonferroni",
        "taken", "problem",
    ]  # fmt: skip
    return CovariateSearch(
        best=best,
        base=base[1],
        table=pd.DataFrame(search.rows, columns=columns),
        selected=tuple((name, offered[name][place].covariate) for name, place in taken),
        forward=forward,
        backward=backward,
        method=chosen.name,
    )


class _Search:
    """Fits models with some of the candidates and keeps what was tried."""

    def __init__(
        self,
        model: Model,
        data: "Dataset",
        offered: Mapping[str, Sequence[CovariateEffect]],
        method: MarginalMethod,
        seed: int,
        solver: Solver,
    ) -> None:
        self.model, self.offered, self.method, self.seed, self.solver = model, offered, method, seed, solver
        self.batch = data.batch()
        self.places: list[Place] = [(name, k) for name, effects in offered.items() for k in range(len(effects))]
        self.rows: list[dict[str, object]] = []
        self.problem = ""
        self.last: dict[str, object] = {}

    def clashes(self, place: Place, taken: Sequence[Place]) -> bool:
        """Whether an effect of the same covariate on the same parameter was taken."""
        name, index = place
        covariate = self.offered[name][index].covariate
        return any(name == other and covariate == self.offered[name][k].covariate for other, k in taken)

    def estimate(self, taken: Sequence[Place], start: Model) -> tuple[Model, float] | None:
        """Fit the model with some effects, from the values of another; None, and a problem, where that fails."""
        built = copy.deepcopy(self.model)
        for name, index in taken:
            component = getattr(built, name)
            effect = copy.deepcopy(self.offered[name][index])
            component.covariates = NamedModules({**component.effects, effect.covariate: effect})
        learn_levels(built, self.batch)
        known, own = dict(start.named_parameters()), dict(built.named_parameters())
        with torch.no_grad():
            for name, parameter in own.items():
                if name in known and known[name].shape == parameter.shape:
                    parameter.copy_(known[name])
        density = Density(built, self.batch, self.solver)
        try:
            found: Estimation = self.method.estimate(density, torch.Generator().manual_seed(self.seed), False)
        except FitError as error:
            self.problem = str(error).rstrip(".")
            return None
        if found.status is Status.INTERRUPTED:
            raise KeyboardInterrupt
        if found.status is not Status.CONVERGED or found.log_likelihood is None:
            self.problem = found.termination
            return None
        assign(built, found.values)
        return built, found.log_likelihood.minus2ll

    def step(
        self, number: int, direction: str, places: Sequence[Place], taken: Sequence[Place], current: Model, value: float
    ) -> tuple[Place, tuple[Model, float], float] | None:
        """Try every candidate; return the best with its model and p-value, None where none could be fitted."""
        tried: list[tuple[float, float, Place, tuple[Model, float], dict[str, object]]] = []
        for place in places:
            name, index = place
            effect = self.offered[name][index]
            others = [entry for entry in taken if entry != place]
            found = self.estimate([*others, place] if direction == "forward" else others, current)
            larger = (found[0] if found else None) if direction == "forward" else current
            row: dict[str, object] = {
                "step": number, "direction": direction, "parameter": name, "covariate": effect.covariate,
                "effect": type(effect).__name__, "taken": False, "problem": "" if found else self.problem,
            }  # fmt: skip
            self.rows.append(row)
            if found is None or larger is None:
                continue
            df = int(getattr(larger, name).effects[effect.covariate].beta.numel())
            difference = value - found[1] if direction == "forward" else found[1] - value
            p = float(chi2.sf(max(difference, 0.0), df))
            row |= {"minus2ll": found[1], "chi2": difference, "df": df, "p": p}
            row["p_bonferroni"] = min(1.0, p * len(places))
            tried.append((p, -difference, place, found, row))
        if not tried:
            return None
        pick = min if direction == "forward" else max
        p, _, place, model, row = pick(tried, key=lambda entry: entry[:2])
        self.last = row
        return place, model, p


def _check(model: Model, offered: Mapping[str, Sequence[CovariateEffect]]) -> None:
    for name, effects in offered.items():
        component = model.components.get(name)
        if not isinstance(component, IndividualParameter):
            raise FitError(f"covariate_search: {name!r} is no individual parameter of the model.")
        for effect in effects:
            if not isinstance(effect, CovariateEffect):
                raise FitError(
                    f"covariate_search: candidates of {name!r} are nlme.Power or nlme.Shift, not {effect!r}."
                )
            if effect.covariate in component.effects:
                raise FitError(f"covariate_search: {name!r} has an effect of {effect.covariate!r} already.")
            if not effect.beta.requires_grad:
                raise FitError(
                    f"covariate_search: the effect of {effect.covariate!r} on {name!r} is fixed, so that there is "
                    "nothing to test."
                )
