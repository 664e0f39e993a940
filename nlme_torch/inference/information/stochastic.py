r"""The information matrix of the exact likelihood by Markov chains, for fits by SAEM.

With complete-data scores :math:`s_i = \nabla_\theta \log p(y_i, \phi_i; \theta)`, Louis's formula reads

.. math:: R = \sum_i \Big(-E\big[\nabla^2_\theta \log p(y_i, \phi_i)\big] - \operatorname{Cov}[s_i]\Big), \qquad
          S = \sum_i E[s_i]\, E[s_i]^\top

where expectations are over :math:`p(\phi_i \mid y_i; \hat\theta)`. The random effects are held on the transformed
scale, :math:`\phi_i = \mu_i(\theta) + \eta_i`, as in SAEM: typical values and Omega enter through the density of
:math:`\phi` alone and leave little Monte-Carlo noise.

References:
    Louis (1982), Finding the observed information matrix when using the EM algorithm.
    doi:10.1111/j.2517-6161.1982.tb01203.x
    Delyon, Lavielle and Moulines (1999), Convergence of a stochastic approximation version of the EM algorithm.
    doi:10.1214/aos/1018031103
    Delattre and Kuhn (2019), Estimating Fisher information matrix in latent variable models based on the score
    function. arXiv:1909.06094
"""

import math
from dataclasses import dataclass

import torch

from nlme_torch.errors import FitError
from nlme_torch.inference.effects.moves import Moves
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.information.observed import Information
from nlme_torch.inference.progress import progress_line
from nlme_torch.inference.saem.louis import LouisSums, louis_sums, prior_derivatives
from nlme_torch.inference.saem.saem import default_chains
from nlme_torch.inference.saem.schedule import StepSchedule
from nlme_torch.inference.saem.step import SAEMAlgorithm
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.settings import check_types

FEWEST_CHAINS = 8
"""Fewer tell too little of the Monte-Carlo error, which is read off the differences between chains."""
BLOCK = 20
"""Iterations whose draws are differentiated together, and between two looks at the error."""
NEVER = 10**9
"""Iterations of a burn-in that does not end."""


@dataclass(frozen=True, kw_only=True)
class StochasticInformation:
    """The observed information matrix by Louis's formula, averaged over draws of the random effects.

    Attributes:
        tolerance: Chains run until the relative Monte-Carlo error of no standard error exceeds this.
        iterations: Most iterations of the chains.
        burn_in: Iterations before the first that counts, in which the kernels adapt.
        chains: Chains per subject; None takes as many as SAEM does, at least 8.
        moves: How often each Markov kernel runs per iteration; None chooses by the number and kind of effects.
        seed: Of the chains.
        progress: Whether to show a tqdm line.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
        >>> method = nlme.StochasticInformation(iterations=40, progress=False)
        >>> nlme.standard_errors(fit, method, kind="R").method
        'the exact likelihood (Louis, stochastic)'
    """

    tolerance: float = 0.02
    iterations: int = 2000
    burn_in: int = 100
    chains: int | None = None
    moves: Moves | None = None
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        check_types(self, FitError)
        if self.chains is not None and self.chains < 2:
            raise FitError(f"StochasticInformation needs at least 2 chains per subject, got {self.chains}.")
        if self.iterations < 1 or self.burn_in < 0 or not self.tolerance > 0:
            raise FitError("StochasticInformation needs iterations >= 1, burn_in >= 0 and tolerance > 0.")

    @property
    def name(self) -> str:
        """What standard errors of this method are called."""
        return "the exact likelihood (Louis, stochastic)"

    def information(self, density: Density, scalars: FreeScalars) -> Information:
        """Return R and S at the model's own parameters.

        Args:
            density: The model, joined to data and solver.
            scalars: The parameters.

        Raises:
            FitError: The model has no random effects.
        """
        if not density.model.n_effects:
            raise FitError("the model has no random effects to draw; its likelihood is that of nlme.Pooled().")
        chains = self.chains or max(FEWEST_CHAINS, default_chains(density))
        generator = torch.Generator().manual_seed(self.seed)
        algorithm = SAEMAlgorithm(
            density,
            schedule=StepSchedule(burn_in=NEVER),  # in which nothing but the chains moves
            chains=chains,
            moves=self.moves or Moves.automatic(density.model),
            annealing=1.0,
            learning_rate=0.0,
            gradient_steps=0,
        )
        state = algorithm.init(parameter_values(density.model), generator)
        total: LouisSums | None = None
        error, done = math.inf, 0
        with progress_line(self.burn_in + self.iterations, "information", self.progress) as line:
            for _ in range(self.burn_in):
                state = algorithm.step(state, generator, smoothing=False)
                line.advance("information, burn-in")
            moments = state.moments  # kernels that go on adapting would bias the chains
            while done < self.iterations and error > self.tolerance:
                draws = []
                for _ in range(min(BLOCK, self.iterations - done)):
                    state = algorithm.step(state._replace(moments=moments), generator, smoothing=False)
                    draws.append(state.transformed[:, :, 0])
                sums = louis_sums(density, scalars, torch.stack(draws, 1), algorithm.scales)
                total = sums if total is None else total.plus(sums)
                done += len(draws)
                error = _standard_error_noise(total)
                line.advance("information", {"Monte-Carlo error": error}, count=len(draws))
            line.finish("information", self.burn_in + done)
        assert total is not None
        return self._result(total, density, scalars, error)

    def _result(self, total: "LouisSums", density: Density, scalars: FreeScalars, error: float) -> Information:
        mean = total.mean_scores()
        scores = mean.mT @ mean
        hessian = total.information().mean(0) - prior_derivatives(density, scalars)[1]
        warnings = []
        if error > self.tolerance:
            warnings.append(
                f"the Monte-Carlo error of a standard error is {100 * error:.0f} % after {total.iterations} "
                "iterations; allow more iterations or chains"
            )
        return Information(hessian, scores, len(mean), tuple(warnings))


def _standard_error_noise(total: LouisSums) -> float:
    """The largest relative Monte-Carlo error of a standard error, by the chains' differences and the delta method."""
    each = total.information()
    inverse, failed = torch.linalg.inv_ex(each.mean(0))
    if int(failed):
        return math.inf
    moved = (inverse @ (each - each.mean(0)) @ inverse).diagonal(dim1=-2, dim2=-1)
    noise = moved.std(0) / math.sqrt(len(each))
    return float((0.5 * noise / inverse.diagonal().abs()).max())
