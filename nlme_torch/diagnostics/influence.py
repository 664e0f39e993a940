r"""What a fit would be without one of its subjects, by one step from the scores of all.

With the objective :math:`O = \sum_i O_i` (-2 log-likelihood, priors included), its Hessian :math:`2R` and the score of
subject i at the estimates,

.. math:: \hat\theta^{(-i)} \approx \hat\theta + \tfrac12 R^{-1} \nabla O_i, \qquad
          D_i = \tfrac14 \nabla O_i^\top R^{-1} \nabla O_i

D is Cook's likelihood displacement, :math:`2 (\ell(\hat\theta) - \ell(\hat\theta^{(-i)}))` to second order: how far the
subject moves the estimates in units of their joint confidence region. The step is that of the infinitesimal jackknife;
it is short where a subject holds much of the information itself.

References:
    Cook (1986), Assessment of local influence. doi:10.1111/j.2517-6161.1986.tb01398.x
    Pregibon (1981), Logistic regression diagnostics. doi:10.1214/aos/1176345513 (one-step deletion)
    Jaeckel (1972), The infinitesimal jackknife, Bell Laboratories MM 72-1215-11.
"""

import pandas as pd
import torch
from scipy import stats

from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.estimates.method_arguments import check_fit
from nlme_torch.inference.foce.marginal_method import MarginalMethod
from nlme_torch.inference.information.observed import hessian
from nlme_torch.inference.marginal.objective import MarginalObjective, subject_gradients
from nlme_torch.inference.numerics import linear_algebra
from nlme_torch.inference.uncertainty.fitted_method import fitted_method
from nlme_torch.model.declare.values import parameter_values


def subject_influence(fit: Fit, method: MarginalMethod | None = None) -> pd.DataFrame:
    """Estimate what every parameter would be without each subject.

    Args:
        fit: A fit that maximises the likelihood of ``method``.
        method: The approximation of the likelihood; None takes the one that the fit maximised, else ``FOCEI()``.

    Returns:
        One row per subject, indexed by id, the most influential first: displacement (Cook's D), p_value (of D as
        chi-squared with as many degrees of freedom as parameters: which confidence region the estimates would leave
        for; near 1 means no influence), and for every parameter its estimate without the subject.

    Raises:
        FitError: Nothing is estimated, or the objective has no value near the estimates.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
        >>> nlme.diagnostics.subject_influence(fit).shape
        (12, 9)
    """
    check_fit("subject_influence", fit)
    chosen = method or fitted_method(fit)
    density = fit.density
    scalars = FreeScalars(fit.model, parameter_values(fit.model))
    chosen = chosen.at(density, scalars.values)
    approximation = chosen.approximation(density)
    objective = MarginalObjective(approximation, scalars.values, chosen.searches(density))
    scores = subject_gradients(approximation, objective.at(objective.initial), objective.centre)[:, scalars.kept]
    information = hessian(objective, scalars.kept)
    steps = linear_algebra.solve(information, 0.5 * scores.mT).mT
    displacement = 0.5 * (scores * steps).sum(1)
    with torch.no_grad():
        moved = scalars.natural(scalars.vector + steps)
    table = pd.DataFrame(
        {
            "displacement": displacement.numpy(force=True),
            "p_value": stats.chi2.sf(displacement.numpy(force=True), len(scalars.kept)),
            **dict(zip(scalars.names, moved.mT.numpy(force=True), strict=True)),
        },
        index=pd.Index(fit.data.subjects, name="id"),
    )
    return table.sort_values("displacement", ascending=False, kind="stable")
