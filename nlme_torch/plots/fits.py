"""Individual fits: what was observed and what the model predicts, subject by subject."""

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nlme_torch.diagnostics.fit_curves import fit_curves
from nlme_torch.diagnostics.individual_bands import individual_bands
from nlme_torch.diagnostics.residuals import observed_rows
from nlme_torch.errors import FitError
from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.method_arguments import check_fit
from nlme_torch.plots.figures import Labels, figure_of, fitting, label, note, panels, shared_legend, with_units
from nlme_torch.plots.style import INDIVIDUAL, OBSERVED, TYPICAL, styled

MOST_SUBJECTS = 40
"""Panels that one page can show."""


@styled
def fits(
    fit: Fit,
    subjects: Iterable[Any] | None = None,
    columns: int = 4,
    *,
    outcomes: Iterable[str] | None = None,
    log: bool = False,
    points: int = 100,
    band: float | None = None,
    labels: Labels = None,
    ax: Axes | None = None,
) -> Figure:
    """Plot observations, individual and population predictions over time, one panel per subject and outcome.

    Args:
        fit: A fit.
        subjects: Ids; the first 40 if None.
        columns: Subjects in a row.
        outcomes: Names of outcomes; all if None.
        log: Whether the ordinate is logarithmic; what is not positive is then left out.
        points: Times per curve.
        band: Level of a band around the individual curve, from the subject's conditional distribution; None: no band.
        labels: What to write for ``"time"`` and for outcomes, e.g. ``{"time": "time (h)", "conc":
            "theophylline (mg/L)"}``.
        ax: Axes to draw in, for a single subject and outcome.

    Returns:
        The figure.

    Raises:
        DataError: A subject or an outcome is unknown.
        FitError: ``ax`` is given for several panels.

    Example:
        >>> import nlme_torch as nlme
        >>> model, data = nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline()
        >>> short = nlme.SAEM(schedule=nlme.StepSchedule(exploration=5, smoothing=5))
        >>> fit = nlme.fit(model, data, short, progress=False)
        >>> len(nlme.plots.fits(fit, subjects=[1, 2, 3]).axes)
        3
    """
    check_fit("fits", fit)
    labels = with_units(fit, labels)
    asked = fit.data.subjects if subjects is None else fit.data.subset(subjects).subjects
    shown = asked[:MOST_SUBJECTS] if subjects is None else asked
    names = list(fit.data.outputs if outcomes is None else outcomes)
    curves = fit_curves(fit, shown, points)
    if band is not None:
        bands = individual_bands(fit, shown, points, level=band)
        curves = curves.merge(bands, on=["id", "time", "outcome"], how="left")
    observed = {name: _with_censoring(fit, observed_rows(fit, name), name) for name in names}
    count = len(shown) * len(names)
    if ax is not None:
        if count > 1:
            raise FitError(f"ax= holds one panel, but {count} were asked for; name one subject and one outcome.")
        figure, axes = figure_of(ax), [ax]
    else:
        figure, axes = _layout(len(shown), names, columns)
    for position, subject in enumerate(shown):
        for row, name in enumerate(names):
            panel = axes[position * len(names) + row]
            curve = curves[(curves["id"] == subject) & (curves["outcome"] == name)]
            _panel(panel, curve, observed[name][observed[name]["id"] == subject], log, band)
            title = f"subject {subject}" if len(names) == 1 else f"subject {subject}: {name}"
            panel.set_title(title, fontsize=fitting(title, 2.2, 9.5))
            if ax is not None or panel.get_subplotspec().is_first_col():  # type: ignore[union-attr]
                panel.set_ylabel(label(name, labels))
            lowest = position >= len(shown) - columns and row == len(names) - 1
            panel.tick_params(labelbottom=lowest or ax is not None)
            if lowest or ax is not None:
                panel.set_xlabel(label("time", labels))
    if ax is not None:
        ax.legend()
        return figure
    for row in range(len(names)):
        _share(axes[row :: len(names)], y=True)
    _share(axes, y=False)
    shared_legend(figure, axes)
    if len(shown) < len(asked):
        note(figure, f"first {len(shown)} of {len(asked)} subjects")
    return figure


