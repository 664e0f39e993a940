r"""The bootstrap: the fit repeated on data sets drawn anew.

.. math:: \hat\theta^{(b)} = \arg\max_\theta \ell(\theta; y^{(b)}), \qquad
          \text{standard error} = \operatorname{SD}_b\big(\hat\theta^{(b)}\big)

Every refit is by the method of the fit with its settings, and begins at the estimates. Where the method minimises an
approximate likelihood from one start and leaves the minimiser to the library, all data sets are fitted together on the
start axis: a case bootstrap gives every start its own integer weights of the subjects, a parametric one its own
observations. Other methods refit one data set after the other.

References:
    Efron and Tibshirani (1993), An Introduction to the Bootstrap. doi:10.1201/9780429246593
    Thai, Mentré, Holford, Veyrat-Follet and Comets (2014), Evaluation of bootstrap methods for estimating uncertainty
    of parameters in nonlinear mixed-effects models. doi:10.1007/s10928-013-9343-z
"""

import copy
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from nlme_torch.errors import FitError, NLMEError
from nlme_torch.inference.estimates.estimation import FitMethod, UnrepeatableMethod
from nlme_torch.inference.estimates.fitted import Fitted
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.estimates.method_arguments import check_fit, check_method
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.foce.marginal_method import MarginalMethod
from nlme_torch.inference.information.observed import hessian, positive
from nlme_torch.inference.marginal.objective import MarginalObjective
from nlme_torch.inference.marginal.several_starts import COLUMNS, SeveralValues, evaluate_several
from nlme_torch.inference.numerics.positive_definite import factor_or, root_of_diagonal
from nlme_torch.inference.progress import Progress, progress_line
from nlme_torch.inference.uncertainty.resamples import CaseResamples, ParametricResamples, Resamples
from nlme_torch.inference.uncertainty.sampled import sample_table
from nlme_torch.inference.uncertainty.side_by_side import minimise_side_by_side
from nlme_torch.model.declare.values import flatten_values, free_names, parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.settings import check_level, check_values

INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Bootstrap:
    """Estimates from data sets drawn anew; it prints as a table.

    Attributes:
        kind: ``case`` (subjects drawn with replacement) or ``parametric`` (observations simulated).
        method: How every data set was fitted.
        table: One row per estimated scalar, natural scale: estimate, median, se, rse_percent, lower, upper percentile,
            of the refits that succeeded.
        estimates: One row per data set and one column per scalar; NaN where the refit failed.
        problems: Data set to the reason why its refit failed.
        level: Of the percentiles.
        status: ``COMPLETED``, or ``INTERRUPTED``: the data sets that had been fitted stand.
    """

    kind: str
    method: str
    table: pd.DataFrame
    estimates: pd.DataFrame
    problems: dict[int, str]
    level: float
    status: Status = Status.COMPLETED

    @property
    def failed(self) -> int:
        """Number of data sets whose refit failed; they take no part in the table."""
        return len(self.problems)

    @property
    def covariance(self) -> pd.DataFrame:
        """Covariance matrix of the scalars over the refits that succeeded."""
        return self.estimates.dropna().cov()

    @property
    def correlation(self) -> pd.DataFrame:
        """Correlation matrix of the scalars over the refits that succeeded."""
        return self.estimates.dropna().corr()

    def __str__(self) -> str:
        lines = [
            f"{self.kind} bootstrap by {self.method}: {len(self.estimates)} data sets, {self.failed} refits failed",
            self.table.to_string(float_format=lambda value: f"{value:.5g}"),
        ]
        if self.status is Status.INTERRUPTED:
            done = len(self.estimates.dropna())
            lines.append(f"warning: interrupted; the table is of the {done} data sets that had been fitted")
        elif self.problems:
            number, reason = next(iter(self.problems.items()))
            lines.append(
                f"warning: {self.failed} refits failed and take no part in the table; data set {number}: {reason}"
            )
        return "\n".join(lines)

    __repr__ = __str__


