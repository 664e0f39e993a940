r"""Sampling importance resampling: the uncertainty of the estimates without assuming that it is normal.

Vectors :math:`\theta_k` are drawn from a normal distribution on the estimation scale, weighted by how much more likely
they are than the proposal supposes,

.. math:: w_k = \frac{e^{-\Delta O(\theta_k)/2}}{q(\theta_k) / q(\hat\theta)}

and resampled without replacement. The weighted mean and covariance of all vectors make the next, better proposal.

References:
    Dosne, Bergstrand, Harling and Karlsson (2016), Improving the estimation of parameter uncertainty distributions in
    nonlinear mixed effects models using sampling importance resampling. doi:10.1007/s10928-016-9487-8
    Dosne, Bergstrand and Karlsson (2017), An automated sampling importance resampling procedure for estimating
    parameter uncertainty. doi:10.1007/s10928-017-9542-0
"""

from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.fitted import Fitted
from nlme_torch.inference.estimates.free_scalars import FreeScalars
from nlme_torch.inference.estimates.method_arguments import check_fit, check_method
from nlme_torch.inference.foce.marginal_method import MarginalMethod
from nlme_torch.inference.information.observed import hessian, positive
from nlme_torch.inference.marginal.objective import MarginalObjective
from nlme_torch.inference.marginal.several_starts import COLUMNS, evaluate_several
from nlme_torch.inference.numerics import linear_algebra
from nlme_torch.inference.numerics.positive_definite import factor_or, root_of_diagonal
from nlme_torch.inference.progress import Progress, progress_line
from nlme_torch.inference.uncertainty.fitted_method import fitted_method
from nlme_torch.inference.uncertainty.sampled import sample_table
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.settings import check_level, check_values


@dataclass(frozen=True)
class SIR:
    """Parameter vectors resampled in proportion to their likelihood; it prints as a table.

    Attributes:
        method: Name of the approximation of the likelihood.
        table: One row per estimated scalar, natural scale: estimate, median, se, rse_percent, lower, upper percentile.
        draws: The resampled vectors, one column per scalar, natural scale, and their rise of -2LL (``difference``).
        iterations: One row per iteration: proposals, resamples, effective_size of the weights, and the mean rise of
            -2LL of proposals and resamples. For a normal likelihood the latter equals the number of parameters, and the
            mean of a good proposal comes near it.
        parameters: Number of parameters that were drawn: the degrees of freedom of chi-square.
        level: Of the percentiles.
        warnings: Why the answer may be wrong.
    """

    method: str
    table: pd.DataFrame
    draws: pd.DataFrame
    iterations: pd.DataFrame
    parameters: int
    level: float
    warnings: tuple[str, ...]

    @property
    def effective_size(self) -> float:
        """Effective number of proposals of the last iteration, (sum of w)² / sum of w²."""
        return float(self.iterations["effective_size"].iloc[-1])

    @property
    def covariance(self) -> pd.DataFrame:
        """Covariance matrix of the resampled scalars."""
        return self.draws.drop(columns="difference").cov()

    def __str__(self) -> str:
        last = self.iterations.iloc[-1]
        lines = [
            f"SIR by {self.method}: {len(self.draws)} of {last['proposals']:.0f} vectors after {len(self.iterations)} "
            f"iterations, effective size {self.effective_size:.0f}, mean rise of -2LL {last['resampled_rise']:.2f} "
            f"(chi-square: {self.parameters})",
            self.table.to_string(float_format=lambda value: f"{value:.5g}"),
            *(f"warning: {message}" for message in self.warnings),
        ]
        return "\n".join(lines)

    __repr__ = __str__


