"""The likelihood of subjects that a model was not fitted to."""

from typing import TYPE_CHECKING

import torch

from nlme_torch.errors import FitError
from nlme_torch.inference.effects.unseen import effects_for_likelihood
from nlme_torch.inference.estimates.fitted import Fitted
from nlme_torch.inference.estimates.log_likelihood import LogLikelihood
from nlme_torch.inference.estimates.method_arguments import check_fit
from nlme_torch.inference.likelihood.likelihood import (
    LikelihoodMethod,
    check_likelihood,
    default_likelihood,
    evaluate_likelihood,
)
from nlme_torch.model.declare.arguments import check_arguments
from nlme_torch.model.density.density import Density

if TYPE_CHECKING:
    from nlme_torch.data import Dataset


def held_out(
    fit: Fitted, data: "Dataset", likelihood: LikelihoodMethod | None = None, *, seed: int = 0
) -> LogLikelihood:
    r"""Return the marginal likelihood of other subjects at the estimated population parameters.

    .. math:: \log p(y_i \mid \hat\theta) = \log \int p(y_i \mid \eta, \hat\theta)\, p(\eta \mid \hat\Omega)\, d\eta

    Nothing is estimated from these subjects but the integral over their random effects. It is the figure by which a
    model with a network should be judged: the likelihood of the training data always gains from more weights.

    Args:
        fit: The fit.
        data: Subjects it has not seen.
        likelihood: How the integral is done, as for :func:`nlme.loglik`: ``ImportanceSampling()``,
            ``AnnealedImportanceSampling()``, or ``Laplace()``, ``Quadrature()``, ``FOCEI()`` and
            its kind; None chooses importance sampling. Compare only values by the same method.
        seed: Seed of the search for modes and of Monte-Carlo methods.

    Returns:
        The value with its Monte-Carlo error, in total and by subject.

    Raises:
        FitError: There are no observations, or the likelihood of a subject cannot be evaluated.

    Example:
        >>> import nlme_torch as nlme
        >>> train, test = nlme.examples.theophylline().split(test=3, seed=1)
        >>> fit = nlme.fit(nlme.examples.TheophyllineClosedForm(), train, nlme.FOCEI(), progress=False)
        >>> bool(nlme.held_out(fit, test, nlme.FOCEI()).minus2ll > 80)
        True
    """
    check_fit("held_out", fit)
    check_arguments("held_out", fit.model, data, seed)
    check_likelihood("held_out: likelihood", likelihood)
    if data.n_observations == 0:
        raise FitError("the held-out subjects have no observations.")
    density = Density(fit.model, data.batch(device=fit.effects.modes.device), fit.solver)
    generator = torch.Generator().manual_seed(seed)
    method = likelihood or default_likelihood(fit.model.n_effects)
    return evaluate_likelihood(density, effects_for_likelihood(density, generator), method, generator)