def case_bootstrap(
    fit: Fitted,
    method: FitMethod | None = None,
    *,
    samples: int = 200,
    level: float = 0.95,
    seed: int = 0,
    progress: bool = True,
) -> Bootstrap:
    """Refit to data sets whose subjects were drawn with replacement.

    Args:
        fit: The fit.
        method: How the data sets are fitted; None takes the method of the fit, with its settings.
        samples: Number of data sets.
        level: Of the percentiles.
        seed: Of the draws, and of the fits of a random method.
        progress: Whether to show a tqdm line.

    Returns:
        Standard errors, percentiles and all estimates.

    Raises:
        FitError: The method is not known, or nearly all refits failed.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
        >>> found = nlme.case_bootstrap(fit, samples=20, progress=False)
        >>> found.estimates.shape, found.failed
        ((20, 7), 0)
    """
    _check("case_bootstrap", fit, samples, level, seed)
    draws = CaseResamples.draw(fit.density, samples, torch.Generator().manual_seed(seed))
    return _bootstrap(fit, method, draws, samples, level, seed, progress)


def parametric_bootstrap(
    fit: Fitted,
    method: FitMethod | None = None,
    *,
    samples: int = 200,
    level: float = 0.95,
    seed: int = 0,
    progress: bool = True,
) -> Bootstrap:
    """Refit to data sets simulated from the fitted model, with the design of the data.

    Args:
        fit: The fit.
        method: How the data sets are fitted; None takes the method of the fit, with its settings.
        samples: Number of data sets.
        level: Of the percentiles.
        seed: Of the draws, and of the fits of a random method.
        progress: Whether to show a tqdm line.

    Returns:
        Standard errors, percentiles and all estimates.

    Raises:
        FitError: The method is not known, an outcome cannot be simulated, or nearly all refits failed.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
        >>> nlme.parametric_bootstrap(fit, samples=20, progress=False).kind
        'parametric'
    """
    _check("parametric_bootstrap", fit, samples, level, seed)
    draws = ParametricResamples.draw(fit.density, samples, torch.Generator().manual_seed(seed))
    return _bootstrap(fit, method, draws, samples, level, seed, progress)


def _check(place: str, fit: Fitted, samples: int, level: float, seed: int) -> None:
    check_fit(place, fit)
    check_values(place, FitError, samples=(samples, int), seed=(seed, int))
    check_level(place, FitError, level)
    if samples < 2:
        raise FitError(f"a bootstrap needs at least 2 samples, got {samples}.")


def _bootstrap(
    fit: Fitted, method: FitMethod | None, draws: Resamples, samples: int, level: float, seed: int, progress: bool
) -> Bootstrap:
    check_method(f"{draws.kind}_bootstrap", method, ("estimate",), "nlme.FOCEI()")
    chosen: FitMethod = method or fit.method
    if isinstance(chosen, UnrepeatableMethod):
        raise FitError(
            f"of the method of the fit, {chosen}, nothing but this text is known, so that it cannot be repeated; give "
            "the method, such as method=nlme.SAEM(...)."
        )
    if isinstance(chosen, MarginalMethod):
        chosen = chosen.at(fit.density, parameter_values(fit.model))
    scalars = FreeScalars(fit.model, parameter_values(fit.model))
    with progress_line(samples, f"{draws.kind} bootstrap", progress) as line:
        if isinstance(chosen, MarginalMethod) and at_once(chosen) and len(scalars.vector) == len(scalars.whole):
            vectors, problems = fit_together(fit.density, chosen, draws, samples, scalars, line)
        else:
            vectors, problems = fit_one_by_one(fit.density, chosen, draws, samples, seed, scalars, line)
    interrupted = INTERRUPTED in problems.values()
    if samples - len(problems) < 2 and interrupted:
        raise KeyboardInterrupt  # nothing stands yet
    if samples - len(problems) < 2:
        raise FitError(
            f"{len(problems)} of {samples} refits of the {draws.kind} bootstrap failed; the first: "
            f"{next(iter(problems.values()))}."
        )
    natural = scalars.natural(vectors[:, scalars.kept])
    estimates = pd.DataFrame(natural.numpy(force=True), columns=scalars.names)
    estimates.loc[list(problems)] = float("nan")
    return Bootstrap(
        kind=draws.kind,
        method=str(chosen),
        table=sample_table(scalars.natural(scalars.vector[None])[0].tolist(), estimates.dropna(), level),
        estimates=estimates,
        problems=problems,
        level=level,
        status=Status.INTERRUPTED if interrupted else Status.COMPLETED,
    )