def fit_pages(
    fit: Fit,
    subjects: Iterable[Any] | None = None,
    columns: int = 4,
    *,
    rows: int = 3,
    outcomes: Iterable[str] | None = None,
    log: bool = False,
    points: int = 100,
    band: float | None = 0.9,
    labels: Labels = None,
) -> Iterator[Figure]:
    """Plot individual fits of any number of subjects, one figure after the other.

    Args:
        fit: A fit.
        subjects: Ids; all if None.
        columns: Subjects in a row.
        rows: Subjects below each other on a page.
        outcomes: Names of outcomes; all if None.
        log: Whether the ordinate is logarithmic.
        points: Times per curve.
        band: Level of a band around the individual curve; None: no band.
        labels: As in :func:`fits`.

    Yields:
        A figure per page; close it before the next where there are many.

    Raises:
        DataError: A subject or an outcome is unknown.
    """
    check_fit("fit_pages", fit)
    shown = fit.data.subjects if subjects is None else fit.data.subset(subjects).subjects
    names = None if outcomes is None else list(outcomes)
    for start in range(0, len(shown), columns * rows):
        page = shown[start : start + columns * rows]
        figure = fits(fit, page, columns, outcomes=names, log=log, points=points, band=band, labels=labels)
        if len(page) < len(shown):
            note(figure, f"subjects {start + 1} to {start + len(page)} of {len(shown)}")
        yield figure


def _layout(subjects: int, names: list[str], columns: int) -> tuple[Figure, list[Axes]]:
    """Panels ordered by subject and outcome; the outcomes of a subject stand below each other."""
    across = min(columns, subjects)
    blocks = -(-subjects // across)
    count = blocks * across * len(names)
    figure, grid = panels(count, across)
    ordered = []
    for position in range(blocks * across):
        block, column = divmod(position, across)
        for row in range(len(names)):
            panel = grid[(block * len(names) + row) * across + column]
            if position < subjects:
                ordered.append(panel)
            else:
                panel.remove()
    return figure, ordered


def _with_censoring(fit: Fit, observed: pd.DataFrame, name: str) -> pd.DataFrame:
    """Add CENS to observations, from the data."""
    batch = fit.density.batch
    code = batch.outcomes[name].censoring
    if code is None:
        return observed.assign(CENS=0)
    seen = batch.outcomes[name].mask
    marks = pd.Series(code[seen].numpy(force=True), index=batch.rows[seen].numpy(force=True))
    return observed.assign(CENS=observed["row"].map(marks).to_numpy())


def _panel(ax: Axes, curve: pd.DataFrame, observed: pd.DataFrame, log: bool, band: float | None) -> None:
    if log:
        # a point at minus infinity would be part of the layout
        curve, observed = curve[(curve["PRED"] > 0) & (curve["IPRED"] > 0)], observed[observed["DV"] > 0]
        ax.set_yscale("log")
    time, typical, individual = curve["time"], curve["PRED"], curve["IPRED"]
    known = observed[observed["CENS"] == 0]
    ax.plot(known["time"], known["DV"], "o", color=OBSERVED, markersize=3.5, label="observed", zorder=3)
    for side, marker, text in ((1, "v", "below the limit"), (-1, "^", "above the limit")):
        part = observed[observed["CENS"] == side]
        if len(part):
            ax.plot(
                part["time"], part["DV"], marker, markerfacecolor="white", markeredgecolor=OBSERVED, markersize=4.5,
                linestyle="none", label=text, zorder=3,
            )  # fmt: skip
    if band is not None:
        ax.fill_between(
            time, curve["lower"], curve["upper"], color=INDIVIDUAL, alpha=0.2, linewidth=0,
            label=f"{100 * band:g} % of the conditional distribution",
        )  # fmt: skip
    ax.plot(time, individual, color=INDIVIDUAL, label="IPRED (individual)")
    ax.plot(time, typical, color=TYPICAL, linestyle=(0, (4, 2)), linewidth=1.2, label="PRED (typical)")


def _share(axes: list[Axes], *, y: bool) -> None:
    """Give panels the same limits, and tick labels only where they are not repeated."""
    spans = [panel.get_ylim() if y else panel.get_xlim() for panel in axes]
    low, high = min(span[0] for span in spans), max(span[1] for span in spans)
    for panel in axes:
        if y:
            panel.set_ylim(low, high)
            panel.tick_params(labelleft=panel.get_subplotspec().is_first_col())  # type: ignore[union-attr]
        else:
            panel.set_xlim(low, high)
