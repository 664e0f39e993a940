"""Several initialisations of the networks; the one that predicts other subjects best is kept."""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch

from nlme_torch.errors import FitError
from nlme_torch.inference.estimates.estimation import FitMethod
from nlme_torch.inference.estimates.method_arguments import check_method
from nlme_torch.inference.estimates.status import Status
from nlme_torch.inference.fitting.fit import fit
from nlme_torch.inference.fitting.result import Fit
from nlme_torch.inference.likelihood.likelihood import LikelihoodMethod, check_likelihood
from nlme_torch.inference.optimise.early_stopping import pooled_log_likelihood
from nlme_torch.inference.pooled.pooled import Pooled
from nlme_torch.inference.validation.held_out import held_out
from nlme_torch.model.covariates.levels import learn_levels
from nlme_torch.model.declare.arguments import check_arguments
from nlme_torch.model.declare.model import Model
from nlme_torch.model.declare.values import assign, parameter_values
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.network_scales import set_awaited_scales
from nlme_torch.settings import check_values
from nlme_torch.solve import Solver, choose_solver

if TYPE_CHECKING:
    from nlme_torch.data import Dataset


@dataclass(frozen=True)
class Multistart:
    """What several initialisations led to; it prints as a table.

    Attributes:
        table: One row per start, the best first: warm_up and warm_up_held_out, pooled -2LL of the fitted and of the
            held-out subjects after the warm-up; training and held_out, -2LL of the finished fits, NaN for starts that
            were given up after the warm-up.
        fits: The finished fits, the best first; :class:`nlme.Ensemble` averages them. An interrupted one is the last.
        status: ``COMPLETED``, or ``INTERRUPTED``: not all starts were fitted.
    """

    table: pd.DataFrame
    fits: tuple[Fit, ...]
    status: Status = Status.COMPLETED

    @property
    def best(self) -> Fit:
        """The fit with the highest held-out likelihood, of the subjects that were not held out."""
        return self.fits[0]

    def __str__(self) -> str:
        text = self.table.to_string(float_format=lambda value: f"{value:.2f}", na_rep="")
        return text if self.status is Status.COMPLETED else f"{text}\ninterrupted: not all starts were fitted"

    __repr__ = __str__


def multistart(
    model: Model,
    data: "Dataset",
    method: FitMethod | None = None,
    *,
    starts: int = 8,
    keep: int = 2,
    hold_out: float | int = 0.25,
    warm_up: Pooled | None = None,
    seed: int = 0,
    likelihood: LikelihoodMethod | None = None,
    solver: Solver | str | None = None,
    progress: bool = True,
) -> Multistart:
    """Fit from several initial weights and compare the results on subjects that were held out.

    All starts are warmed up by a pooled fit in one batch; those whose typical subject predicts the held-out subjects
    best are fitted by the method, one after the other. Refit the best to all data by
    ``nlme.fit(found.best.model, data, method)``.

    Args:
        model: The model; the first start has its own weights, the others draw new ones.
        data: The data set.
        method: An estimation method; ``SAEM()`` if None.
        starts: Number of initialisations.
        keep: How many are fitted after the warm-up.
        hold_out: Share (float) or number (int) of the subjects that are held out.
        warm_up: The pooled fit; ``Pooled()`` if None.
        seed: Seed of the split, of the initial weights and of every fit.
        likelihood: How held-out likelihoods are computed, see :func:`nlme.held_out`.
        solver: How differential equations are solved; ``Auto()`` if None or "auto".
        progress: Whether to show a progress line for every fit.

    Returns:
        The fits, the best first.

    Raises:
        FitError: The model has no network, or ``keep`` does not lie between 1 and ``starts``.

    Example:
        >>> import nlme_torch as nlme
        >>> data = nlme.examples.indirect_response_data(4, seed=1)
        >>> found = nlme.multistart(
        ...     nlme.examples.TargetedNetwork(), data, nlme.Pooled(steps=5), starts=3, keep=1,
        ...     warm_up=nlme.Pooled(steps=5), solver=nlme.RK4(steps=4), progress=False,
        ... )
        >>> found.table.shape, found.best.data.n_subjects
        ((3, 4), 3)
    """
    check_arguments("multistart", model, data, seed)
    check_method("multistart", method, ("estimate",), "nlme.SAEM()")
    check_likelihood("multistart: likelihood", likelihood)
    if not model.has_network:
        raise FitError("multistart draws new weights for networks, and the model has none; use SAEM(starts=...).")
    check_values(
        "multistart", FitError, starts=(starts, int), keep=(keep, int), hold_out=(hold_out, float),
        warm_up=(warm_up, Pooled | None),
    )  # fmt: skip
    if not 1 <= keep <= starts:
        raise FitError(f"multistart: keep={keep} must lie between 1 and starts={starts}.")
    train, held = data.split(test=hold_out, seed=seed)
    used = choose_solver(solver)
    own = copy.deepcopy(model)
    learn_levels(own, train.batch())
    density, other = Density(own, train.batch(), used), Density(own, held.batch(), used)
    set_awaited_scales(density)
    drawn = [parameter_values(own)]
    drawn += [parameter_values(copy.deepcopy(own).initialise(1000 * seed + start)) for start in range(1, starts)]
    values = {name: torch.cat([one[name] for one in drawn]) for name in drawn[0]}
    warm = (warm_up or Pooled()).maximise(density, values)
    table = pd.DataFrame(
        {
            "warm_up": -2 * pooled_log_likelihood(density, warm).numpy(force=True),
            "warm_up_held_out": -2 * pooled_log_likelihood(other, warm).numpy(force=True),
            "training": torch.nan,
            "held_out": torch.nan,
        },
        index=pd.RangeIndex(starts, name="start"),
    )
    fits: dict[int, Fit] = {}
    status = Status.COMPLETED
    for start in table["warm_up_held_out"].sort_values().index[:keep]:
        assign(own, warm, int(start))
        try:
            found = fit(own, train, method, seed=seed, solver=solver, likelihood=likelihood, progress=progress)
            fits[int(start)] = found
            table.loc[start, "training"] = found.minus2ll
            if found.status is Status.INTERRUPTED:
                raise KeyboardInterrupt
            table.loc[start, "held_out"] = held_out(found, held, likelihood, seed=seed).minus2ll
        except KeyboardInterrupt:
            if not fits:
                raise
            status = Status.INTERRUPTED
            break
    table = table.sort_values(["held_out", "warm_up_held_out"])
    return Multistart(table, tuple(fits[start] for start in table.index if start in fits), status)
