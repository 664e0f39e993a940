r"""Kaplan-Meier curves of the first event beside those of simulated data sets.

A simulated event happens when the cumulative hazard, solved on a fine grid for all subjects and replicates at once,
passes an exponential variable. A subject is followed until it was censored; one with an event until a time drawn from
the Kaplan-Meier estimate of censoring, given that it is later than the event.

References:
    Kaplan and Meier (1958), Nonparametric estimation from incomplete observations. doi:10.1080/01621459.1958.10501452
"""

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from nlme_torch._typing import Float
from nlme_torch.diagnostics.simulated_observations import Strata, strata
from nlme_torch.inference import Fit
from nlme_torch.model.density.density import Density
from nlme_torch.model.observation import IntervalCensoredEvent

GRID = 200
"""Times between which the hazard is taken to be constant."""

SHOWN = 101
"""Times at which the curves are compared."""


def kaplan_meier(
    time: Float[np.ndarray, "subject *replicate"], event: ArrayLike, at: ArrayLike
) -> Float[np.ndarray, "time *replicate"]:
    r"""Return the Kaplan-Meier estimate of the probability to be without an event.

    .. math:: \hat S(t) = \prod_{t_k \le t} \left(1 - \frac{d_k}{n_k}\right)

    Args:
        time: Of the event or of censoring; every replicate is a data set.
        event: Whether it was an event, of the same shape.
        at: Where to estimate, ``(time,)``.

    Example:
        >>> import numpy as np
        >>> from nlme_torch.diagnostics import kaplan_meier
        >>> kaplan_meier(np.array([1.0, 2.0, 3.0]), [True, False, True], [0.5, 1.0, 3.0]).round(4).tolist()
        [1.0, 0.6667, 0.0]
    """
    happened: NDArray[np.bool_] = np.asarray(event, dtype=bool)
    # at equal times events come before censoring
    order = np.lexsort((~happened, time), axis=0)
    times, events = np.take_along_axis(time, order, 0), np.take_along_axis(happened, order, 0)
    risk = np.arange(len(times), 0, -1).reshape(-1, *(1,) * (times.ndim - 1))
    steps = np.concatenate([np.ones_like(times[:1]), np.cumprod(np.where(events, 1 - 1 / risk, 1.0), 0)])
    grid = np.asarray(at, dtype=float)
    passed = np.stack([(times <= moment).sum(0) for moment in grid])
    return np.take_along_axis(steps, passed, 0)


