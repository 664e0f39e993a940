"""Cross-validation over subjects: how well candidate models predict subjects that they were not fitted to."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from nlme_torch.errors import FitError, NLMEError
from nlme_torch.inference.estimates.estimation import FitMethod
from nlme_torch.inference.estimates.method_arguments import check_method
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.fitting.fit import fit
from nlme_torch.inference.likelihood.likelihood import LikelihoodMethod, check_likelihood
from nlme_torch.inference.progress import progress_line
from nlme_torch.inference.validation.held_out import held_out
from nlme_torch.model.declare.arguments import check_data
from nlme_torch.model.declare.model import Model
from nlme_torch.settings import check_values
from nlme_torch.solve import Solver

if TYPE_CHECKING:
    from nlme_torch.data import Dataset

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CrossValidation:
    """What cross-validation found; it prints as a table.

    Attributes:
        table: One row per candidate: held_out, -2LL of all subjects, each by the fit that had not seen it; training,
            -2LL of the fitted subjects, averaged over the folds and brought to the same number of subjects;
            difference, held_out above that of the best candidate, with its standard error over subjects; failed,
            folds without a value; seconds.
        subjects: One row per candidate and subject: candidate, fold, id, log_likelihood (held out).
        best: The candidate with the lowest held-out -2LL; None if no candidate was finished.
        status: ``COMPLETED``, or ``INTERRUPTED``: folds that were not fitted have NaN, and so have their candidates.
    """

    table: pd.DataFrame
    subjects: pd.DataFrame
    best: Any
    status: Status = Status.COMPLETED

    def __str__(self) -> str:
        text = self.table.to_string(float_format=lambda value: f"{value:.2f}")
        if self.status is Status.INTERRUPTED:
            text += "\ninterrupted: some folds were not fitted"
        if self.best is None:
            return text
        text += f"\nbest for subjects not fitted: {self.best}"
        position = int(self.table["training"].fillna(math.inf).argmin())
        gap, error = self.table[["difference", "standard_error"]].iloc[position]
        if gap > 2 * error:
            text += f"; {self.table.index.tolist()[position]} fits its own subjects better and is over-fitted"
        return text

    __repr__ = __str__


def cross_validate(
    model: Model | Callable[[Any], Model],
    data: "Dataset",
    method: FitMethod | None = None,
    *,
    candidates: Sequence[Any] | None = None,
    folds: int = 5,
    seed: int = 0,
    likelihood: LikelihoodMethod | None = None,
    solver: Solver | str | None = None,
    progress: bool = True,
) -> CrossValidation:
    r"""Compare candidate models by the likelihood of subjects that were left out of the fit.

    .. math:: CV = -2 \sum_{i} \log p\big(y_i \mid \hat\theta^{(-\text{fold of } i)}\big)

    Args:
        model: A function from a candidate to a model, or, without candidates, one model.
        data: The data set; whole subjects are left out.
        method: An estimation method; ``SAEM()`` if None.
        candidates: What is compared: strengths of a prior, numbers of hidden units, names.
        folds: Parts that the subjects are dealt into at random, the same for all candidates; as many as there are
            subjects leaves one out at a time.
        seed: Seed of the parts and of every fit.
        likelihood: How the likelihood of left-out subjects is computed, see :func:`nlme.held_out`.
        solver: How differential equations are solved; ``Auto()`` if None or "auto".
        progress: Whether to show one tqdm line over all fits.

    Returns:
        The table, the best candidate, the likelihood of every subject. A fit that fails counts as an infinite -2LL.

    Raises:
        FitError: Fewer than two folds, more folds than subjects, or no candidate could be fitted in all folds.

    Example:
        >>> import nlme_torch as nlme
        >>> data = nlme.examples.theophylline().subset([1, 2, 3, 4, 5, 6])
        >>> models = {"mean": nlme.examples.TheophyllineClosedForm}
        >>> found = nlme.cross_validate(
        ...     lambda name: models[name](), data, nlme.FO(), candidates=["mean"], folds=2,
        ...     likelihood=nlme.FO(), progress=False,
        ... )
        >>> found.best, found.subjects.shape
        ('mean', (6, 4))

    References:
        Colby and Bair (2013), Cross-validation for nonlinear mixed effects models. doi:10.48550/arXiv.1304.2828
    """
    check_data("cross_validate", data)
    check_method("cross_validate", method, ("estimate",), "nlme.FOCEI()")
    check_likelihood("cross_validate: likelihood", likelihood)
    check_values("cross_validate", FitError, folds=(folds, int), seed=(seed, int))
    if not 2 <= folds <= data.n_subjects:
        raise FitError(f"cross_validate: {folds} folds of {data.n_subjects} subjects; choose 2 to {data.n_subjects}.")
    named = {type(model).__name__: model} if isinstance(model, Model) else {}
    if not named:
        if candidates is None or not len(candidates) or isinstance(model, Model):
            raise FitError("cross_validate: a function of candidates needs candidates=[...] to be called with.")
        if len(set(map(str, candidates))) < len(candidates):
            raise FitError(f"cross_validate: two candidates are the same: {list(candidates)}.")
        named = {candidate: model(candidate) for candidate in candidates}
    elif candidates is not None:
        raise FitError(
            "cross_validate: candidates need a function that makes a model of each, such as "
            "lambda strength: MyModel(prior=nlme.L2(strength))."
        )
    parts = _deal(data.subjects, folds, seed)
    rows, tables, interrupted = [], [], False
    with progress_line(len(named) * folds, "cross-validation", progress) as line:
        for name, candidate in named.items():
            begun, training, failed = time.perf_counter(), 0.0, 0
            for number, part in enumerate(parts, start=1):
                left = set(part)
                kept = data.subset(subject for subject in data.subjects if subject not in left)
                held = data.subset(part)
                values: Any = math.nan
                try:
                    if interrupted:
                        raise KeyboardInterrupt
                    found = fit(
                        candidate, kept, method, seed=seed, solver=solver, likelihood=likelihood, progress=False
                    )
                    if found.status is Status.INTERRUPTED:
                        raise KeyboardInterrupt
                    values = held_out(found, held, likelihood, seed=seed).subjects["log_likelihood"].to_numpy()
                    training += found.minus2ll * data.n_subjects / kept.n_subjects / folds
                except KeyboardInterrupt:
                    interrupted, training = True, math.nan
                except NLMEError as error:
                    _log.warning("cross_validate: candidate %s failed in fold %d: %s", name, number, error)
                    values, failed, training = -math.inf, failed + 1, math.inf
                tables.append(
                    pd.DataFrame({"candidate": name, "fold": number, "id": held.subjects, "log_likelihood": values})
                )
                line.advance("cross-validation")
            seconds = time.perf_counter() - begun
            rows.append({"candidate": name, "training": training, "failed": failed, "seconds": seconds})
    subjects = pd.concat(tables, ignore_index=True)
    status = Status.INTERRUPTED if interrupted else Status.COMPLETED
    if subjects["log_likelihood"].isna().all():
        raise KeyboardInterrupt  # nothing stands yet
    return _summarise(pd.DataFrame(rows).set_index("candidate"), subjects, status)


def _deal(subjects: Sequence[Any], folds: int, seed: int) -> list[list[Any]]:
    """Subjects in random parts whose sizes differ by one at most, each in the table's order."""
    order = torch.randperm(len(subjects), generator=torch.Generator().manual_seed(seed)).tolist()
    return [[subjects[index] for index in sorted(order[part::folds])] for part in range(folds)]


def _summarise(table: pd.DataFrame, subjects: pd.DataFrame, status: Status) -> CrossValidation:
    """Add held-out values and paired differences from the best."""
    values = -2 * subjects.pivot(index="id", columns="candidate", values="log_likelihood")[list(table.index)]
    table.insert(0, "held_out", values.sum(skipna=False))
    known = table["held_out"] < math.inf
    if not known.any() and status is Status.INTERRUPTED:
        table.insert(2, "difference", math.nan)
        table.insert(3, "standard_error", math.nan)
        return CrossValidation(table, subjects, None, status)
    if not known.any():
        raise FitError("cross_validate: no candidate could be fitted in every fold; the log says why.")
    best = table.index.tolist()[int(table["held_out"].where(known, math.inf).argmin())]
    differences = values.sub(values[best], axis=0)
    error = differences.where(differences.abs() < math.inf).std() * math.sqrt(len(values))
    table.insert(2, "difference", table["held_out"] - table["held_out"][best])
    table.insert(3, "standard_error", error)
    return CrossValidation(table, subjects, best, status)
