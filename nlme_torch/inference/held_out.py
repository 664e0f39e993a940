"""The likelihood of subjects that a model was not fitted to."""

from typing import TYPE_CHECKING

import torch

from nlme_torch.errors import FitError
from nlme_torch.inference.effects import EffectEstimates, find_modes
from nlme_torch.inference.likelihood import LikelihoodMethod, LogLikelihood, default_likelihood, evaluate_likelihood
from nlme_torch.model.density import Density

if TYPE_CHECKING:
    from nlme_torch.data import Dataset
    from nlme_torch.inference.result import Fit


def held_out(
    fit: "Fit", data: "Dataset", likelihood: LikelihoodMethod | None = None, *, seed: int = 0
) -> LogLikelihood:
    r"""Return the marginal likelihood of other subjects at the estimated population parameters.

    .. math:: \log p(y_i \mid \hat\theta) = \log \int p(y_i \mid \eta, \hat\theta)\, p(\eta \mid \hat\Omega)\, d\eta

    Nothing is estimated from these subjects but the integral over their random effects. It is the figure by which a
    model with a network should be judged: the likelihood of the training data always gains from more weights.

    Args:
        fit: The fit.
        data: Subjects it has not seen.
        likelihood: How the integral is done, as for :func:`nlme.loglik`: ``ImportanceSampling()``,
            ``LaplaceLikelihood()``, ``QuadratureLikelihood()``, ``AnnealedImportanceSampling()``, or ``FOCEI()`` and
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
    if data.n_observations == 0:
        raise FitError("the held-out subjects have no observations.")
    density = Density(fit.model, data.batch(device=fit.effects.modes.device), fit.solver)
    generator = torch.Generator().manual_seed(seed)
    method = likelihood or default_likelihood(fit.model.n_effects)
    return evaluate_likelihood(density, _effects_at_modes(density, generator), method, generator)


def _effects_at_modes(density: Density, generator: torch.Generator, starts: int = 12) -> EffectEstimates:
    """Normal approximations at the best conditional modes, which cost less than chains that have to settle.

    The draws are from the prior of the effects: there likelihood methods begin their search for further modes.
    """
    with torch.no_grad():
        conditional = density.at()
        draws = conditional.sample(starts - 1, generator)[:, :, 0]
        prior = conditional.covariance()
    modes = find_modes(conditional, torch.cat([torch.zeros_like(draws[:, :1]), draws], dim=1))
    precision = modes.precision.permute(2, 0, 1)
    # where a search failed there is no curvature: the prior is wider than any conditional distribution
    concave = (torch.linalg.cholesky_ex(precision.nan_to_num(0.0)).info == 0)[:, None, None]
    precision = torch.where(concave, precision, torch.linalg.inv(prior))
    covariances = torch.linalg.inv(precision)
    return EffectEstimates(
        modes=modes.effects,
        precision=precision.permute(1, 2, 0),
        log_joint=modes.value,
        means=modes.effects,
        covariances=(0.5 * (covariances + covariances.mT)).permute(1, 2, 0),
        draws=draws,
    )