def at_once(method: MarginalMethod) -> bool:
    """Whether the method leaves the search to the library: one start, and no minimiser of the user's choice."""
    return method.optimiser is None and method.starts == 1


def fit_together(
    density: Density, method: MarginalMethod, draws: Resamples, samples: int, scalars: FreeScalars, line: Progress
) -> tuple[Tensor, dict[int, str]]:
    """Fit as many data sets at once as one call of the objective should hold.

    Args:
        density: The model at the parameters where every fit begins, joined to the data whose design all share.
        method: An approximation of the likelihood that leaves the minimiser to the library.
        draws: The data sets.
        samples: How many.
        scalars: The parameters.
        line: Where progress is shown.

    Returns:
        ``(sample, parameter)`` on the estimation scale, and data set to the reason why its fit failed.
    """
    approximation = method.approximation(density)
    objective = MarginalObjective(approximation, scalars.values, method.searches(density))
    curvature = 2 * positive(hessian(objective, scalars.kept))
    factor = factor_or(curvature, root_of_diagonal(curvature))
    scale = torch.linalg.solve_triangular(factor, torch.eye(len(factor)).to(factor), upper=False).mT
    vectors, problems, interrupted = [], {}, False
    for members in torch.arange(samples, device=scalars.whole.device).split(
        max(1, COLUMNS // density.batch.n_subjects)
    ):
        if interrupted:
            vectors.append(scalars.whole.expand(len(members), -1))
            problems.update(dict.fromkeys(members.tolist(), INTERRUPTED))
            continue

        def objectives(points: Tensor, centre: Tensor, which: Tensor, members: Tensor = members) -> SeveralValues:
            several, weights = draws.together(method, members[which])
            return evaluate_several(several, scalars.values, points, centre, gradient=True, weights=weights)

        found = minimise_side_by_side(
            objectives,
            scalars.whole.expand(len(members), -1).clone(),
            objective.centre.expand(-1, len(members), -1).contiguous(),
            scale,
            report=lambda finished: line.advance(f"{draws.kind} bootstrap", count=finished),
        )
        vectors.append(found.vectors)
        for place in (~found.converged).nonzero()[:, 0].tolist():
            lost = not bool(torch.isfinite(found.values[place]))
            reason = "the likelihood has no value at the estimates" if lost else "the minimisation did not converge"
            problems[int(members[place])] = INTERRUPTED if found.interrupted else reason
        interrupted = found.interrupted
    return torch.cat(vectors), problems


def fit_one_by_one(
    density: Density, method: FitMethod, draws: Resamples, samples: int, seed: int, scalars: FreeScalars, line: Progress
) -> tuple[Tensor, dict[int, str]]:
    """Fit one data set after the other by any method; see :func:`fit_together`."""
    names = free_names(density.model)
    vectors, problems = [], {}
    for number in range(samples):
        vector = scalars.whole
        try:
            own = Density(copy.deepcopy(density.model), draws.batch(number), density.solver)
            estimation = method.estimate(own, torch.Generator().manual_seed(seed + number), False)
            if estimation.status is Status.INTERRUPTED:
                raise KeyboardInterrupt
            vector = flatten_values(estimation.values, names)[0]
            if not bool(torch.isfinite(vector).all()):
                problems[number] = "the estimates are not finite"
            elif estimation.status not in (Status.CONVERGED, Status.COMPLETED):
                problems[number] = estimation.termination
        except NLMEError as error:
            problems[number] = str(error)
        except KeyboardInterrupt:
            left = range(number, samples)
            vectors += [scalars.whole] * len(left)
            problems.update(dict.fromkeys(left, INTERRUPTED))
            break
        vectors.append(vector)
        line.advance(f"{draws.kind} bootstrap")
    return torch.stack(vectors), problems