def survival_check(
    fit: Fit, outcome: str, simulations: int, seed: int, stratify: Strata, level: float
) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Return the curves, every subject's time with whether it was an event, and the number of failed solves.

    Args:
        fit: A fit.
        outcome: Name of the outcome.
        simulations: Number of simulated data sets.
        seed: Of the simulations.
        stratify: As in :func:`nlme_torch.diagnostics.vpc`.
        level: Of the intervals.
    """
    density = fit.density
    batch, place = density.batch, density.batch.outcomes[outcome]
    seen, value = place.mask.numpy(force=True), place.value.numpy(force=True)
    times = batch.times.numpy(force=True)
    event: NDArray[np.bool_] = np.any(seen & (value == 1), axis=0)
    first = np.where(seen & (value == 1), times, np.inf).min(0)
    last = np.where(seen, times, -np.inf).max(0)
    known: NDArray[np.bool_] = np.any(seen, axis=0)
    time = np.where(event, first, last)
    subjects = np.flatnonzero(known)
    rows = batch.rows.numpy(force=True)[np.where(seen, np.arange(len(seen))[:, None], -1).max(0), np.arange(len(known))]
    texts = strata(fit, density, subjects, rows[subjects], stratify)
    numbers = np.random.default_rng(seed)
    simulated, lost = _event_times(fit, density, outcome, simulations, seed, time.max())
    follow = _follow_up(time[subjects], event[subjects], simulations, numbers)
    simulated = simulated[subjects]
    happened = simulated <= follow
    shown = np.minimum(simulated, follow)
    tables = []
    for stratum in sorted(set(texts)):
        here = texts == stratum
        own, own_event = time[subjects][here], event[subjects][here]
        grid = np.unique(np.concatenate([np.linspace(min(times.min(), 0.0), own.max(), SHOWN), own[own_event]]))
        curves = kaplan_meier(shown[here], happened[here], grid)
        low, middle, high = np.quantile(curves, [0.5 - level / 2, 0.5, 0.5 + level / 2], axis=1)
        observed = kaplan_meier(own, own_event, grid)
        risk = (own[None] >= grid[:, None]).sum(1)
        columns = {"x": grid, "observed": observed, "lower": low, "median": middle, "upper": high, "at_risk": risk}
        tables.append(pd.DataFrame({"stratum": stratum, **columns}))
    points = pd.DataFrame(
        {
            "row": rows[subjects],
            "id": [batch.subjects[index] for index in subjects],
            "x": time[subjects],
            "DV": event[subjects].astype(float),
            "stratum": texts,
        }
    )
    return pd.concat(tables, ignore_index=True), points, lost


def _event_times(
    fit: Fit, density: Density, outcome: str, simulations: int, seed: int, end: float
) -> tuple[Float[np.ndarray, "subject replicate"], int]:
    """Times of simulated events, infinite where there is none until the end; and how many could not be solved."""
    batch = density.batch
    start = batch.times[0].numpy(force=True)
    data = fit.data if batch.start is None else fit.data.starting_at(batch.start)
    interval = isinstance(density.at().observe(_zero(density))[0][outcome], IntervalCensoredEvent)
    if not interval:
        wanted = {label: np.linspace(begin, end, GRID) for label, begin in zip(batch.subjects, start, strict=True)}
        density = Density(fit.model, data.with_times(wanted).batch(device=batch.device), fit.solver)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        conditional = density.at()
        observed, solved = conditional.observe(conditional.sample(simulations, generator))
        shape = (density.batch.n_records, simulations, 1, density.batch.n_subjects)
        hazard = observed[outcome].cumulative_hazard.expand(shape)[:, :, 0].numpy(force=True)  # type: ignore[attr-defined]
        good = solved.expand(shape[1:])[:, 0].numpy(force=True)
    level = -np.log(torch.rand(shape[1], shape[3], generator=generator, dtype=torch.float64).numpy())
    times = density.batch.times.numpy(force=True)
    if interval:
        seen = density.batch.outcomes[outcome].mask.numpy(force=True)
        passed = seen[:, None] & (hazard >= level)
        record = passed.argmax(0)
        found = np.where(passed.any(0), times[record, np.arange(shape[3])], np.inf)
    else:
        passed = hazard >= level
        record = passed.argmax(0).clip(1)
        column = np.arange(shape[3])
        low, high = (np.take_along_axis(hazard, (record - back)[None], 0)[0] for back in (1, 0))
        share = ((level - low) / np.maximum(high - low, np.finfo(float).tiny)).clip(0, 1)
        begin, until = times[record - 1, column], times[record, column]
        found = np.where(passed.any(0), begin + share * (until - begin), np.inf)
    # a replicate that was not solved shows no event; there are few, and they are counted
    return np.where(good, found, np.inf).T, int((~good).sum())


def _zero(density: Density) -> torch.Tensor:
    return density.at().mean.new_zeros(density.model.n_effects, 1, 1, density.batch.n_subjects)


def _follow_up(
    time: NDArray[np.float64], event: NDArray[np.bool_], simulations: int, numbers: np.random.Generator
) -> Float[np.ndarray, "subject replicate"]:
    """Until when every subject is followed in every simulated data set."""
    censored = np.unique(time[~event])
    grid = np.append(censored[censored < time.max()], time.max())
    remain = kaplan_meier(time, ~event, grid)
    remain[-1] = 0.0  # nobody is followed beyond the last
    weight = -np.diff(remain, prepend=1.0)
    later = grid[None] >= time[:, None]
    chance = np.cumsum(np.where(later, weight, 0.0), 1)
    total = chance[:, -1:]
    drawn = numbers.uniform(size=(len(time), simulations)) * total
    place = (chance[:, :, None] < drawn[:, None]).sum(1).clip(max=len(grid) - 1)
    return np.where(event[:, None], np.maximum(grid[place], time[:, None]), time[:, None])
