r"""Stochastic simulation and estimation: what a method makes of data whose truth is known.

K data sets are simulated from a model with one design, and fitted, each from the truth:

.. math::
    \text{bias} = \bar{\hat\theta} - \theta, \qquad
    \text{RMSE} = \sqrt{\tfrac1K \sum_k (\hat\theta_k - \theta)^2}, \qquad
    \text{coverage} = \tfrac1K \#\{k : \theta \in \text{CI}_k\}

References:
    Burton, Altman, Royston and Holder (2006), The design of simulation studies in medical statistics.
    doi:10.1002/sim.2673
    Morris, White and Crowther (2019), Using simulation studies to evaluate statistical methods. doi:10.1002/sim.8086
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nlme_torch._typing import Float
from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.estimation import FitMethod
from nlme_torch.inference.estimates.free_scalars import FreeScalars, slope_of
from nlme_torch.inference.estimates.method_arguments import check_method
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.foce.focei import FOCEI
from nlme_torch.inference.foce.marginal_method import MarginalMethod
from nlme_torch.inference.marginal.several_starts import COLUMNS, evaluate_several
from nlme_torch.inference.numerics import linear_algebra
from nlme_torch.inference.progress import progress_line
from nlme_torch.inference.uncertainty.bootstrap import INTERRUPTED, at_once, fit_one_by_one, fit_together
from nlme_torch.inference.uncertainty.resamples import ParametricResamples
from nlme_torch.inference.uncertainty.standard_errors import normal_quantile
from nlme_torch.model.declare.arguments import check_arguments
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.values import parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.settings import check_level, check_values
from nlme_torch.solve import Solver, choose_solver

if TYPE_CHECKING:
    from nlme_torch.data import Dataset

STEP = 1e-3
"""Of central differences of exact gradients, on the estimation scale: their error is its square, a millionth."""


@dataclass(frozen=True)
class SimulationEstimation:
    """What a method made of simulated data; it prints as a table.

    Attributes:
        method: How every data set was fitted.
        table: One row per estimated scalar, natural scale, of the fits that succeeded: true, mean, bias, bias_se (its
            Monte Carlo error), bias_percent, sd (of the estimates), rmse, rmse_percent, mean_se (root mean square of
            the standard errors that the fits themselves give), coverage (share of confidence intervals that hold the
            truth, NaN where standard errors are not known), coverage_se and count (of fits with an interval).
        estimates: One row per data set and one column per scalar; NaN where the fit failed.
        errors: Their standard errors (R⁻¹ of the fit's own likelihood), likewise.
        problems: Data set to the reason why its fit failed.
        level: Of the confidence intervals.
        status: ``COMPLETED``, or ``INTERRUPTED``: the data sets that had been fitted stand.
    """

    method: str
    table: pd.DataFrame
    estimates: pd.DataFrame
    errors: pd.DataFrame
    problems: dict[int, str]
    level: float
    status: Status = Status.COMPLETED

    def __str__(self) -> str:
        lines = [
            f"simulation and estimation by {self.method}: {len(self.estimates)} data sets, {len(self.problems)} fits "
            f"failed, coverage of {100 * self.level:g} % intervals",
            self.table.to_string(float_format=lambda value: f"{value:.4g}"),
        ]
        if self.problems:
            number, reason = next(iter(self.problems.items()))
            lines.append(f"warning: data set {number} takes no part in the table: {reason}")
        return "\n".join(lines)

    __repr__ = __str__


def sse(
    model: Model,
    data: "Dataset",
    method: FitMethod | None = None,
    *,
    samples: int = 100,
    level: float = 0.95,
    seed: int = 0,
    solver: Solver | str | None = None,
    progress: bool = True,
) -> SimulationEstimation:
    """Simulate data sets from a model, fit them, and compare the estimates with the truth.

    All data sets are fitted together on the start axis where the method minimises an approximate likelihood from one
    start and leaves the minimiser to the library (FO, FOCE, FOCEI, Laplace, quadrature); others are fitted one by one.

    Args:
        model: The model; its own parameters are the truth, and where every fit begins.
        data: The design: what is observed is replaced.
        method: How the data sets are fitted; ``FOCEI()`` if None.
        samples: Number of data sets.
        level: Of the confidence intervals: symmetric where each parameter is mapped to the real line, from R⁻¹ of the
            method's likelihood (of FOCEI's for methods without one of their own).
        seed: Of the draws, and of the fits of a random method.
        solver: How differential equations are solved; ``Auto()`` if None.
        progress: Whether to show a tqdm line.

    Returns:
        Bias, RMSE and coverage of every parameter, and all estimates.

    Raises:
        FitError: An outcome is censored or cannot be simulated, or nearly all fits failed.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> found = nlme.sse(model, data, samples=10, progress=False)
        >>> found.estimates.shape
        (10, 7)
    """
    check_arguments("sse", model, data, seed)
    check_method("sse", method, ("estimate",), "nlme.FOCEI()")
    check_values("sse", FitError, samples=(samples, int))
    check_level("sse", FitError, level)
    if samples < 2:
        raise FitError(f"sse needs at least 2 samples, got {samples}.")
    density = Density(model, data.batch(), choose_solver(solver))
    chosen: FitMethod = method or FOCEI()
    values = parameter_values(model)
    if isinstance(chosen, MarginalMethod):
        chosen = chosen.at(density, values)
    draws = ParametricResamples.draw(density, samples, torch.Generator().manual_seed(seed))
    scalars = FreeScalars(model, values)
    everything = len(scalars.vector) == len(scalars.whole)
    with progress_line(samples, "simulation and estimation", progress) as line:
        if isinstance(chosen, MarginalMethod) and at_once(chosen) and everything:
            vectors, problems = fit_together(density, chosen, draws, samples, scalars, line)
        else:
            vectors, problems = fit_one_by_one(density, chosen, draws, samples, seed, scalars, line)
    interrupted = INTERRUPTED in problems.values()
    if samples - len(problems) < 2:
        if interrupted:
            raise KeyboardInterrupt  # nothing stands yet
        raise FitError(f"{len(problems)} of {samples} fits failed; the first: {next(iter(problems.values()))}.")
    good = torch.tensor([number for number in range(samples) if number not in problems])
    judge = chosen if isinstance(chosen, MarginalMethod) else FOCEI()
    covariances = _covariances(density, judge, draws, scalars, vectors, good) if everything else None
    truth = scalars.natural(scalars.vector[None])[0]
    natural = scalars.natural(vectors[:, scalars.kept])
    errors = torch.full_like(natural, torch.nan)
    if covariances is not None:
        errors[good] = _natural_errors(scalars, vectors[good][:, scalars.kept], covariances)
    estimates = pd.DataFrame(natural.numpy(force=True), columns=scalars.names)
    estimates.loc[list(problems)] = float("nan")
    return SimulationEstimation(
        method=str(chosen),
        table=_table(scalars, truth, natural[good], errors[good], level),
        estimates=estimates,
        errors=pd.DataFrame(errors.numpy(force=True), columns=scalars.names),
        problems=problems,
        level=level,
        status=Status.INTERRUPTED if interrupted else Status.COMPLETED,
    )


def _covariances(
    density: Density, method: MarginalMethod, draws: ParametricResamples, scalars: FreeScalars, vectors: Tensor,
    good: Tensor,
) -> Float[Tensor, "sample parameter parameter"] | None:  # fmt: skip
    """R⁻¹ of every data set by central differences of exact gradients; None where the method has no such likelihood."""
    try:
        origin = method.approximation(density).origin(1)
    except FitError:
        return None
    count, pieces = vectors.shape[1], []
    for members in good.split(max(1, COLUMNS // density.batch.n_subjects)):
        several, weights = draws.together(method, members)
        points = vectors[members]
        centre = origin.expand(-1, len(members), -1).contiguous()
        found = evaluate_several(several, scalars.values, points, centre, gradient=True, weights=weights)
        columns = []
        for shift in STEP * torch.eye(count, dtype=vectors.dtype, device=vectors.device):
            ahead, behind = (
                evaluate_several(
                    several, scalars.values, points + sign * shift, found.centre, gradient=True, weights=weights
                )
                for sign in (1, -1)
            )
            assert ahead.gradient is not None and behind.gradient is not None
            slope = (ahead.gradient - behind.gradient) / (2 * STEP)
            finite = torch.isfinite(ahead.value) & torch.isfinite(behind.value)
            columns.append(torch.where(finite[:, None], slope, torch.nan))
        matrix = 0.5 * torch.stack(columns, 1)
        pieces.append(linear_algebra.inverse((0.5 * (matrix + matrix.mT)).nan_to_num(0.0)))
    return torch.cat(pieces)


def _natural_errors(scalars: FreeScalars, vectors: Tensor, covariances: Tensor) -> Float[Tensor, "sample scalar"]:
    """Standard errors on the natural scale by the delta method; NaN where a variance is not positive."""
    free = vectors.detach().requires_grad_()
    with torch.enable_grad():
        natural = scalars.natural(free)
        slopes = [
            torch.autograd.grad(natural[:, place].sum(), free, retain_graph=True)[0]
            for place in range(natural.shape[1])
        ]
    jacobian = torch.stack(slopes, 1)
    variance = torch.einsum("kij,kjl,kil->ki", jacobian, covariances, jacobian)
    return torch.where(variance > 0, variance, torch.nan).sqrt()


def _table(scalars: FreeScalars, truth: Tensor, natural: Tensor, errors: Tensor, level: float) -> pd.DataFrame:
    rows, reach = [], normal_quantile(level)
    for place, scale in enumerate(scalars.scales):
        true, values, error = float(truth[place]), natural[:, place].numpy(force=True), errors[:, place]
        known = torch.isfinite(error)
        hits = math.nan
        if bool(known.any()):
            points = natural[known, place]
            there, own = scale.inverse(truth[place]), scale.inverse(points)
            slope = torch.stack([slope_of(scale.inverse, point) for point in points])
            hits = float(((own - there).abs() <= reach * slope * error[known]).double().mean())
        count, deviation = int(known.sum()), values - true
        rmse = float(np.sqrt(np.mean(deviation**2)))
        percent = 100 / abs(true) if true else math.nan
        rows.append(
            {
                "true": true, "mean": float(values.mean()), "bias": float(deviation.mean()),
                "bias_se": float(values.std(ddof=1)) / math.sqrt(len(values)),
                "bias_percent": float(deviation.mean()) * percent, "sd": float(values.std(ddof=1)), "rmse": rmse,
                "rmse_percent": rmse * percent,
                "mean_se": math.sqrt(float(error[known].square().mean())) if count else math.nan, "coverage": hits,
                "coverage_se": math.sqrt(hits * (1 - hits) / count) if count else math.nan, "count": count,
            }
        )  # fmt: skip
    return pd.DataFrame(rows, index=scalars.names)
