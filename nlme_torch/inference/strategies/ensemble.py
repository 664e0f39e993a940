"""Several fits whose predictions are averaged."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.method_arguments import check_fit
from nlme_torch.inference.fitting.result import Fit

if TYPE_CHECKING:
    from nlme_torch.data import Dataset


@dataclass(frozen=True, init=False)
class Ensemble:
    r"""Fits of the same subjects, predicting together.

    .. math:: \bar f(t) = \frac1K \sum_k f_k(t), \qquad s(t)^2 = \frac{1}{K - 1} \sum_k (f_k(t) - \bar f(t))^2

    Networks from different initial weights agree where data speak and differ where they do not: the mean predicts
    better than a fit on its own, and the spread s says where the networks were left to themselves. It is no interval
    for the truth: what all fits get wrong, none shows.

    Attributes:
        fits: The fits.

    Raises:
        FitError: Fewer than two fits, or fits of different outcomes.

    Example:
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> fits = [nlme.fit(model, data, method, progress=False) for method in (nlme.FO(), nlme.FOCEI())]
        >>> list(nlme.Ensemble(fits).predict([2.0, 30.0]).columns)
        ['id', 'time', 'outcome', 'PRED', 'PRED_sd', 'IPRED', 'IPRED_sd']
    """

    fits: tuple[Fit, ...]

    def __init__(self, fits: Iterable[Fit]) -> None:
        members = tuple(fits) if isinstance(fits, Iterable) else (fits,)
        for member in members:
            check_fit("Ensemble", member)
        if len(members) < 2:
            raise FitError(f"Ensemble needs at least two fits, got {len(members)}.")
        first = members[0].data
        for member in members[1:]:
            if set(member.data.outputs) != set(first.outputs):
                raise FitError(f"Ensemble: one fit predicts {first.outputs}, another {member.data.outputs}.")
        object.__setattr__(self, "fits", members)

    def predict(self, times: Any) -> pd.DataFrame:
        """Predict the fitted subjects at new times.

        Args:
            times: Times common to all subjects, or a mapping from subject id to times (data's time unit).

        Returns:
            For every subject, time and outcome the mean of PRED and IPRED over the fits, and their standard deviations.

        Raises:
            FitError: The fits are of different subjects; individual predictions of these have no common meaning.
        """
        first = self.fits[0].data
        if any(fit.data.subjects != first.subjects for fit in self.fits):
            raise FitError("the fits are of different subjects; predict others with Ensemble.individualise(data).")
        return _averaged([fit.predict(times) for fit in self.fits], ["id", "time", "outcome"])

    def individualise(self, data: "Dataset", starts: int = 6, seed: int = 0) -> pd.DataFrame:
        """Predict other subjects, whose random effects every fit finds for itself.

        Args:
            data: Subjects the fits have not seen, or later observations.
            starts: Starting points per subject and fit.
            seed: Seed of those starting points.

        Returns:
            For every observation its row, id, time, outcome and DV, and predictions as from :meth:`predict`.
        """
        tables = [fit.individualise(data, starts, seed).predictions for fit in self.fits]
        return _averaged(tables, ["row", "id", "time", "outcome", "DV"])


def _averaged(tables: list[pd.DataFrame], keys: list[str]) -> pd.DataFrame:
    """Mean and standard deviation of the predictions, rows in the order of the tables."""
    result = tables[0][keys].copy()
    for name in ("PRED", "IPRED"):
        columns = pd.concat([table[name] for table in tables], axis=1)
        result[name], result[f"{name}_sd"] = columns.mean(axis=1, skipna=False), columns.std(axis=1, skipna=False)
    return result
