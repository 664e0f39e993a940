"""The observations of an outcome beside many simulated ones, with what they are shown against and divided by."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from nlme_torch._typing import Float
from nlme_torch.data.dosing.doses import DoseKind
from nlme_torch.errors import DataError
from nlme_torch.inference import Fit
from nlme_torch.inference.residuals.limits import quantification_limits
from nlme_torch.model.density.density import Density
from nlme_torch.model.density.replicates import draw_replicates

Strata = str | Sequence[str] | None

TIME, AFTER_DOSE, DOSE = "time", "time after dose", "dose"

LEVELS = 5
"""Distinct values up to which each is a stratum; a covariate with more is cut at its median over subjects."""


@dataclass(frozen=True)
class SimulatedObservations:
    """Data and simulations of one outcome.

    Attributes:
        table: One row per observation: row, id, x, DV, CENS, PRED, stratum; lower and upper, the limits of
            quantification.
        simulated: ``(observation, replicate)`` [outcome's unit].
        lost: Simulations of single subjects whose equations could not be solved.
    """

    table: pd.DataFrame
    simulated: Float[np.ndarray, "observation replicate"]
    lost: int


def simulated_observations(
    fit: Fit, outcome: str, simulations: int, seed: int, against: str = TIME, stratify: Strata = None
) -> SimulatedObservations:
    """Simulate every observation of an outcome, random effects included.

    Args:
        fit: A fit.
        outcome: Name of the outcome.
        simulations: Replicates of the data set.
        seed: Of the simulations.
        against: ``"time"``, ``"time after dose"``, or a column of the user's table.
        stratify: Columns of the user's table, or ``"dose"``, the subject's first amount.

    Raises:
        DataError: A column is unknown.
        ModelError: The outcome cannot be drawn.
    """
    density = fit.density
    batch, place = density.batch, density.batch.outcomes[outcome]
    record, subject = torch.nonzero(place.mask & (batch.rows >= 0), as_tuple=True)
    order = torch.argsort(batch.rows[record, subject], stable=True)
    at = record[order], subject[order]
    drawn = draw_replicates(density, simulations, [outcome], seed)
    limits = quantification_limits(place)
    with torch.no_grad():
        zero = density.at().mean.new_zeros(fit.model.n_effects, 1, 1, batch.n_subjects)
        expected = density.at().observe(zero)[0][outcome].mean.expand(batch.n_records, 1, 1, batch.n_subjects)
    columns = {"DV": place.value, "PRED": expected[:, 0, 0], "lower": limits.lower, "upper": limits.upper}
    codes = torch.zeros_like(batch.rows) if place.censoring is None else place.censoring
    table = pd.DataFrame(
        {
            "row": batch.rows[at].numpy(force=True),
            "id": [batch.subjects[index] for index in at[1].tolist()],
            "CENS": codes[at].numpy(force=True),
            **{name: value[at].numpy(force=True) for name, value in columns.items()},
        }
    )
    positions = tuple(index.numpy(force=True) for index in at)
    table["x"] = abscissa(fit, density, positions, table["row"].to_numpy(), against)
    table["stratum"] = strata(fit, density, positions[1], table["row"].to_numpy(), stratify)
    return SimulatedObservations(table, drawn.complete(outcome).permute(0, 2, 1)[at].numpy(force=True), drawn.lost)


def abscissa(
    fit: Fit, density: Density, at: tuple[NDArray[np.int64], ...], rows: NDArray[np.int64], against: str
) -> NDArray[np.float64]:
    """Return what observations are shown against.

    Args:
        fit: A fit.
        density: Its model, joined to its data.
        at: Record and subject of every observation.
        rows: Rows of the user's table.
        against: See :func:`simulated_observations`.

    Raises:
        DataError: The column is unknown or holds no numbers.
    """
    batch = density.batch
    if against in (TIME, AFTER_DOSE):
        times = batch.times if batch.time_shift is None or against == AFTER_DOSE else batch.times - batch.time_shift
        if against == AFTER_DOSE:
            if batch.doses is None:
                raise DataError("against='time after dose' needs doses, and the data have none.")
            given = torch.where(batch.doses.kind != int(DoseKind.NONE), batch.times, -torch.inf).cummax(0).values
            times = times - torch.where(torch.isfinite(given), given, batch.times[:1])
        return times.numpy(force=True)[at]
    frame = fit.data.frame
    if against not in frame:
        raise DataError(f"against={against!r} is neither 'time', 'time after dose' nor a column of the table.")
    values = pd.to_numeric(frame[against], errors="coerce").to_numpy(dtype=float)[rows]
    if np.isnan(values).any():
        raise DataError(f"against={against!r}: the column has no number in {int(np.isnan(values).sum())} rows.")
    return values


def strata(
    fit: Fit, density: Density, subjects: NDArray[np.int64], rows: NDArray[np.int64], stratify: Strata
) -> NDArray[np.object_]:
    """Return the stratum of every observation as a text, empty where there is one only.

    Args:
        fit: A fit.
        density: Its model, joined to its data.
        subjects: Subject of every observation.
        rows: Rows of the user's table.
        stratify: See :func:`simulated_observations`.

    Raises:
        DataError: A column is unknown.
    """
    names = [stratify] if isinstance(stratify, str) else list(stratify or ())
    frame, texts = fit.data.frame, np.full(len(rows), "", dtype=object)
    for name in names:
        if name in frame:
            values = frame[name].to_numpy()[rows]
        elif name == DOSE and density.batch.doses is not None:
            given = (density.batch.doses.kind != int(DoseKind.NONE)).int()
            amount = density.batch.doses.amount.gather(0, given.argmax(0)[None])[0]
            values = amount.numpy(force=True)[subjects]
        else:
            raise DataError(f"stratify={name!r} is no column of the table; it has {', '.join(map(str, frame))}.")
        parts = _levels(name, pd.Series(values), subjects)
        texts = np.array([", ".join(filter(None, pair)) for pair in zip(texts, parts, strict=True)], dtype=object)
    return texts


def _levels(name: str, values: pd.Series, subjects: NDArray[np.int64]) -> list[str]:
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.isna().any() or numbers.nunique() <= LEVELS:
        return [f"{name} {value:g}" if isinstance(value, float | int) else f"{name} {value}" for value in values]
    middle = numbers.groupby(subjects).first().median()
    return [f"{name} <= {middle:.4g}" if value <= middle else f"{name} > {middle:.4g}" for value in numbers]
