r"""What a fit by SAEM still lacks, measured from fresh draws, and the steps that close the gap.

At the estimates the chains give the score s of the marginal likelihood and its information I (Louis). Near a maximum
the log-likelihood that a better point would gain is

.. math:: g = \tfrac12 s^\top I^{-1} s

of which :math:`\tfrac12 \operatorname{tr}(I^{-1} V)` is seen at the maximum itself, V being the Monte-Carlo covariance
of s by the differences between chains. Where they can be trusted, weighted draws about the chains' moments
(``quasi_draws``) take the chains' place: they are independent and fill space evenly. EM loses a direction of which the
data carry the fraction f of the complete information by 1 - f per iteration only; the Newton step :math:`I^{-1} s`
does not care.

References:
    Louis (1982), Finding the observed information matrix when using the EM algorithm.
    doi:10.1111/j.2517-6161.1982.tb01203.x
    McLachlan and Krishnan (2008), The EM algorithm and extensions, chapter 4. doi:10.1002/9780470191613
    Geyer and Thompson (1992), Constrained Monte Carlo maximum likelihood for dependent data.
    doi:10.1111/j.2517-6161.1992.tb01443.x
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.certificate import Certificate
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.likelihood.quasi_draws import QuasiDraws, Shape, quasi_draws
from nlme_torch.inference.saem.judgement import Judgement, judge
from nlme_torch.inference.saem.louis import LouisSums, louis_sums, prior_derivatives
from nlme_torch.inference.saem.step import SAEMAlgorithm, SAEMState
from nlme_torch.model.declare.values import ParameterValues
from nlme_torch.model.density.density import Density
from nlme_torch.settings import check_above, check_at_least, check_types

BLOCK, SETTLE, THIN = 20, 20, 2
FEWEST_CHAINS, MOST_COLUMNS = 4, 2000
"""Chains per subject from which differences between chains are told, and most chains of all subjects together."""
REPLICATES, DRAWS, WEIGHTED_COLUMNS = 16, (32, 256), 100_000
"""Replicates of weighted draws, from which their noise is told; fewest and most draws of each per subject at once, and
how many of all subjects are wanted."""
ATTEMPTS, KEPT_COLUMNS = 3, 400_000
"""How often weighted draws shape the next ones until they are trusted, and how many are kept of all subjects."""
ENOUGH_UPDATES = 50
"""Updates from which the chains' running moments tell where to draw: they forget what is older than that."""
VALUES = 4
"""Values of the model that an iteration of a chain costs at least, a weighted draw one."""
FARTHEST = 4.0
"""Most log-likelihood that one step may promise to gain."""


@dataclass(frozen=True, kw_only=True)
class Certification:
    """How SAEM judges, after its smoothing, whether it has reached the maximum, and goes on where it has not.

    Attributes:
        tolerance: Log-likelihood still to be had (twice as much in units of -2LL) at which a fit counts as converged.
        rounds: Most rounds of fresh draws and a Newton step; 0 judges nothing.
        effort: Most iterations of the chains in all rounds, as a multiple of the smoothing iterations.

    Example:
        >>> import nlme_torch as nlme
        >>> method = nlme.SAEM(certification=nlme.Certification(tolerance=0.02))
    """

    tolerance: float = 0.05
    rounds: int = 8
    effort: float = 3.0

    def __post_init__(self) -> None:
        check_types(self, FitError)
        check_above(self, FitError, 0, "tolerance", "effort")
        check_at_least(self, FitError, 0, "rounds")


def corrected(sums: LouisSums, drawn: QuasiDraws) -> LouisSums:
    """Scores of replicates whose weights have one common normaliser, so that their differences tell the noise."""
    excess = drawn.weights.sum(0) - len(drawn.weights)
    return sums._replace(scores=sums.scores - excess[..., None] * sums.mean_scores())