def sir(
    fit: Fitted,
    method: MarginalMethod | None = None,
    *,
    proposals: int = 1000,
    resamples: int | None = None,
    iterations: int = 3,
    inflation: float = 1.0,
    level: float = 0.95,
    seed: int = 0,
    progress: bool = True,
) -> SIR:
    """Sample the uncertainty of a fit's estimates by importance resampling.

    The first proposal is normal around the estimates, with R⁻¹ as its covariance matrix; network weights are held.

    Args:
        fit: The fit; meaningful where its estimates maximise the likelihood of ``method``.
        method: The approximation of the likelihood; None takes the one that the fit maximised, ``FOCEI()`` after SAEM.
        proposals: Vectors drawn in every iteration.
        resamples: Vectors kept in every iteration; None keeps a fifth. More than a third follow the proposal rather
            than the weights.
        iterations: How often; each takes its proposal from the weighted vectors of the one before.
        inflation: Factor on the covariance matrix of the first proposal.
        level: Of the percentiles.
        seed: Of the draws.
        progress: Whether to show a tqdm line.

    Returns:
        Table, resampled vectors and checks.

    Raises:
        FitError: Fewer proposals than resamples, or the likelihood has no value at the estimates.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
        >>> found = nlme.sir(fit, proposals=200, iterations=2, progress=False)
        >>> found.draws.shape
        (40, 8)
    """
    check_fit("sir", fit)
    check_values(
        "sir", FitError, proposals=(proposals, int), resamples=(resamples, int | None), iterations=(iterations, int),
        inflation=(inflation, float), seed=(seed, int),
    )  # fmt: skip
    check_level("sir", FitError, level)
    kept = max(1, proposals // 5) if resamples is None else resamples
    if not 1 < kept <= proposals or iterations < 1 or not inflation > 0:
        raise FitError(
            f"sir needs 1 < resamples <= proposals, iterations >= 1 and inflation > 0; got {kept}, {proposals}, "
            f"{iterations} and {inflation:g}."
        )
    check_method("sir", method, ("approximation",), "nlme.FOCEI()")
    chosen = method or fitted_method(fit)
    scalars = FreeScalars(fit.model, parameter_values(fit.model))
    objective = MarginalObjective(chosen.approximation(fit.density), scalars.values, chosen.searches(fit.density))
    information = hessian(objective, scalars.kept)
    warnings = []
    if float(torch.linalg.eigvalsh(information)[0]) <= 0:
        warnings.append("R is not positive definite: the first proposal takes its eigenvalues by absolute value")
    generator = torch.Generator().manual_seed(seed)
    proposal = _Proposal(scalars.vector, inflation * linear_algebra.inverse(positive(information)))
    rows, sample = [], None
    with progress_line(iterations * proposals, "SIR", progress) as line:
        for _ in range(iterations):
            sample = _iteration(objective, scalars, proposal, proposals, kept, generator, line)
            rows.append(sample.summary)
            proposal = sample.proposal
    assert sample is not None
    table = pd.DataFrame(rows)
    warnings += _warnings(table, sample)
    natural = scalars.natural(sample.vectors)
    draws = pd.DataFrame(natural.numpy(force=True), columns=scalars.names)
    estimates = scalars.natural(scalars.vector[None])[0].tolist()
    return SIR(
        method=chosen.name,
        table=sample_table(estimates, draws, level),
        draws=draws.assign(difference=sample.rises.numpy(force=True)),
        iterations=table,
        parameters=len(scalars.labels),
        level=level,
        warnings=tuple(warnings),
    )


class _Proposal(NamedTuple):
    """A normal distribution on the estimation scale."""

    mean: Tensor
    covariance: Tensor


class _Sample(NamedTuple):
    """What an iteration kept: vectors and rises of -2LL; the next proposal, and the numbers of the iteration."""

    vectors: Tensor
    rises: Tensor
    lowest: float
    proposal: _Proposal
    summary: dict[str, float]


def _iteration(
    objective: MarginalObjective,
    scalars: FreeScalars,
    proposal: _Proposal,
    proposals: int,
    kept: int,
    generator: torch.Generator,
    line: Progress,
) -> _Sample:
    """Draw, weigh and resample once."""
    factor = factor_or(proposal.covariance, root_of_diagonal(proposal.covariance))
    noise = torch.randn(proposals, len(factor), generator=generator, dtype=factor.dtype).to(factor.device)
    vectors = proposal.mean + noise @ factor.mT
    rises = _rises(objective, scalars, vectors, line)
    log_weights = -0.5 * rises + 0.5 * noise.square().sum(1)
    possible = int(torch.isfinite(log_weights).sum())
    if possible < kept:
        raise FitError(
            f"sir: the likelihood has a value for {possible} of {proposals} proposals only, fewer than the {kept} to "
            "be kept; take a smaller inflation, or more proposals."
        )
    weights = torch.exp(log_weights - log_weights.max())
    # the largest sums of log weights and Gumbel noise: a draw without replacement that no small weight can break
    gumbel = -torch.log(-torch.log(torch.rand(proposals, generator=generator, dtype=factor.dtype)))
    index = (log_weights + gumbel.to(log_weights.device)).topk(kept).indices
    summary = {
        "proposals": float(proposals),
        "resamples": float(kept),
        "failed": float(proposals - possible),
        "effective_size": float(weights.sum().square() / weights.square().sum()),
        "proposed_rise": float(rises[torch.isfinite(rises)].mean()),
        "resampled_rise": float(rises[index].mean()),
    }
    share = weights / weights.sum()
    mean = share @ vectors
    covariance = (share[:, None] * (vectors - mean)).mT @ (vectors - mean) / (1 - share.square().sum())
    covariance = covariance + 1e-8 * torch.diag(covariance.diagonal().clamp_min(1e-12))
    wider = factor_or(covariance, factor)  # where a few vectors carry all weight, the spread stays
    following = _Proposal(mean, wider @ wider.mT)
    return _Sample(vectors[index], rises[index], float(rises.min()), following, summary)


def _rises(objective: MarginalObjective, scalars: FreeScalars, vectors: Tensor, line: Progress) -> Tensor:
    """How much the penalised -2LL of each vector lies above that of the estimates, ``(start,)``."""
    approximation, columns = objective.approximation, objective.approximation.density.batch.n_subjects
    reference = evaluate_several(
        approximation, objective.values, objective.initial[None], objective.centre, gradient=False
    ).value
    found = []
    for part in vectors.split(max(1, COLUMNS // columns)):
        centre = objective.centre.expand(-1, len(part), -1)
        whole = scalars.complete(part)
        found.append(evaluate_several(approximation, objective.values, whole, centre, gradient=False).value)
        line.advance("SIR", count=len(part))
    return torch.cat(found) - reference


def _warnings(table: pd.DataFrame, sample: _Sample) -> list[str]:
    messages = []
    last = table.iloc[-1]
    if last["effective_size"] < 0.5 * last["resamples"]:
        messages.append(
            f"the weights of the last iteration have an effective size of {last['effective_size']:.0f} only: what was "
            "kept follows the proposal; use more iterations or proposals"
        )
    if last["failed"]:
        messages.append(f"the likelihood has no value for {last['failed']:.0f} proposals; their weight is zero")
    if sample.lowest < -0.1:
        messages.append(
            f"-2LL is {-sample.lowest:.3g} lower at a vector drawn than at the estimates: they do not maximise this "
            "likelihood"
        )
    return messages
