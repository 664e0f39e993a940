r"""Likelihood profiles: how the maximum of the likelihood falls when one parameter is held elsewhere.

.. math:: \Delta(c) = \min_{\theta : h(\theta) = c} O(\theta) - \min_\theta O(\theta), \qquad
          \text{interval } \{c : \Delta(c) \le \chi^2_1\text{'s quantile}\}

h is a scalar on the natural scale. One raw parameter, the pivot, is eliminated by solving h = c for it, so that what
remains is minimised without constraints; for most scalars the pivot is the parameter itself, for a covariance it is an
entry of a Cholesky factor.

References:
    Venzon and Moolgavkar (1988), A method for computing profile-likelihood-based confidence intervals.
    doi:10.2307/2347496
"""

from dataclasses import dataclass

import pandas as pd

from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.fitted import Fitted
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.estimates.method_arguments import check_fit, check_method
from nlme_torch.inference.foce.marginal_method import MarginalMethod
from nlme_torch.inference.marginal.objective import MarginalObjective
from nlme_torch.inference.progress import progress_line
from nlme_torch.inference.uncertainty.fitted_method import fitted_method
from nlme_torch.inference.uncertainty.profile_search import ProfileSearch
from nlme_torch.inference.uncertainty.standard_errors import normal_quantile
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.settings import check_level, check_values


@dataclass(frozen=True)
class Profile:
    """The likelihood profile of one parameter; it prints as a table.

    Attributes:
        name: The parameter.
        method: Name of the approximation of the likelihood.
        estimate: Its value at the maximum of that likelihood.
        lower: Lower confidence limit; the bound of the parameter where the likelihood does not fall far enough.
        upper: Upper confidence limit.
        level: Of the limits.
        table: One row per value: the value, the fall of -2LL (``difference``), and the other parameters re-estimated
            there, natural scale.
        warnings: Limits that do not exist, points that did not converge.
    """

    name: str
    method: str
    estimate: float
    lower: float
    upper: float
    level: float
    table: pd.DataFrame
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"profile of {self.name} by {self.method}: {self.estimate:.5g}, {100 * self.level:g} % confidence interval "
            f"{self.lower:.5g} to {self.upper:.5g}",
            self.table.to_string(index=False, float_format=lambda value: f"{value:.5g}"),
            *(f"warning: {message}" for message in self.warnings),
        ]
        return "\n".join(lines)

    __repr__ = __str__


def profile(
    fit: Fitted,
    name: str,
    method: MarginalMethod | None = None,
    *,
    level: float = 0.95,
    points: int = 2,
    progress: bool = True,
) -> Profile:
    """Profile the likelihood over one parameter and read its confidence interval off.

    The likelihood is first maximised from the estimates of the fit; from there the parameter is moved outward until the
    likelihood has fallen by the quantile of chi-square with one degree of freedom. With priors, it is the penalised
    objective that is profiled.

    Args:
        fit: The fit.
        name: Of a scalar on the natural scale as fits print it: ``cl``, ``sigma``, ``omega_cl``, ``omega_cl,v``.
        method: The approximation of the likelihood; None takes the one that the fit maximised, ``FOCEI()`` after SAEM.
        level: Of the interval.
        points: Further values on each side between the estimate and the limit, for the picture.
        progress: Whether to show a tqdm line.

    Returns:
        The interval and the profile.

    Raises:
        FitError: There is no such parameter, it was not estimated, or the likelihood has no value at the estimates.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
        >>> found = nlme.profile(fit, "cl", points=0, progress=False)
        >>> round(found.lower, 1), round(found.upper, 1)
        (2.3, 3.3)
    """
    check_fit("profile", fit)
    check_values("profile", FitError, name=(name, str), points=(points, int))
    check_level("profile", FitError, level)
    if points < 0:
        raise FitError(f"profile: points must be 0 or more, got {points}.")
    check_method("profile", method, ("approximation",), "nlme.FOCEI()")
    chosen = method or fitted_method(fit)
    scalars = FreeScalars(fit.model, parameter_values(fit.model))
    if name not in scalars.names:
        raise FitError(
            f"{name!r} is no estimated scalar parameter of the model; profile one of {', '.join(scalars.names)}."
        )
    cut = normal_quantile(level) ** 2
    objective = MarginalObjective(chosen.approximation(fit.density), scalars.values, chosen.searches(fit.density))
    with progress_line(2 * (points + 4), f"profile of {name}", progress) as line:
        search = ProfileSearch(objective, scalars, name, line)
        sides = [search.limit(sign, cut) for sign in (-1, 1)]
        for limit in sides:
            for part in range(1, points + 1):
                search.at(limit.position * part / (points + 1))
        line.finish(f"profile of {name}", len(search.points))
    messages = [limit.message for limit in sides if limit.message] + search.messages
    return Profile(
        name=name,
        method=chosen.name,
        estimate=search.points[0].value,
        lower=sides[0].value,
        upper=sides[1].value,
        level=level,
        table=search.table(),
        warnings=tuple(messages),
    )