def rise(
    density: Density,
    scalars: FreeScalars,
    vectors: Float[Tensor, "2 kept"],
    draws: Float[Tensor, "effect draw subject"],
) -> float:
    r"""Return how much higher the marginal likelihood (times the prior) is at the second of two points.

    .. math:: \ell(\theta') - \ell(\theta) = \sum_i \log \frac1M \sum_m
              \frac{p(y_i, \phi_i^{(m)}; \theta')}{p(y_i, \phi_i^{(m)}; \theta)}

    Args:
        density: The model with its data.
        scalars: The parameters.
        vectors: The point of the draws, and the other.
        draws: Of phi at the first point.
    """
    values = scalars.at(vectors)
    conditional = density.at(values)
    chunk = max(1, 20_000 // draws.shape[-1])
    with torch.no_grad():
        mean = conditional.mean[:, None]
        parts = [conditional.log_joint(part[:, :, None] - mean) for part in draws.split(chunk, 1)]
        both = torch.cat(parts)
        ratio = both[:, 1] - both[:, 0]
        ratio = torch.where(torch.isfinite(both[:, 0]), ratio, -math.inf)
        total = (torch.logsumexp(ratio, 0) - math.log(len(ratio))).sum()
        prior = density.log_prior(values)
        return float(total + prior[1] - prior[0])


class Chains:
    """Markov chains of the best start at given parameters.

    Args:
        algorithm: SAEM in an endless burn-in, in which nothing but the chains moves.
        state: Where they begin; one start.
        generator: Source of randomness.
        report: Called after every iteration.
    """

    def __init__(
        self, algorithm: SAEMAlgorithm, state: SAEMState, generator: torch.Generator, report: Callable[[], None]
    ) -> None:
        self.algorithm, self.state, self.generator, self.report = algorithm, state, generator, report
        self.iterations = 0
        while self.count < FEWEST_CHAINS:
            self.double()

    @property
    def count(self) -> int:
        """Chains per subject."""
        return self.state.transformed.shape[1]

    def double(self) -> None:
        """Let every chain go on as two."""
        self.state = self.state._replace(transformed=torch.cat([self.state.transformed] * 2, 1))

    @property
    def may_double(self) -> bool:
        """Whether twice as many fit into a batch that costs little."""
        return 2 * self.count * self.state.transformed.shape[-1] <= MOST_COLUMNS

    def move(self, values: ParameterValues) -> None:
        """Go on under other parameters."""
        self.state = self.state._replace(values=dict(values))

    def spend(self, draws: int) -> None:
        """Count weighted draws of every subject as the iterations that cost as much."""
        for _ in range(math.ceil(draws / (VALUES * self.count))):
            self.iterations += 1
            self.report()

    def draw(self, iterations: int, *, adapt: bool = False) -> Float[Tensor, "effect iteration chain subject"]:
        """Return the draws of some iterations; kernels whose shape goes on adapting would bias them."""
        moments, kept = self.state.moments, []
        for _ in range(iterations):
            self.state = self.algorithm.step(self.state, self.generator, smoothing=False)
            if not adapt:
                self.state = self.state._replace(moments=moments)
            kept.append(self.state.transformed[:, :, 0])
            self.iterations += 1
            self.report()
        return torch.stack(kept, 1)


class Certifier:
    """Judges and improves the end of a fit.

    Args:
        chains: At the estimates.
        scalars: The parameters that are judged.
        settings: How.
        budget: Most iterations of the chains.

    Attributes:
        vector: The best parameters so far, ``(kept,)``.
        certificate: What was measured last, None before the first round ends.
        deviations: Standard errors of the parameters in the last round.
    """

    weighted = 0  # draws per subject

    def __init__(self, chains: Chains, scalars: FreeScalars, settings: Certification, budget: int) -> None:
        self.chains, self.scalars, self.settings, self.budget = chains, scalars, settings, budget
        self.density = chains.algorithm.density
        self.vector = scalars.vector.detach()
        self.certificate: Certificate | None = None
        self.deviations = torch.full_like(self.vector, math.nan)
        self._mean, self._weight = torch.zeros_like(self.vector), 0.0
        self.draws: Tensor = chains.state.transformed[:, None, :, 0]
        self.shape: Shape | None = None
        self.even = True  # whether weights can be trusted

    @property
    def reached(self) -> bool:
        """Whether the parameters are at the maximum."""
        return self.certificate is not None and self.certificate.converged

    def nearer(self, other: "Certifier") -> bool:
        """Whether less is left here than where another one ended, as far as is known."""

        def left(certificate: Certificate | None) -> tuple[bool, bool, float]:
            if certificate is None:
                return True, True, math.inf
            return not certificate.converged, bool(certificate.flat), certificate.gain + certificate.standard_error

        return left(self.certificate) < left(other.certificate)

    def run(self) -> None:
        """Repeat rounds until nothing is left to be had, or means are used up."""
        best: tuple[bool, float] | None = None
        for number in range(1, self.settings.rounds + 1):
            found = self._round(settle=SETTLE if number == 1 else 2 * SETTLE)
            if found is None:
                break
            self.deviations = found.deviations
            small = found.left + found.standard_error <= self.settings.tolerance or (
                found.left <= self.settings.tolerance and found.standard_error <= self.settings.tolerance
            )
            converged = small and not found.flat
            certificate = self.certificate = Certificate(
                found.left,
                found.standard_error,
                converged,
                number,
                self.chains.iterations,
                self.chains.count,
                self.scalars.labels[found.flattest] if found.flat else "",
                self.weighted,
            )
            left = (found.flat, found.left + found.standard_error)
            if best is None or left < best:
                best, standing = left, (self.vector, certificate, self.draws)
            if converged and found.left <= max(0.2 * self.settings.tolerance, 2 * found.noise):
                return  # a step would lose by the noise of one round what it gains
            over = number == self.settings.rounds or self.chains.iterations >= self.budget
            if over and not converged:  # what was measured is said of where it was measured
                break
            if not self._step(found):
                break
            if converged:
                return
        if best is not None:  # a step along noise may have led away from a better point
            self.vector, certificate, self.draws = standing
            self.certificate = certificate._replace(
                rounds=number, iterations=self.chains.iterations, draws=self.weighted
            )

    def _round(self, settle: int) -> Judgement | None:
        """Draw at the best parameters until the noise is small, or the gap is plain."""
        self.chains.move(self.scalars.at(self.vector[None]))
        here = FreeScalars(self.density.model, self.chains.state.values)
        found = self._by_weights(here, settle) if self.even else None
        return found if self.even else self._by_chains(here, settle)

    def _enough(self, found: Judgement) -> bool:
        """Whether more draws would decide nothing."""
        tolerance = self.settings.tolerance
        # where much is left a step comes first, whatever the flattest direction is like
        undecided = found.doubtful and found.left <= tolerance
        enough = found.noise <= 0.25 * tolerance and not undecided
        plain = found.left > 2 * tolerance + 4 * found.standard_error
        return enough or plain or self.chains.iterations >= self.budget

    def _by_weights(self, here: FreeScalars, settle: int) -> Judgement | None:
        """Judge by weighted draws; where these cannot be trusted, note it."""
        chains, scales = self.chains, self.chains.algorithm.scales
        if self.shape is None:
            known = chains.state.moments
            if known.updates < ENOUGH_UPDATES:
                chains.draw(settle, adapt=True)
                known = chains.state.moments
            self.shape = Shape(known.mean[:, 0], known.covariance[:, :, 0])
        slope, curvature = prior_derivatives(self.density, here)
        sums: LouisSums | None = None
        while True:
            drawn = self._drawn(here)
            if drawn is None:
                self.even = False
                return None
            fresh = corrected(louis_sums(self.density, here, drawn.phi, scales, drawn.weights), drawn)
            sums = fresh if sums is None else sums.plus(fresh)
            found = judge(sums, slope, curvature)
            if found is None or self._enough(found):
                count = max(1, min(drawn.weights[..., 0].numel(), KEPT_COLUMNS // drawn.weights.shape[-1]))
                self.draws = drawn.resampled(count, chains.generator)[:, None]
                return found

    def _drawn(self, here: FreeScalars) -> QuasiDraws | None:
        """Draw about the shape of the last draws; None where weights stay too uneven."""
        subjects = self.density.batch.n_subjects
        count = min(max(WEIGHTED_COLUMNS // (REPLICATES * subjects), DRAWS[0]), DRAWS[1])
        for _ in range(ATTEMPTS):
            assert self.shape is not None
            drawn = quasi_draws(self.density.at(here.values), self.shape, count, REPLICATES, self.chains.generator)
            self.weighted += count * REPLICATES
            self.chains.spend(count * REPLICATES)
            if not drawn.usable:
                return None
            self.shape = drawn.shape()
            if drawn.trusted:
                return drawn
        return None

    def _by_chains(self, here: FreeScalars, settle: int) -> Judgement | None:
        """Judge by the draws of Markov chains."""
        tolerance, chains = self.settings.tolerance, self.chains
        chains.draw(settle, adapt=True)
        slope, curvature = prior_derivatives(self.density, here)
        sums: LouisSums | None = None
        kept: list[Tensor] = []
        while True:
            draws = chains.draw(BLOCK)
            kept = [*kept[-2:], draws]
            fresh = louis_sums(self.density, here, draws[:, ::THIN], chains.algorithm.scales)
            sums = fresh if sums is None else sums.plus(fresh)
            found = judge(sums, slope, curvature)
            self.draws = torch.cat(kept, 1)
            if found is None or self._enough(found):
                return found
            if found.noise > tolerance and chains.may_double:
                chains.double()
                chains.draw(SETTLE)
                sums, kept = None, []

    def _step(self, found: Judgement) -> bool:
        """Move by Newton's step, shortened until the likelihood is seen to rise; average short ones over the rounds."""
        start, step, whole = self.vector, found.step, True
        promised = found.gain
        if found.gain > FARTHEST:
            scale = math.sqrt(FARTHEST / found.gain)
            step, promised, whole = scale * step, FARTHEST * (2 / scale - 1), False
        if found.left > 0.5:
            flat = self.draws.flatten(1, 2)
            for _ in range(6):
                seen = rise(self.density, self.scalars, torch.stack([start, start + step]), flat)
                if seen > 0.2 * promised:
                    break
                step, promised, whole = 0.5 * step, 0.5 * promised, False
            else:
                return False
        if not whole or found.left > 1.0:
            self._weight = 0.0
            self.vector = start + step
            return True
        weight = 1 / max(found.noise, 1e-12)
        self._mean = (self._weight * self._mean + weight * (start + step)) / (self._weight + weight)
        self._weight += weight
        self.vector = self._mean
        return True
